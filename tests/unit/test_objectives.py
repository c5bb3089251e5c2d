"""The objectives against the paper's double sum, and at the exact posterior of an enumerated tree."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.config import OBJECTIVE_NAMES, ON_POLICY_OBJECTIVES
from learner.objectives import OBJECTIVES, find_objective
from learner.objectives.balance import Estimates, log_q_of_strings, log_z_estimates
from learner.objectives.group_subtb import group_subtb
from learner.objectives.subtb import subtb
from tests.support.oracle import String, all_strings, exact_policy, subtb_double_sum

V, N = 3, 3
LAMBDAS = (0.5, 1.0, 2.0)
BALANCES = sorted(set(OBJECTIVES) - {"sft", *ON_POLICY_OBJECTIVES})
"""Objectives that are 0 exactly where the policy samples the posterior."""
Rows = list[tuple[list[float], list[float], list[float]]]


def tensors(rows: Rows, group: list[int] | None = None) -> Estimates:
    """Estimates of ragged (log_pf, log_pterm, log_reward) rows, with junk at prefixes that are not terminal."""
    width = max(len(pf) for pf, _, _ in rows)
    junk = 123.0
    pf = torch.tensor([[*f, *[0.0] * (width - len(f))] for f, _, _ in rows], dtype=torch.float64)
    pterm = torch.tensor([[*t, *[junk] * (width + 1 - len(t))] for _, t, _ in rows], dtype=torch.float64)
    reward = torch.tensor([[*r, *[-junk] * (width + 1 - len(r))] for _, _, r in rows], dtype=torch.float64)
    is_terminal = torch.tensor([[i <= len(f) for i in range(width + 1)] for f, _, _ in rows])
    u, log_q = log_z_estimates(pf, pterm, reward), log_q_of_strings(pf, pterm, is_terminal)
    return Estimates(u, is_terminal, torch.tensor(group or [0] * len(rows)), log_q, log_q.detach())


def exact_rows(seed: int = 0, V: int = V, N: int = N, spread: float = 2.0) -> tuple[Rows, float]:
    """Every string of the tree under its exact posterior policy, and log Z."""
    rng = np.random.default_rng(seed)
    log_r: dict[String, float] = {z: float(rng.normal(scale=spread)) for z in all_strings(V, N)}
    stop, step, log_z = exact_policy(log_r, V, N)
    rows = [
        (
            [step[z[:i]][z[i]] for i in range(len(z))],
            [stop[z[:i]] for i in range(len(z) + 1)],
            [log_r[z[:i]] for i in range(len(z) + 1)],
        )
        for z in log_r
    ]
    return rows, log_z


def random_rows(lengths: list[int], seed: int) -> Rows:
    rng = np.random.default_rng(seed)
    return [
        (list(-rng.exponential(size=n)), list(-rng.exponential(size=n + 1)), list(rng.normal(scale=3, size=n + 1)))
        for n in lengths
    ]


def value(name: str, rows: Rows, lam: float = 1.0, group: list[int] | None = None) -> float:
    return float(OBJECTIVES[name](tensors(rows, group), lam).value)


@settings(max_examples=40, deadline=None)
@given(
    V=st.integers(1, 4),
    N=st.integers(0, 3),
    spread=st.floats(0.1, 20.0),
    seed=st.integers(0, 10_000),
    lam=st.floats(0.1, 3.0),
)
def test_every_objective_is_zero_at_the_exact_policy_of_any_tree(
    V: int, N: int, spread: float, seed: int, lam: float
) -> None:
    rows, log_z = exact_rows(seed, V, N, spread)
    e = tensors(rows)
    assert float((e.u[e.is_terminal] - log_z).abs().max()) < 1e-9
    for name in BALANCES:
        assert value(name, rows, lam) < 1e-12


@pytest.mark.parametrize("lam", LAMBDAS)
def test_subtb_is_zero_for_every_string_at_the_exact_policy(lam: float) -> None:
    rows, _ = exact_rows()
    assert max(value("subtb", [row], lam) for row in rows) < 1e-12


@pytest.mark.parametrize("name", BALANCES)
def test_every_balance_objective_is_zero_at_the_exact_policy_and_positive_away_from_it(name: str) -> None:
    rows, _ = exact_rows()
    assert value(name, rows) < 1e-12
    assert value(name, random_rows([3, 1, 2, 3], seed=1)) > 0.1


def test_every_prefix_estimates_log_z_at_the_exact_policy() -> None:
    rows, log_z = exact_rows()
    e = tensors(rows)
    assert float((e.u[e.is_terminal] - log_z).abs().max()) < 1e-12


@pytest.mark.parametrize("name", BALANCES)
@pytest.mark.parametrize("shifted", ["stop", "reward"])
def test_an_off_by_one_of_reward_against_stop_is_detected(name: str, shifted: str) -> None:
    rows, _ = exact_rows()
    moved: Rows = [
        (
            pf,
            pterm[1:] + pterm[:1] if shifted == "stop" else pterm,
            reward[1:] + reward[:1] if shifted == "reward" else reward,
        )
        for pf, pterm, reward in rows
    ]
    assert value(name, moved) > 0.1


def test_an_unmasked_stop_at_the_limit_is_detected() -> None:
    """log q(⊤ | z_1:N) must be 0, not the model's output."""
    rows, _ = exact_rows()
    wrong: Rows = [
        (pf, [*pterm[:-1], pterm[-1] - 0.9] if len(pf) == N else pterm, reward) for pf, pterm, reward in rows
    ]
    assert value("subtb", wrong) > 0.1


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 6), min_size=1, max_size=5),
    seed=st.integers(0, 10_000),
    lam=st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0]),
)
def test_subtb_matches_the_double_sum_of_the_paper(lengths: list[int], seed: int, lam: float) -> None:
    rows = random_rows(lengths, seed)
    sums = [subtb_double_sum(*row, lam) for row in rows]
    slow = sum(total for total, _ in sums) / max(sum(weight for _, weight in sums), 1.0)
    assert value("subtb", rows, lam) == pytest.approx(slow, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("lam", [0.0, 0.5])
def test_memory_grows_with_the_tokens_of_a_batch_not_with_their_square(lam: float) -> None:
    length, kept = 400, list[int]()
    e = tensors(random_rows([length, length], seed=0))
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):  # type: ignore[func-returns-value]
        subtb(replace(e, u=e.u.clone().requires_grad_(True)), lam).value.backward()
    assert max(kept) <= 2 * (length + 1) and sum(kept) < 40 * 2 * (length + 1)


