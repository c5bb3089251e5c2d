"""A base model from its folder, and the proof at load: packed passes equal plain ones."""

from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from buffer.errors import ConfigError
from buffer.types import PolicySpec
from lm.attention import PACKED_ATTENTION, PackedAttention
from lm.from_folder import load_weights
from lm.merge_adapter import merged
from lm.model import PackedModel
from lm.prefix_tree import build_prefix_tree

TOLERANCE = {torch.float32: 0.01}
"""Nats by which a token's packed log-probability may differ from a plain one; a wrong mask is off by more."""
TOLERANCE_16_BIT = 0.5
BRANCH_TOKENS = 6
"""Tokens of each string of the proof, behind the beginning that it shares with the others."""
WINDOWS = {"sliding_window": "sliding_attention", "attention_chunk_size": "chunked_attention"}
"""Fields of a configuration that narrow attention, and the layer type that each is for."""
MAX_PROVED_WINDOW = 4096
"""Tokens. Wider windows, such as Phi-3.5's 262,144, are computed by the same mask where the layers ask for them; a
proof of them would not fit."""
MAX_EAGER_TOKENS = 512
"""Longer plain passes use a kernel that does not keep all scores, where the model allows one."""


def device_of(name: str, gpus: float) -> torch.device:
    """The torch device that a setting names; auto is a GPU where the process has reserved `gpus` of one.

    Without a reservation auto is the CPU, although Ray lets such a process see all GPUs: GPU 0 is another's.
    ConfigError where a GPU is reserved or named and torch can't use it.
    """
    device = torch.device("cpu" if name == "auto" and not gpus else "cuda" if name == "auto" else name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"device = {name!r} with gpus = {gpus:g}, and torch {torch.__version__} can't use a GPU here: the driver "
            "is missing or too old, or this is a build for CPUs. Run `tributary doctor` on this machine, or set device "
            "to cpu and gpus to 0."
        )
    return device


def load_model(spec: PolicySpec, device: torch.device, *, quantized: bool, adapter: Path | None = None) -> Any:
    """The transformers model of `spec.base_model` in `spec.dtype`, with packed attention; proved, without gradients.

    `quantized` loads the weights in `spec.quantization`; `adapter` is a PEFT folder to merge into the weights, such as
    the M-step's. ConfigError where the adapter does not fit, or where packed passes of this model are wrong.
    """
    try:
        model = load_weights(
            AutoModelForCausalLM,
            spec.base_model,
            dtype=getattr(torch, spec.dtype),
            attn_implementation=PACKED_ATTENTION,
            device_map={"": str(device)},
            quantization_config=_quantization(spec) if quantized else None,
        )
    except KeyError as error:  # a model that keeps a table of its own
        raise ConfigError(
            f"{spec.base_model}: its code does not know the attention {error}, which evaluates packed prefixes. "
            "Choose a base model whose attention transformers can replace."
        ) from error
    if adapter is not None:
        model = merged(model, adapter)
    model.eval().requires_grad_(False)
    keep_four_bits_differentiable(model)
    try:
        prove(PackedModel(model, spec.base_model))
    except (AttributeError, TypeError, ValueError, NotImplementedError) as error:  # code that expects a plain pass
        raise ConfigError(
            f"{spec.base_model}: its code cannot run a packed pass ({type(error).__name__}: {error}). "
            "Choose another base model."
        ) from error
    return model


def keep_four_bits_differentiable(model: Any) -> None:
    """Put layers of 4-bit weights into training mode, which changes nothing else in them.

    In eval mode bitsandbytes repacks their weights on some CPUs, at the first pass, for a product whose gradient is
    wrong (0.50.2). Call it after every `eval()`.
    """
    for layer in model.modules():
        if type(layer).__name__ == "Linear4bit":
            layer.training = True


