"""Tiny random models of many architectures, and the table of docs/models.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[2] / "docs" / "models.md"
MAX_DIFFERENCE = 1e-3
"""Nats by which packed and plain log-probabilities of a supported architecture may differ."""

_BASE = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.3,
}  # fmt: skip
_HEADS = _BASE | {"head_dim": 8}
_GPT = {"vocab_size": 64, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "initializer_range": 0.3}
_GPT |= {"bos_token_id": 1, "eos_token_id": 2}
_WINDOW = {"sliding_window": 8}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2}
_QWEN2_MOE = _BASE | _MOE | {"moe_intermediate_size": 32, "shared_expert_intermediate_size": 32}
_FEW = {"vocab_size": 64, "hidden_size": 32}

ARCHITECTURES: Mapping[str, tuple[str, dict[str, Any]]] = {
    "LlamaForCausalLM": ("Llama", _BASE),
    "MistralForCausalLM": ("Mistral", _HEADS | {"sliding_window": 16}),
    "Qwen2ForCausalLM": ("Qwen2", _BASE | {"use_sliding_window": True, "sliding_window": 16, "max_window_layers": 1}),
    "Qwen3ForCausalLM": ("Qwen3", _HEADS),
    "Qwen3MoeForCausalLM": ("Qwen3Moe", _HEADS | _MOE | {"moe_intermediate_size": 32, "decoder_sparse_step": 1}),
    "GemmaForCausalLM": ("Gemma", _HEADS),
    "Gemma2ForCausalLM": (
        "Gemma2",
        _HEADS
        | _WINDOW
        | {"final_logit_softcapping": 1.0, "attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 8},
    ),
    "Gemma3ForCausalLM": ("Gemma3Text", _HEADS | _WINDOW | {"num_hidden_layers": 6}),
    "PhiForCausalLM": ("Phi", _BASE),
    "Phi3ForCausalLM": ("Phi3", _BASE | _WINDOW),
    "GraniteForCausalLM": (
        "Granite",
        _BASE
        | {
            "logits_scaling": 4.0,
            "attention_multiplier": 0.5,
            "residual_multiplier": 0.5,
            "embedding_multiplier": 2.0,
        },
    ),
    "CohereForCausalLM": ("Cohere", _BASE | {"logit_scale": 0.25}),
    "Cohere2ForCausalLM": ("Cohere2", _BASE | _WINDOW | {"sliding_window_pattern": 2, "logit_scale": 0.25}),
    "GPT2LMHeadModel": ("GPT2", _GPT),
    "GPTNeoXForCausalLM": ("GPTNeoX", _BASE),
    "GPTBigCodeForCausalLM": ("GPTBigCode", _GPT),
    "OPTForCausalLM": (
        "OPT",
        {
            "vocab_size": 64, "hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "word_embed_proj_dim": 32,
            "max_position_embeddings": 128, "init_std": 0.3,
        },
    ),
    "OlmoForCausalLM": ("Olmo", _BASE),
    "Olmo2ForCausalLM": ("Olmo2", _BASE),
    "Olmo3ForCausalLM": ("Olmo3", _BASE | _WINDOW),
    "SmolLM3ForCausalLM": ("SmolLM3", _BASE | {"no_rope_layers": [1, 0]}),
    "Starcoder2ForCausalLM": ("Starcoder2", _BASE | _WINDOW),
    "MixtralForCausalLM": ("Mixtral", _BASE | _WINDOW | {"num_local_experts": 2}),
    "DeepseekV3ForCausalLM": (
        "DeepseekV3",
        _BASE
        | {
            "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1,
            "kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8, "moe_intermediate_size": 16,
        },
    ),
    "PhimoeForCausalLM": ("Phimoe", _BASE | {"num_local_experts": 2}),
    "Qwen2MoeForCausalLM": ("Qwen2Moe", _QWEN2_MOE),
    "GPTJForCausalLM": ("GPTJ", _GPT | {"rotary_dim": 8}),
    "FalconForCausalLM": ("Falcon", _FEW | {"num_hidden_layers": 2, "num_attention_heads": 2}),
    "BloomForCausalLM": ("Bloom", _FEW | {"n_layer": 2, "n_head": 2}),
    "MptForCausalLM": ("Mpt", {"vocab_size": 64, "d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 128}),
    "MambaForCausalLM": ("Mamba", _FEW | {"num_hidden_layers": 2, "state_size": 4}),
    "Lfm2ForCausalLM": ("Lfm2", _BASE | {"layer_types": ["conv", "full_attention"]}),
    "GptOssForCausalLM": ("GptOss", _HEADS | _WINDOW | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "StableLmForCausalLM": ("StableLm", _BASE),
    "NemotronForCausalLM": ("Nemotron", _BASE),
    "DogeForCausalLM": ("Doge", _BASE),
    "DiffLlamaForCausalLM": ("DiffLlama", _BASE),
    "Llama4ForCausalLM": ("Llama4Text", _HEADS | {"num_local_experts": 2, "intermediate_size_mlp": 64, "attention_chunk_size": 20}),
}  # fmt: skip
"""The class of config.json -> (its configuration in transformers without "Config", the settings of a tiny one)."""

WINDOW_BY_MASK: Mapping[str, dict[str, Any]] = {
    "PhimoeForCausalLM": {"sliding_window": 20},
    "Qwen2MoeForCausalLM": {"sliding_window": 20, "use_sliding_window": True},
    "DogeForCausalLM": {"sliding_window": 20},
}
"""Architectures that apply a window by the mask alone -> settings that turn it on."""

_INTRODUCTION = """# Base models