def test_the_closed_form_at_lambda_one_equals_the_pairwise_form() -> None:
    rows = random_rows([0, 1, 4, 6], seed=3)
    assert value("subtb", rows, 1.0) == pytest.approx(value("subtb", rows, 1.0 + 1e-12), rel=1e-9)


def test_subtb_tends_to_detailed_balance_as_lambda_tends_to_zero() -> None:
    rows = random_rows([5, 2], seed=4)
    e = tensors(rows)
    u, neighbours = e.u, e.is_terminal[:, 1:] & e.is_terminal[:, :-1]
    detailed = float(((u[:, 1:] - u[:, :-1]).square() * neighbours).sum() / neighbours.sum())
    assert value("subtb", rows, 1e-9) == pytest.approx(detailed, rel=1e-6)


@settings(max_examples=40, deadline=None)
@given(lengths=st.lists(st.integers(0, 5), min_size=2, max_size=6), seed=st.integers(0, 10_000))
def test_group_subtb_is_the_mean_squared_difference_over_all_pairs_of_a_prompt(lengths: list[int], seed: int) -> None:
    rows = random_rows(lengths, seed)
    group = [k % 2 for k in range(len(rows))]
    u = tensors(rows).u
    total, pairs = 0.0, 0
    for g in (0, 1):
        pool = [float(u[b, i]) for b in range(len(rows)) if group[b] == g for i in range(lengths[b] + 1)]
        total += sum((pool[a] - pool[b]) ** 2 for a in range(len(pool)) for b in range(a + 1, len(pool)))
        pairs += len(pool) * (len(pool) - 1) // 2
    assert value("group_subtb", rows, group=group) == pytest.approx(total / max(pairs, 1), rel=1e-9, abs=1e-12)


def test_a_recipe_takes_the_names_of_all_objectives_and_functions_of_ones_own() -> None:
    assert set(OBJECTIVE_NAMES) == set(OBJECTIVES)
    assert find_objective("tb") == (OBJECTIVES["tb"], False) and find_objective("vargrad")[1]
    assert find_objective("learner.objectives.vargrad:vargrad") == (OBJECTIVES["vargrad"], True), "it may compare rows"


@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_row_order_never_changes_the_loss(name: str) -> None:
    rows = random_rows([3, 0, 5, 1], seed=5)
    assert value(name, rows) == pytest.approx(value(name, rows[::-1]), rel=1e-12)


def test_duplicated_rows_never_change_the_subtb_loss() -> None:
    rows = random_rows([3, 1, 5], seed=6)
    assert value("subtb", rows) == pytest.approx(value("subtb", rows + rows), rel=1e-12)


@pytest.mark.parametrize("name", BALANCES)
@pytest.mark.parametrize("lam", LAMBDAS)
def test_padding_has_no_gradient_and_makes_no_nan(name: str, lam: float) -> None:
    e = tensors(random_rows([2, 6], seed=8))
    u = e.u.clone().requires_grad_(True)
    OBJECTIVES[name](replace(e, u=u), lam).value.backward()
    assert u.grad is not None and bool(u.grad.isfinite().all())
    assert float(u.grad[~e.is_terminal].abs().max()) == 0.0


