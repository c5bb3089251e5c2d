"""Reading vLLM's log-probabilities back as log q, where the stop is masked."""

from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from pydantic import ValidationError
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError

from actors.behaviour import Behaviour
from actors.config import BehaviourConfig
from actors.segments import read_segment, segment_params
from buffer.types import PolicySpec

SPEC = PolicySpec("", "float32", 4, 4, ("q_proj",), stop_token_id=2, max_actions=3, min_actions=1)


class Entry(NamedTuple):
    logprob: float


def position(log_probs: dict[int, float]) -> Any:
    return {token: Entry(np.float32(value)) for token, value in log_probs.items()}


@pytest.mark.parametrize("log_rest", [-1.0, -12.0, -16.0, -17.0, -30.0, -80.0])
def test_log_q_behind_a_masked_stop_is_finite_and_never_above_0(log_rest: float) -> None:
    """However certain the stop is: 1 - q(stop) = e^log_rest, all of it on token 7."""
    log_stop = float(np.log1p(-np.exp(log_rest)))
    log_pf, log_pterm = read_segment([position({2: log_stop, 7: log_rest})], [7], SPEC, actions=0)
    assert log_pterm == [-np.inf]
    assert -0.2 <= log_pf[0] <= 0.0, "the only other token has all that the stop leaves"


def test_a_masked_stop_leaves_its_share_to_the_others() -> None:
    log_pf, _ = read_segment([position({2: np.log(0.5), 7: np.log(0.1)})], [7], SPEC, actions=0)
    assert log_pf[0] == pytest.approx(np.log(0.2), abs=1e-6)


def test_a_stop_that_is_certain_to_the_last_bit_gives_a_finite_log_q() -> None:
    log_pf, _ = read_segment([position({2: 0.0, 7: -150.0})], [7], SPEC, actions=0)
    assert np.isfinite(log_pf[0]) and log_pf[0] <= 0.0


def test_forbidden_tokens_leave_their_share_to_the_others_and_to_the_stop() -> None:
    spec = replace(SPEC, min_actions=0, forbidden_token_ids=(5, 6))
    log_probs = {2: np.log(0.2), 5: np.log(0.3), 6: np.log(0.2), 7: np.log(0.1)}
    [log_pf], [log_pterm] = read_segment([position(log_probs)], [7], spec, actions=0)
    assert (log_pf, log_pterm) == pytest.approx((np.log(0.2), np.log(0.4)), abs=1e-6)
    [log_pf], _ = read_segment([position(log_probs)], [7], replace(spec, min_actions=1), actions=0)
    assert log_pf == pytest.approx(np.log(0.1 / 0.3), abs=1e-6)
    [log_pf], _ = read_segment([position({2: -200.0, 5: 0.0, 6: -30.0, 7: -150.0})], [7], spec, actions=0)
    assert np.isfinite(log_pf) and log_pf <= 0.0, "a forbidden token that is certain to the last bit"


def test_a_recipe_may_name_the_temperatures_that_the_engine_takes_and_no_others() -> None:
    for temperature in (0.1, 2.0):
        config = BehaviourConfig(name="hot", weight=1.0, temperature_low=temperature, temperature_high=temperature)
        behaviour = Behaviour(config.name, config.temperature_high, suppress_stop=False)
        assert segment_params(SPEC, None, behaviour, actions=0).temperature == temperature
    with pytest.raises(ValidationError, match="less than or equal to 2"):
        BehaviourConfig(name="hot", weight=1.0, temperature_high=2.0001)
    with pytest.raises(VLLMValidationError, match="temperature"):
        SamplingParams(temperature=2.0001)
