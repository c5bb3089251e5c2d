"""The architectures that can be trained, by config.json alone: nothing heavy is imported."""

import importlib.util
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

WITHOUT_LORA = frozenset(
    """
    AquilaForCausalLM ArcticForCausalLM BaiChuanForCausalLM BaichuanForCausalLM BailingMoeV2_5ForCausalLM
    BailingMoeV3ForCausalLM BambaForCausalLM BloomForCausalLM Cohere2MoeForCausalLM DbrxForCausalLM
    DeepseekV4ForCausalLM Dots1ForCausalLM Fairseq2LlamaForCausalLM FalconForCausalLM FalconMambaForCausalLM
    FuyuForCausalLM GPT2LMHeadModel GPTJForCausalLM Gemma3nForCausalLM Glm5NextForCausalLM Grok1ForCausalLM
    Grok1ModelForCausalLM HCXVisionForCausalLM HCXVisionV2ForCausalLM HrmTextForCausalLM
    IQuestLoopCoderForCausalLM InternLM2VEForCausalLM InternLMForCausalLM JAISLMHeadModel KimiLinearForCausalLM
    MPTForCausalLM Mamba2ForCausalLM MambaForCausalLM MiMoV2FlashForCausalLM MiMoV2ForCausalLM
    MiniMaxForCausalLM MiniMaxM1ForCausalLM MiniMaxM3SparseForCausalLM MiniMaxText01ForCausalLM MotifForCausalLM
    MptForCausalLM OrionForCausalLM OuroForCausalLM PersimmonForCausalLM Phi3SmallForCausalLM
    Phi4FlashForCausalLM Phi4MultimodalForCausalLM Plamo2ForCausalLM QWenLMHeadModel RWForCausalLM
    StableLMEpochForCausalLM StableLmForCausalLM Step1ForCausalLM Step3TextForCausalLM Step3p5ForCausalLM
    TeleChatForCausalLM XverseForCausalLM Zamba2ForCausalLM
""".split()  # noqa: SIM905
)
"""Text models that vLLM runs without LoRA, or no longer runs. A test compares the names with the installed vLLM."""
ATTENTION_LAYERS = ("full_attention", "sliding_attention", "attention")
"""Layer types in a config.json that are softmax attention, which packed passes compute."""
LAYER_LISTS = ("layer_types", "layers_block_type", "block_types", "_block_types")
_KEEPS_ARGUMENTS = "its layers do not pass on which tokens see each other"
_CHUNKS = "its layers cut a string into chunks that do not see each other"
REFUSED = {
    "diffllama": "its layers call attention twice (differential attention)",
    "doge": "its layers add a mask of their own to attention",
    "llama4": _CHUNKS,
    "llama4_text": _CHUNKS,
    "nemotron": _KEEPS_ARGUMENTS,
    "stablelm": _KEEPS_ARGUMENTS,
}
"""Model types that packed passes do not compute for a reason that no field of config.json shows."""


def architecture(config: Mapping[str, Any]) -> str:
    """The class that a config.json names, such as LlamaForCausalLM; empty where it names none."""
    return str(next(iter(config.get("architectures") or ()), ""))


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part of a config.json that describes the language model."""
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) else config


def vllm_has_lora(name: str) -> bool:
    """True if vLLM has LoRA for an architecture; those that it does not list run on its Transformers backend."""
    return name not in WITHOUT_LORA


def packing_problem(config: Mapping[str, Any]) -> str | None:
    """The reason why packed passes cannot compute this model, as a clause; None if its files give no reason."""
    text = text_config(config)
    model_type = str(text.get("model_type") or "")
    if model_type in REFUSED:
        return REFUSED[model_type]
    layers = [kind for name in LAYER_LISTS for kind in text.get(name) or ()]
    other = sorted({str(kind) for kind in layers} - set(ATTENTION_LAYERS))
    if other:
        return f"it has layers that are not softmax attention ({', '.join(other)})"
    if text.get("alibi"):
        return "its attention adds a bias by distance (ALiBi)"
    source = modeling_source(model_type)
    if source is None:
        return None
    if "ssm_state" in source and not layers:
        return "its layers are recurrent or a mixture of recurrent and attention layers"
    if "ALL_ATTENTION_FUNCTIONS" not in source:
        alibi = (
            " with a bias by distance (ALiBi)" if "build_alibi_tensor" in source or "build_mpt_alibi" in source else ""
        )
        return f"it has attention code of its own{alibi}, which cannot be replaced"
    if "s_aux=" in source:
        return "its attention has sinks"
    return _window_problem(text, layers, source)


def _window_problem(text: Mapping[str, Any], layers: Sequence[str], source: str) -> str | None:
    """The reason if the model applies its window by the mask alone: packed passes have a mask of their own."""
    if "create_sliding_window_causal_mask" not in source or "sliding_window=" in source:
        return None
    window, positions = text.get("sliding_window"), text.get("max_position_embeddings")
    if not window or (positions and window >= positions):  # no string is longer than the positions
        return None
    by_layer = "layer_types" in source
    if by_layer and not ("sliding_attention" in layers if layers else text.get("use_sliding_window")):
        return None
    return f"its layers do not ask for their sliding window of {window} tokens"


def has_native_code(config: Mapping[str, Any]) -> bool:
    """True if transformers has code for the model type, so that code in the model's folder is not run."""
    return modeling_source(str(text_config(config).get("model_type") or "")) is not None


@cache
def modeling_source(model_type: str) -> str | None:
    """The source of a model type in the installed transformers, read without an import; None where there is none."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or spec.origin is None or not model_type:
        return None
    name = model_type.replace("-", "_")
    for folder in (name, name.removesuffix("_text")):
        path = Path(spec.origin).parent / "models" / folder / f"modeling_{folder}.py"
        if path.is_file():
            return path.read_text()
    return None