<!-- Generated by `python tests/benchmarks/models.py --write`. Do not edit. -->

A base model is trained by LoRA and evaluated on packed prefixes: learner and reward workers compute a
prefix that many strings share once. This works for decoders with softmax attention, with windows, soft
caps, experts and scaled or capped logits. Each row was computed with a tiny random model of the
architecture.

- *Packed passes*: packed and plain passes of learner and frozen model agree within 0.001 nats for every
  token.
- *Max. difference*: the largest difference of any token's log q between packed and plain passes, fp32 on a
  CPU.
- *Speed-up*: CPU time of plain passes over that of the packed one, for 6 strings of 12 tokens behind a
  prompt of 40. Both columns are of one machine; `python tests/benchmarks/models.py` measures them again.
- *LoRA in vLLM*: vLLM can sample from an adapter of this architecture, by the registry of the installed
  vLLM; what that does not list runs on its Transformers backend. Training needs this and packed passes.

vLLM itself was run with Llama models alone: there its log q and the change by an adapter were compared with
the learner's. For every other architecture they are first compared in your run, by the
[canary](architecture.md) of each adapter and by the first samples of each version; no column shows them.

GPT-2 and GPT-J cannot be trained with vLLM, which has no LoRA for them. GPT-2 runs on the simulated engine.
GPT-J does not run at all: its code in transformers computes attention itself, and packed passes cannot
replace it.

A sliding window has to be one that the layers ask for. Phi-MoE and Qwen2-MoE apply theirs by the attention
mask alone, so they are refused with a window narrower than their positions, and run without one.

`tributary validate` refuses the others with the same reason, and every model is proved once more when it is
loaded. Quantised weights are refused: take the whole model, and `model.quantization = "nf4"` for 4 bits on
GPUs. Code in the model's folder (`auto_map`) is not run.
"""


def make_model(name: str, folder: Path, **changes: Any) -> Path:
    """A tiny random model of an architecture, saved in `folder`; `changes` to its settings."""
    import torch
    import transformers

    config_class, settings = ARCHITECTURES[name]
    config = getattr(transformers, f"{config_class}Config")(**settings | changes)
    torch.manual_seed(0)
    getattr(transformers, name)(config).float().save_pretrained(folder)
    return folder


def models_page(rows: Sequence[Mapping[str, Any]]) -> str:
    """docs/models.md, with the figures of this machine."""
    lines = [
        "| architecture | packed passes | max. difference [nats] | speed-up | LoRA in vLLM | reason |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        reason = (row["refused_because"] or "").partition("\n")[0]
        figures = (f"{row['max_difference_nats']:.0e}", f"{row['speedup']:.1f}") if row["supported"] else ("", "")
        cells = (row["architecture"], _yes(row["supported"]), *figures, _yes(row["lora_in_vllm"]), reason)
        lines.append("| " + " | ".join(cells) + " |")
    return f"{_INTRODUCTION}\n" + "\n".join(lines) + "\n"


def split_page(page: str) -> tuple[list[str], list[tuple[float, float]]]:
    """(lines of the page without the figures, [(max. difference [nats], speed-up)] of the supported rows)."""
    lines, figures = [], []
    for line in page.splitlines():
        cells = line.split("|")
        if len(cells) == 8:
            if cells[2].strip() == "yes":
                figures.append((float(cells[3]), float(cells[4])))
            del cells[3:5]
        lines.append("|".join(cells))
    return lines, figures


def _yes(value: bool) -> str:
    return "yes" if value else "no"