def test_the_empty_prefix_contributes_to_the_loss() -> None:
    """Only R(⊤) of the empty string changes; n = 1 has one pair, n = 0 has none and gives no NaN."""
    pf, pterm, reward = random_rows([1], seed=9)[0]
    assert value("subtb", [(pf, pterm, reward)]) != value("subtb", [(pf, pterm, [reward[0] + 1, reward[1]])])
    assert float(subtb(tensors([(pf, pterm, reward)]), 1.0).denominator) == 1.0
    empty = subtb(tensors([([], [-0.5], [1.0])]), 1.0)
    assert float(empty.denominator) == 0.0 and float(empty.value) == 0.0


def test_a_string_of_n_actions_has_n_times_n_plus_one_over_two_pairs() -> None:
    for n in range(7):
        assert float(subtb(tensors(random_rows([n], seed=n)), 1.0).denominator) == n * (n + 1) / 2


def test_the_reward_of_the_empty_string_alone_moves_the_gradient() -> None:
    pf, pterm, reward = random_rows([4], seed=21)[0]

    def gradient(empty_reward: float) -> torch.Tensor:
        e = tensors([(pf, pterm, [empty_reward, *reward[1:]])])
        u = e.u.clone().requires_grad_(True)
        return torch.autograd.grad(subtb(replace(e, u=u), 1.0).value, u)[0]

    assert float((gradient(reward[0]) - gradient(reward[0] + 1.0)).abs().min()) > 1e-3


def test_four_ranks_of_sixteen_equal_one_rank_of_sixty_four() -> None:
    """Numerators and denominators add up; means of means would not."""
    lengths = [int(n) for n in np.random.default_rng(1).integers(0, 6, size=64)]
    rows = random_rows(lengths, seed=10)
    whole = value("subtb", rows)
    parts = [subtb(tensors(rows[k : k + 16]), 1.0) for k in range(0, 64, 16)]
    pooled = float(sum(p.numerator for p in parts) / sum(p.denominator for p in parts))
    assert pooled == pytest.approx(whole, rel=1e-12)
    assert float(sum(p.value for p in parts) / 4) != pytest.approx(whole, rel=1e-3)


def test_the_residual_is_zero_exactly_where_the_prefixes_of_a_trajectory_agree() -> None:
    rows, _ = exact_rows()
    bad = ([-0.1, -0.2], [-1.0, -1.0, -1.0], [0.0, 3.0, -2.0])
    residual = subtb(tensors([rows[-1], bad]), 1.0).residual
    assert float(residual[0]) < 1e-7 < 0.5 < float(residual[1])
    residual = group_subtb(tensors([rows[-1], bad], [0, 1]), 1.0).residual
    assert float(residual[0]) < 1e-7 < 0.5 < float(residual[1])


def test_trajectory_balance_is_the_one_pair_of_root_and_leaf() -> None:
    rows = random_rows([4, 0, 2], seed=11)
    u = tensors(rows).u
    slow = [float(u[b, 0] - u[b, n]) ** 2 for b, n in ((0, 4), (2, 2))]
    assert value("tb", rows) == pytest.approx(sum(slow) / 2, rel=1e-12)


def test_vargrad_is_the_variance_of_whole_strings_within_a_prompt() -> None:
    rows, group = random_rows([4, 1, 2, 3, 2], seed=12), [0, 0, 1, 0, 2]
    u = tensors(rows).u
    leaves = np.array([float(u[b, n]) for b, n in ((0, 4), (1, 1), (3, 3))])
    assert value("vargrad", rows, group=group) == pytest.approx(float(leaves.var()), rel=1e-12)
    assert value("vargrad", rows[:1]) == 0.0, "a single string of a prompt has nothing to be compared with"


def test_a_string_that_vargrad_cannot_compare_has_no_priority() -> None:
    residual = OBJECTIVES["vargrad"](tensors(random_rows([2, 3, 1], seed=15), [0, 0, 1]), 1.0).residual
    assert residual.isnan().tolist() == [False, False, True]


def test_detailed_balance_is_subtb_at_lambda_zero() -> None:
    rows = random_rows([5, 2, 0, 1], seed=13)
    assert value("db", rows) == pytest.approx(value("subtb", rows, 1e-9), rel=1e-6)


def test_sft_is_the_mean_negative_log_likelihood_of_whole_strings() -> None:
    rows = random_rows([3, 0], seed=14)
    slow = [-(sum(pf) + pterm[-1]) for pf, pterm, _ in rows]
    assert value("sft", rows) == pytest.approx(sum(slow) / 2, rel=1e-12)
