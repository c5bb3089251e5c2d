"""Step samples show the values that the learner computed, and stay small and rare."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from buffer.drawn_rows import Drawn
from buffer.store.item_store import Handle
from buffer.types import Prompt, given_trajectory, total_log_reward
from learner.objectives.balance import Estimates, log_q_of_strings, log_z_estimates
from learner.policy import PrefixLogProbs
from learner.step_samples import MAX_ROWS, MAX_TOKENS, StepSampler


def batch(lengths: list[int], fresh: int, prompts: int = 2) -> tuple[list[Drawn], Estimates, PrefixLogProbs]:
    """Rows of random strings whose first prefix may not stop, with estimates by the learner's own formulas."""
    rng = np.random.default_rng(0)
    width = max(lengths)
    rows = []
    is_terminal = torch.zeros(len(lengths), width + 1, dtype=torch.bool)
    for i, n in enumerate(lengths):
        prompt = Prompt(f"p{i % prompts}", "", np.array([1], np.int32))
        terms = rng.normal(size=(3, n + 1)).astype(np.float32)
        trajectory = given_trajectory(
            prompt, rng.integers(0, 9, n).astype(np.int32), "on_policy", terms, ("a", "b", "_note")
        )
        behaviour = "on_policy" if i % 2 == 0 else "tempered"
        rows.append(Drawn(Handle(i, 0), trajectory, i < fresh, 3, behaviour, content_id=f"{i:x}"))
        is_terminal[i, 1 : n + 1] = True
    log_pf = -torch.rand(len(lengths), width)
    log_pterm = -torch.rand(len(lengths), width + 1)
    for i, n in enumerate(lengths):
        log_pf[i, n:] = 0.0
    u = log_z_estimates(log_pf, log_pterm, log_reward_of(rows) / 2.0)
    group = torch.tensor([i % prompts for i in range(len(lengths))])
    log_q = log_q_of_strings(log_pf, log_pterm, is_terminal)
    return rows, Estimates(u, is_terminal, group, log_q, log_q), PrefixLogProbs(log_pf, log_pterm)


def log_reward_of(rows: list[Drawn]) -> torch.Tensor:
    """[B, T+1] log R of every prefix, untempered, where the term b weighs a half."""
    width = max(len(row.trajectory.token_ids) for row in rows)
    log_reward = torch.zeros(len(rows), width + 1)
    for i, row in enumerate(rows):
        total = total_log_reward(row.trajectory, {"b": 0.5})
        log_reward[i, : len(total)] = torch.from_numpy(total)
    return log_reward


def sample(lengths: list[int], fresh: int) -> dict:
    rows, estimates, log_probs = batch(lengths, fresh)
    samples = StepSampler().sample(rows, log_reward_of(rows), estimates, log_probs, 7)
    assert samples is not None
    return samples


def test_u_of_a_row_follows_from_its_own_log_r_and_log_q():
    for row in sample([4, 2, 6, 1], fresh=2)["rows"]:
        n = len(row["token_ids"])
        assert len(row["log_pf"]) == n
        assert len(row["u"]) == len(row["log_pterm"]) == len(row["log_reward_prefix"]) == n + 1
        assert row["u"][0] is None, "stopping is not allowed there"
        for i in range(1, n + 1):
            weighted = row["terms"]["a"][i] + 0.5 * row["terms"]["b"][i]
            assert row["log_reward_prefix"][i] == pytest.approx(weighted, abs=2e-4), "a note is not part of log R"
            expected = row["log_reward_prefix"][i] / 2.0 - row["log_pterm"][i] - sum(row["log_pf"][:i])
            assert row["u"][i] == pytest.approx(expected, abs=1e-3)
        assert row["log_reward"] == row["log_reward_prefix"][n]
        assert row["log_q"] == pytest.approx(sum(row["log_pf"]) + row["log_pterm"][n], abs=1e-3)


