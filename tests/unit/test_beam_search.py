"""Beam search against the list of all strings of a tiny policy."""

from collections.abc import Iterator
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from buffer.types import PolicySpec
from lm.beam_search import beam_search
from lm.merge_adapter import load_merged
from tests.support.oracle import all_strings
from tests.support.tiny import SYMBOLS, VOCABULARY, make_tiny_model, tiny_spec

PROMPT = np.array([VOCABULARY.index("draw")], dtype=np.int32)
LETTERS = [VOCABULARY.index(symbol) for symbol in SYMBOLS]


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> PolicySpec:
    return tiny_spec(make_tiny_model(tmp_path_factory.mktemp("beams")))


@pytest.fixture(scope="module")
def model(spec: PolicySpec) -> Iterator[torch.nn.Module]:
    yield load_merged(spec, None).eval()


def listed(model: torch.nn.Module, spec: PolicySpec, strings: list[tuple[int, ...]]) -> dict[tuple[int, ...], float]:
    """String -> log q, by one plain pass each and the rules of the policy, step by step."""
    result = {}
    for string in strings:
        tokens = [*PROMPT.tolist(), *string]
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([tokens])).logits[0].double()
        log_q = 0.0
        for i in range(len(string) + 1):
            if i == spec.max_actions:
                break
            choices = list(spec.allowed_token_ids or range(logits.shape[1]))
            choices = [t for t in choices if t not in spec.forbidden_token_ids]
            choices = [t for t in choices if t != spec.stop_token_id] + [spec.stop_token_id] * (i >= spec.min_actions)
            token = string[i] if i < len(string) else spec.stop_token_id
            log_q += float(logits[i, token] - logits[i, choices].logsumexp(0))
        result[string] = log_q
    return result


@pytest.mark.parametrize("minimum", [0, 2])
def test_a_beam_as_wide_as_the_list_finds_every_string_in_order(
    model: torch.nn.Module, spec: PolicySpec, minimum: int
) -> None:
    spec = replace(spec, min_actions=minimum)
    strings = [tuple(LETTERS[v] for v in z) for z in all_strings(len(SYMBOLS), spec.max_actions) if len(z) >= minimum]
    wanted = listed(model, spec, strings)
    beams = {beam.token_ids: beam.log_q for beam in beam_search(model, spec, PROMPT, len(strings))}
    assert list(beams) == sorted(wanted, key=wanted.__getitem__, reverse=True)
    assert [beams[z] for z in wanted] == pytest.approx(list(wanted.values()), abs=1e-4)
    assert sum(np.exp(list(beams.values()))) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("forbidden", [(), tuple(range(10, 40))])
def test_without_a_list_of_tokens_the_whole_vocabulary_but_forbidden_tokens_is_searched(
    model: torch.nn.Module, spec: PolicySpec, forbidden: tuple[int, ...]
) -> None:
    spec = replace(spec, allowed_token_ids=None, forbidden_token_ids=forbidden, max_actions=2)
    others = [t for t in range(64) if t != spec.stop_token_id and t not in forbidden]
    wanted = listed(model, spec, [(), *((a,) for a in others), *((a, b) for a in others for b in others)])
    best = sorted(wanted, key=wanted.__getitem__, reverse=True)[:3]
    assert [beam.token_ids for beam in beam_search(model, spec, PROMPT, 200)[:3]] == best


def test_a_beam_of_one_is_greedy(model: torch.nn.Module, spec: PolicySpec) -> None:
    [beam] = beam_search(model, spec, PROMPT, 1)
    tokens: list[int] = []
    while len(tokens) < spec.max_actions:
        with torch.inference_mode():
            logits = model(input_ids=torch.tensor([[*PROMPT.tolist(), *tokens]])).logits[0, -1]
        best = max([*LETTERS, spec.stop_token_id], key=lambda t: float(logits[t]))
        if best == spec.stop_token_id:
            break
        tokens.append(best)
    assert beam.token_ids == tuple(tokens)


class Toy:
    """Behind the prompt: A .55, stop .40, C .05; later: B .60, stop .35, C .05. It keeps the lengths in its cache."""

    device = torch.device("cpu")

    def __call__(self, input_ids: torch.Tensor, past_key_values: object = None, **_: object) -> SimpleNamespace:
        chances = [0.55, 1e-9, 0.05, 0.40] if past_key_values is None else [1e-9, 0.60, 0.05, 0.35]
        row = torch.full((64,), -30.0)
        row[[*LETTERS, VOCABULARY.index(".")]] = torch.tensor(chances).log()
        cache = SimpleNamespace(batch_repeat_interleave=lambda n: None, batch_select_indices=lambda rows: None)
        return SimpleNamespace(logits=row.repeat(len(input_ids), 1, 1), past_key_values=cache)


def test_a_stop_that_is_not_the_best_choice_does_not_end_a_beam_of_one(spec: PolicySpec) -> None:
    a, b, _ = LETTERS
    assert [beam.token_ids for beam in beam_search(Toy(), spec, PROMPT, 1)] == [(a, b, b)]
    apart = [beam.token_ids for beam in beam_search(Toy(), spec, PROMPT, 3, groups=3)]
    assert (a, b, b) in apart and () in apart, "the second group stops where the first took A"


def test_groups_differ_in_their_first_token_where_the_penalty_is_large(
    model: torch.nn.Module, spec: PolicySpec
) -> None:
    spec = replace(spec, min_actions=1)
    alike = beam_search(model, spec, PROMPT, 3, groups=3, penalty=0.0)
    apart = beam_search(model, spec, PROMPT, 3, groups=3, penalty=100.0)
    assert len({beam.token_ids for beam in alike}) == 1
    assert {beam.token_ids[0] for beam in apart} == set(LETTERS)
    strings = listed(model, spec, [beam.token_ids for beam in apart])
    for beam in apart:
        assert beam.log_q == pytest.approx(strings[beam.token_ids], abs=1e-4), "the penalty is no part of log q"
