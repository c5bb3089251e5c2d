"""Which differences of canaries and of first samples an engine's checks accept, and which end the run."""

import numpy as np
import pytest

from actors.canary import FAR_BEYOND, MAX_IN_A_ROW, CanaryCheck, SampleCheck
from buffer.errors import AdapterError
from buffer.types import AdapterVersion, Canary
from learner.config import CANARY_TOLERANCE, LearnerConfig

TOLERANCE = 0.2
TOKENS = 8


def version(tokens: int = TOKENS) -> AdapterVersion:
    token_ids = np.arange(tokens, dtype=np.int32)
    canary = Canary(np.zeros(1, np.int32), token_ids, np.full(tokens, -2.0, np.float32), TOLERANCE)
    return AdapterVersion(7, "ab" * 32, 70, canary)


def off_by(check: CanaryCheck, *nats: float) -> float:
    """Compare a canary whose tokens differ by `nats` in turn, in alternating directions."""
    differences = np.resize(np.array(nats, np.float32), TOKENS) * np.resize([1.0, -1.0], TOKENS)
    return check.compare(version(), (version().canary.log_probs + differences).astype(np.float32))


def test_the_mean_difference_counts_not_the_largest() -> None:
    check = CanaryCheck()
    for _ in range(2 * MAX_IN_A_ROW):
        assert off_by(check, *[0.05] * (TOKENS - 1), 0.9) == pytest.approx(
            (0.05 * (TOKENS - 1) + 0.9) / TOKENS, rel=1e-4
        )


def test_differences_of_opposite_signs_do_not_cancel() -> None:
    assert off_by(CanaryCheck(), 0.1) == pytest.approx(0.1, rel=1e-4)


def test_the_third_exceedance_in_a_row_is_an_error_that_names_both_limits() -> None:
    check = CanaryCheck()
    for _ in range(MAX_IN_A_ROW - 1):
        assert off_by(check, 1.5 * TOLERANCE) > TOLERANCE
    with pytest.raises(
        AdapterError, match=r"version 7: .* by 0\.3 nats .* 3 in a row.* exceed 0\.2 2 times.* and 0\.8 never"
    ):
        off_by(check, 1.5 * TOLERANCE)


def test_a_canary_within_the_tolerance_begins_the_count_again() -> None:
    check = CanaryCheck()
    for _ in range(5):
        for _ in range(MAX_IN_A_ROW - 1):
            off_by(check, 1.5 * TOLERANCE)
        off_by(check, 0.5 * TOLERANCE)


@pytest.mark.parametrize("nats", [1.01 * FAR_BEYOND * TOLERANCE, float("nan"), float("inf")])
def test_a_difference_far_beyond_or_not_finite_is_an_error_at_once(nats: float) -> None:
    with pytest.raises(AdapterError, match="version 7"):
        off_by(CanaryCheck(), nats)


def sampled_off_by(check: SampleCheck, nats: float) -> float:
    """Compare samples whose tokens were reported `nats` above their scores."""
    scored = np.linspace(-3.0, -1.0, TOKENS, dtype=np.float32)
    return check.compare(version(), scored + np.float32(nats), scored)


def test_first_samples_have_the_limits_of_canaries_and_an_error_of_their_own() -> None:
    check = SampleCheck()
    assert sampled_off_by(check, 0.5 * TOLERANCE) == pytest.approx(0.5 * TOLERANCE, rel=1e-4)
    for _ in range(MAX_IN_A_ROW - 1):
        sampled_off_by(check, 1.5 * TOLERANCE)
    with pytest.raises(AdapterError, match=r"does not sample from adapter version 7, .* by 0\.3 nats .* 3 in a row"):
        sampled_off_by(check, 1.5 * TOLERANCE)


@pytest.mark.parametrize("nats", [1.01 * FAR_BEYOND * TOLERANCE, float("nan"), float("-inf")])
def test_first_samples_far_beyond_or_not_finite_are_an_error_at_once(nats: float) -> None:
    with pytest.raises(AdapterError, match="does not sample from adapter version 7"):
        sampled_off_by(SampleCheck(), nats)


def test_exceedances_are_counted_and_the_largest_difference_is_kept() -> None:
    check = CanaryCheck()
    for share in (0.5, 1.5, 0.25):
        off_by(check, share * TOLERANCE)
    assert check.differences.exceeded == 1
    assert check.differences.largest == pytest.approx(1.5 * TOLERANCE, rel=1e-4)


def test_an_empty_canary_is_an_error() -> None:
    with pytest.raises(AdapterError, match="empty canary"):
        CanaryCheck().compare(version(tokens=0), np.zeros(0, np.float32))


def test_the_tolerance_is_that_of_the_dtype_unless_the_recipe_sets_one() -> None:
    for dtype, tolerance in CANARY_TOLERANCE.items():
        assert LearnerConfig().canary_tolerance_of(dtype) == tolerance
    assert LearnerConfig(canary_tolerance=0.7).canary_tolerance_of("bfloat16") == 0.7