def test_fresh_rows_come_first_and_rows_and_tokens_are_bounded():
    samples = sample([3] * 40, fresh=10)
    assert [row["fresh"] for row in samples["rows"]] == [True] * 10 + [False] * (MAX_ROWS - 10)
    long = sample([1500] * 8, fresh=8)["rows"]
    assert len(long) >= 1 and sum(len(row["token_ids"]) for row in long) <= MAX_TOKENS
    assert len(sample([MAX_TOKENS + 1] * 2, fresh=2)["rows"]) == 1, "one row is sampled however long it is"


def test_rows_are_a_random_choice_of_the_fresh_ones_and_not_the_first_that_came():
    rows, estimates, log_probs = batch([1] * 20 + [3] * 20, fresh=40)
    sampler = StepSampler(every_s=0.0)
    lengths = []
    for _ in range(50):
        samples = sampler.sample(rows, log_reward_of(rows), estimates, log_probs, 3)
        assert samples is not None
        lengths += [len(row["token_ids"]) for row in samples["rows"]]
    assert np.mean(lengths) == pytest.approx(2.0, abs=0.15), "of short and long strings as many"


def test_diversity_of_good_strings_is_a_share_of_pairs_of_a_prompt():
    rows, estimates, log_probs = batch([3] * 6, fresh=6, prompts=1)
    for i, (content, valid) in enumerate(zip("aabbcc", (1.0, 0.0, 1.0, 0.0, 1.0, 1.0), strict=True)):
        trajectory = replace(rows[i].trajectory, labels={"valid": valid})
        rows[i] = replace(rows[i], content_id=content, behaviour="on_policy", trajectory=trajectory)
    samples = StepSampler().sample(rows, log_reward_of(rows), estimates, log_probs, 3)
    assert samples is not None
    assert samples["diversity"] == 0.5 and samples["diversity_good"] == pytest.approx(5 / 6), (
        "a, b, c, c: one pair of six"
    )
    rows = [replace(row, trajectory=replace(row.trajectory, labels={"valid": 0.0})) for row in rows]
    samples = StepSampler().sample(rows, log_reward_of(rows), estimates, log_probs, 3)
    assert samples is not None and "diversity_good" not in samples


def test_figures_of_the_fresh_rows_are_of_the_on_policy_ones():
    samples = sample([2, 3, 2, 3, 2, 3, 2, 3], fresh=6)
    on_policy = [row for row in samples["rows"] if row["fresh"] and row["behaviour"] == "on_policy"]
    assert samples["behaviours"] == {"on_policy": 0.5, "tempered": 0.5}
    rewards = [row["log_reward"] for row in on_policy]
    assert samples["quantiles"][2] == pytest.approx(np.median(rewards), abs=1e-3)
    assert samples["diversity"] == 1.0
    assert (
        set(samples["prompts"]) == {"p0"}
        and samples["prompts"]["p0"]["log_z_lower"] <= samples["prompts"]["p0"]["log_z_mean"]
    )


def test_a_batch_without_fresh_rows_is_sampled_too():
    samples = sample([2, 3], fresh=0)
    assert len(samples["rows"]) == 2 and "quantiles" not in samples and "behaviours" not in samples


@pytest.mark.parametrize("broken", [np.inf, -np.inf, np.nan])
def test_a_batch_with_rewards_that_are_not_finite_is_sampled_too(broken):
    rows, estimates, log_probs = batch([3, 3, 3, 3], fresh=4)
    rows[0].trajectory.log_reward[0] = broken
    rows[2].trajectory.log_reward[0] = -broken
    samples = StepSampler().sample(rows, log_reward_of(rows), estimates, log_probs, 3)
    assert samples is not None and [None] * 4 in [row["log_reward_prefix"] for row in samples["rows"]]
    assert len(samples["quantiles"]) == 5


def test_steps_are_sampled_at_intervals_as_plain_json():
    clock = [0.0]
    sampler = StepSampler(every_s=1.0, clock=lambda: clock[0])
    rows, estimates, log_probs = batch([3, 3], 2)
    results = []
    for tick in range(31):
        clock[0] = tick / 10
        results.append(sampler.sample(rows, log_reward_of(rows), estimates, log_probs, 3))
    assert [k for k, samples in enumerate(results) if samples] == [0, 10, 20, 30]
    assert json.loads(json.dumps(results[0], allow_nan=False)) == results[0]
