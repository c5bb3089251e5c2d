"""The normaliser in chunks against the plain one that keeps all logits."""

from collections.abc import Callable

import pytest
import torch

from lm import head
from lm.head import OutputLayer

STATES, HIDDEN, VOCABULARY, COLUMN = 7, 5, 11, 3


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(STATES, HIDDEN, generator=generator).requires_grad_(True)
    weight = torch.randn(VOCABULARY, HIDDEN, generator=generator)
    return hidden, weight, torch.arange(STATES) % 3 == 0


LAYERS: dict[str, Callable[[torch.Tensor], OutputLayer]] = {
    "plain": OutputLayer,
    "bias": lambda weight: OutputLayer(weight, bias=torch.linspace(-1.0, 1.0, VOCABULARY)),
    "scale": lambda weight: OutputLayer(weight, scale=0.25),
    "cap": lambda weight: OutputLayer(weight, bias=torch.linspace(-1.0, 1.0, VOCABULARY), scale=3.0, cap=1.5),
}


def all_logits(layer: OutputLayer, hidden: torch.Tensor) -> torch.Tensor:
    logits = hidden @ layer.weight.T
    if layer.bias is not None:
        logits = logits + layer.bias
    logits = logits * layer.scale
    return logits if layer.cap is None else layer.cap * torch.tanh(logits / layer.cap)


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("chunk_bytes", [1, 4 * VOCABULARY * 2, 2**25])
def test_values_and_gradients_equal_those_of_all_logits_at_once(
    monkeypatch: pytest.MonkeyPatch, chunk_bytes: int, layer: Callable[[torch.Tensor], OutputLayer]
) -> None:
    monkeypatch.setattr(head, "CPU_CHUNK_BYTES", chunk_bytes)
    hidden, weight, blocked = inputs()
    weights = torch.arange(1.0, STATES + 1)
    found = layer(weight).log_normaliser(hidden, COLUMN, blocked)
    (gradient,) = torch.autograd.grad((found * weights).sum(), hidden)

    logits = all_logits(layer(weight), hidden)
    logits = torch.where(blocked[:, None] & (torch.arange(VOCABULARY) == COLUMN), -torch.inf, logits)
    plain = logits.logsumexp(-1)
    (plain_gradient,) = torch.autograd.grad((plain * weights).sum(), hidden)
    assert torch.allclose(found, plain, atol=1e-6)
    assert torch.allclose(gradient, plain_gradient, atol=1e-5)


def test_a_pass_without_gradient_needs_none() -> None:
    hidden, weight, blocked = inputs()
    with torch.no_grad():
        assert not OutputLayer(weight).log_normaliser(hidden, COLUMN, blocked).requires_grad


def test_large_logits_do_not_overflow() -> None:
    hidden, weight, blocked = inputs()
    assert bool(OutputLayer(weight).log_normaliser(hidden.detach() * 1e4, COLUMN, blocked).isfinite().all())


@pytest.mark.parametrize("layer", LAYERS.values(), ids=LAYERS)
def test_token_logits_are_single_entries_of_all_logits(layer: Callable[[torch.Tensor], OutputLayer]) -> None:
    hidden, weight, _ = inputs()
    tokens = torch.tensor([0, 3, 10, 1, 1, 2, 5])
    assert torch.allclose(
        layer(weight).token_logits(hidden, tokens), all_logits(layer(weight), hidden)[torch.arange(STATES), tokens]
    )


def test_in_bf16_no_token_is_more_likely_than_certain() -> None:
    """The token's logit is rounded as those that the normaliser sums; else log q of a sharp state rises above 0."""
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(500, 64, generator=generator) * 0.5).bfloat16()
    tokens = torch.arange(200)
    hidden = (weight[:200].float() * 1.2).bfloat16()  # each state all but certain of its own token
    blocked = torch.zeros(200, dtype=torch.bool)
    layer = OutputLayer(weight)
    log_q = layer.token_logits(hidden, tokens) - layer.log_normaliser(hidden, COLUMN, blocked)
    assert float(log_q.max()) <= 1e-3 and float(log_q.mean()) > -0.1


def test_rows_keep_bias_scale_and_cap() -> None:
    hidden, weight, _ = inputs()
    layer = LAYERS["cap"](weight)
    expected = all_logits(layer, hidden)[:, [7, 2]].logsumexp(-1)
    assert torch.allclose(layer.rows([7, 2]).log_normaliser(hidden), expected, atol=1e-6)