@torch.inference_mode()
def prove(model: PackedModel) -> None:
    """ConfigError unless packed log-probabilities equal those of plain passes.

    Three strings that part at different places, longer than any window in the configuration, are computed in one packed
    pass and one by one by the model's own attention. That sees a window, a cap or a scale that is computed wrongly, and
    layers in which tokens meet outside of attention. A window that is too wide for such strings must be one that the
    layers requested.
    """
    config, vocabulary = model.model.config.get_text_config(), len(model.output.weight)
    rng = np.random.default_rng(0)
    beginning = rng.integers(vocabulary, size=_proof_tokens(config)).astype(np.int32)
    branches = [rng.integers(vocabulary, size=BRANCH_TOKENS).astype(np.int32) for _ in range(3)]
    branches[1][:2] = branches[0][:2]
    tree = build_prefix_tree([beginning] * len(branches), branches)
    with _watched(model) as passes:
        hidden = model.hidden_states(tree.tokens)
    _check_windows(model.name, config, passes[0].windows)
    limit = TOLERANCE.get(model.output.weight.dtype, TOLERANCE_16_BIT)
    for branch, nodes in zip(branches, tree.nodes, strict=True):
        states = hidden[torch.from_numpy(nodes[:-1]).to(hidden.device)]
        tokens = torch.from_numpy(branch).long().to(hidden.device)
        packed = model.output.token_logits(states, tokens) - model.output.log_normaliser(states)
        plain = _plain_log_probs(model.model, np.concatenate([beginning, branch]), len(branch))
        worst = int((packed - plain).abs().argmax())
        if not float((packed - plain).abs()[worst]) <= limit:  # NaN is not within the limit either
            raise ConfigError(
                f"{model.name}: a packed pass gives {float(packed[worst]):.4f} nats where a plain one gives "
                f"{float(plain[worst]):.4f}; they may differ by {limit:g}. Its layers let tokens meet outside of "
                "attention, or its logits are not its output layer's alone. Choose another base model."
            )


@contextmanager
def _watched(model: PackedModel) -> Iterator[list[PackedAttention]]:
    """The attention of each packed pass inside the block, in a list that grows."""
    passes: list[PackedAttention] = []
    hook = model.model.base_model.register_forward_pre_hook(
        lambda _, __, arguments: passes.append(arguments["packed"]), with_kwargs=True
    )
    try:
        yield passes
    finally:
        hook.remove()


def _check_windows(name: str, config: Any, computed: Set[int]) -> None:
    """ConfigError if the configuration narrows attention to a window that is not among `computed`, and a string can be
    longer than it.

    Some models apply their window by the mask alone, which packed attention replaces by its own.
    """
    positions = getattr(config, "max_position_embeddings", None)
    for field, layer_type in WINDOWS.items():
        window, layers = getattr(config, field, None), getattr(config, "layer_types", None)
        narrows = isinstance(window, int) and window > 0 and (positions is None or window < positions)
        if narrows and (layers is None or layer_type in layers) and window not in computed:
            raise ConfigError(
                f"{name}: its configuration has {field} = {window}, and none of its layers asks packed attention for "
                "this window: longer strings would be wrong. Choose another base model."
            )


def _proof_tokens(config: Any) -> int:
    """Tokens of the beginning that the strings of the proof share: more than any window up to MAX_PROVED_WINDOW, and
    within the positions."""
    windows = [getattr(config, name, None) for name in (*WINDOWS, "window_size")]
    longest = max((w for w in windows if isinstance(w, int) and w <= MAX_PROVED_WINDOW), default=0)
    positions = getattr(config, "max_position_embeddings", None) or longest + 2 * BRANCH_TOKENS
    return max(1, min(longest + BRANCH_TOKENS, positions - BRANCH_TOKENS))


def _plain_log_probs(model: Any, token_ids: np.ndarray[Any, np.dtype[np.int32]], n: int) -> Tensor:
    """[n] log-probabilities of the last n tokens, by the attention that the model has in transformers."""
    capped = getattr(model.config.get_text_config(), "attn_logit_softcapping", None) is not None
    model.set_attn_implementation("eager" if capped or len(token_ids) <= MAX_EAGER_TOKENS else "sdpa")
    try:
        text = torch.from_numpy(token_ids).long()[None].to(model.device)
        logits = model(input_ids=text, use_cache=False, logits_to_keep=n + 1).logits[0, -(n + 1) : -1]
    finally:
        model.set_attn_implementation(PACKED_ATTENTION)
    log_p: Tensor = logits.float().log_softmax(-1)
    return log_p.gather(1, text[0, -n:, None])[:, 0]


def _quantization(spec: PolicySpec) -> BitsAndBytesConfig | None:
    """4-bit weights with quantised constants, as in QLoRA; products in the recipe's dtype."""
    if spec.quantization == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=spec.quantization,
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, spec.dtype),
    )
