"""The memory of a run's processes, computed from the sizes of a model: pure functions, all results in bytes.

What autograd keeps was counted on real layers of Llama and Qwen models (docs/log.md); a test holds the learner's peak
and the scorer's to measured ones. Layers of other kinds have much the same parts: take the figures as estimates.

Symbols   H hidden size, I width of the MLP, D head size, w bytes of a number (2 in 16 bits, 4 in fp32), r rank.
"""

from dataclasses import dataclass

GIB = 2**30
WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of a number."""
NF4_BYTES = 0.53
"""Bytes of a 4-bit weight with its quantised constants."""
GATHERED_KEYS = 1.5
"""Copies of a token's keys and values that packed attention keeps: 1 to 2, more where prompts are long."""
CUDA_BYTES = GIB // 2
"""The CUDA context of a process: assumed, not measured."""
ENGINE_BYTES = 2 * GIB
"""CUDA graphs, attention workspace and compiled kernels of a vLLM engine on a GPU: assumed, not measured."""


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a base model and its adapter."""

    parameters: int
    """All weights; those that the output layer shares with the embeddings count once."""
    embeddings: int
    """The weights of them in embeddings and output layer, which 4 bits leave as they are."""
    layers: int
    hidden: int
    mlp: int
    """Width of the MLP that a token passes."""
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    adapted: tuple[tuple[int, int], ...]
    """(inputs, outputs) of every linear layer with an adapter, over the whole model."""
    rank: int


def weights(shape: ModelShape, width: int, four_bits: bool = False) -> int:
    """The base weights."""
    if not four_bits:
        return shape.parameters * width
    return int((shape.parameters - shape.embeddings) * NF4_BYTES) + shape.embeddings * width


def adapter_numbers(shape: ModelShape) -> int:
    """Numbers (not bytes) in LoRA's A and B: r · (inputs + outputs) of each adapted layer."""
    return shape.rank * sum(inputs + outputs for inputs, outputs in shape.adapted)


def optimiser(shape: ModelShape) -> int:
    """The adapter of the learner in fp32: weights, gradients and AdamW's two moments."""
    return 4 * 4 * adapter_numbers(shape)


def kv_bytes_per_token(shape: ModelShape, width: int) -> int:
    """Keys and values of one token in an engine."""
    return 2 * shape.layers * shape.kv_heads * shape.head_size * width


def kept_per_layer(shape: ModelShape, width: int, on_gpu: bool) -> float:
    """What autograd keeps of one token in one layer.

    Two norms keep fp32 inputs, attention its queries, output and gathered keys and values, the MLP three tensors [I],
    and LoRA its input. In 16 bits PEFT casts that input to fp32 for each adapted layer on its own; in fp32 the layers
    share it, but that of attention's output layer is a copy. GPUs get key heads repeated for all query heads.
    """
    attention = shape.heads * shape.head_size
    gathered = GATHERED_KEYS * (shape.heads if on_gpu else shape.kv_heads) * shape.head_size
    inputs = [size for size, _ in shape.adapted]
    lora_inputs = sum(inputs) / shape.layers if width == 2 else sum({*inputs}) + attention
    lora_ranks = shape.rank * len(inputs) / shape.layers
    return 8 * shape.hidden + width * (2 * attention + 2 * gathered + 3 * shape.mlp) + 4 * (lora_inputs + lora_ranks)


def logits_chunk(shape: ModelShape, width: int, tokens: int, chunk_bytes: int) -> int:
    """Logits in fp32 that are held at a time (lm/head.py), and in 16 bits their copy."""
    logits = min(chunk_bytes, 4 * shape.vocabulary * tokens)
    return logits if width == 4 else logits + logits // 2


def learner_pass(
    shape: ModelShape, width: int, tokens: int, checkpointing: bool, on_gpu: bool, chunk_bytes: int
) -> tuple[int, int]:
    """(activations, output): the peak of a pass of `tokens` with gradient, and what the output layer adds to it.

    Every layer's activations are kept, or its input alone with checkpointing, and one layer is computed again. On top
    come gradients in the last layer's MLP, or before that, at the output layer, a chunk of logits or what is kept of
    it: states, gradients of normalisers, and in fp32 two rows of weights a token, of the token taken and of the stop.
    """
    layer, hidden = kept_per_layer(shape, width, on_gpu), shape.hidden
    kept = tokens * (width * shape.layers * hidden if checkpointing else layer * shape.layers)
    gradients = tokens * (width * (3 * shape.mlp + hidden) + (layer if checkpointing else 0))
    chunk = logits_chunk(shape, width, tokens, chunk_bytes)
    output = tokens * 3 * width * hidden + max(chunk, tokens * 12 * hidden)
    return int(kept + gradients), int(max(output - gradients, 0))


def scorer_pass(shape: ModelShape, width: int, tokens: int, chunk_bytes: int) -> tuple[int, int]:
    """(activations, output): the peak of a pass of `tokens` without gradient, and what the output layer adds to it.

    The output layer has states and a chunk of logits, or the rows of weights that two log-probabilities a token read.
    """
    mlp = tokens * width * (4 * shape.mlp + shape.hidden)
    rows = tokens * 2 * shape.hidden * (width + 12)
    output = tokens * 2 * width * shape.hidden + max(logits_chunk(shape, width, tokens, chunk_bytes), rows)
    return mlp, max(output - mlp, 0)


def engine_adapters(shape: ModelShape, width: int, versions: int, kernel_rank: int) -> int:
    """The slots of an engine for `versions` adapters, each padded to `kernel_rank`, the next rank that vLLM has kernels
    for."""
    return versions * adapter_numbers(shape) * width * kernel_rank // shape.rank


def engine_step(shape: ModelShape, width: int, tokens: int, requests: int) -> int:
    """The activations of a step of `tokens`, and the logits of `requests`: as computed, in fp32, and their softmax."""
    return tokens * width * (shape.hidden + 4 * shape.mlp) + requests * shape.vocabulary * (width + 4 + 4)
