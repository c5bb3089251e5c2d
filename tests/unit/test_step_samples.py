"""Notes of a step: what they say is what the learner computed, and they stay small and seldom."""

import json

import numpy as np
import pytest
import torch

from buffer.replay import Drawn
from buffer.store.item_store import Handle
from buffer.types import Prompt, given_trajectory
from learner.objectives.balance import Estimates, log_q_of_strings, log_z_estimates
from learner.policy import PrefixLogProbs
from learner.step_samples import MOST_ROWS, MOST_TOKENS, StepSampler


def batch(lengths: list[int], fresh: int, prompts: int = 2) -> tuple[list[Drawn], Estimates, PrefixLogProbs]:
    """Rows of made-up strings, the first prefix of each may not stop, with estimates by the learner's own formulas."""
    rng = np.random.default_rng(0)
    width = max(lengths)
    rows, reward = [], np.zeros((len(lengths), width + 1), np.float32)
    counts = np.zeros((len(lengths), width + 1), np.bool_)
    for i, n in enumerate(lengths):
        prompt = Prompt(f"p{i % prompts}", "", np.array([1], np.int32))
        terms = rng.normal(size=(3, n + 1)).astype(np.float32)
        trajectory = given_trajectory(
            prompt, rng.integers(0, 9, n).astype(np.int32), "on_policy", terms, ("a", "b", "_note")
        )
        rows.append(
            Drawn(
                Handle(i, 0), trajectory, i < fresh, 3, "on_policy" if i % 2 == 0 else "tempered", content_id=f"{i:x}"
            )
        )
        reward[i, : n + 1] = terms[0] + 0.5 * terms[1]
        counts[i, 1 : n + 1] = True
    log_pf = -torch.rand(len(lengths), width)
    log_pterm = -torch.rand(len(lengths), width + 1)
    for i, n in enumerate(lengths):
        log_pf[i, n:] = 0.0
    u = log_z_estimates(log_pf, log_pterm, torch.from_numpy(reward) / 2.0)
    mask = torch.from_numpy(counts)
    group = torch.tensor([i % prompts for i in range(len(lengths))])
    return rows, Estimates(u, mask, group, log_q_of_strings(log_pf, log_pterm, mask)), PrefixLogProbs(log_pf, log_pterm)


def observe(lengths: list[int], fresh: int) -> dict:
    rows, estimates, scored = batch(lengths, fresh)
    found = StepSampler().notes(rows, estimates, scored, 7, {"b": 0.5})
    assert found is not None
    return found


def test_u_of_a_note_is_what_its_own_log_r_and_log_q_make_of_it():
    for row in observe([4, 2, 6, 1], fresh=2)["rows"]:
        n = len(row["token_ids"])
        assert (
            len(row["log_pf"]) == n and len(row["u"]) == len(row["log_pterm"]) == len(row["log_reward_prefix"]) == n + 1
        )
        assert row["u"][0] is None, "it may not stop there"
        for i in range(1, n + 1):
            weighted = row["terms"]["a"][i] + 0.5 * row["terms"]["b"][i]
            assert row["log_reward_prefix"][i] == pytest.approx(weighted, abs=2e-4), "notes count for nothing"
            expected = row["log_reward_prefix"][i] / 2.0 - row["log_pterm"][i] - sum(row["log_pf"][:i])
            assert row["u"][i] == pytest.approx(expected, abs=1e-3)
        assert row["log_q"] == pytest.approx(sum(row["log_pf"]) + row["log_pterm"][n], abs=1e-3)


def test_fresh_rows_come_first_and_rows_and_tokens_are_bounded():
    notes = observe([3] * 40, fresh=10)
    assert [row["fresh"] for row in notes["rows"]] == [True] * 10 + [False] * (MOST_ROWS - 10)
    long = observe([1500] * 8, fresh=8)["rows"]
    assert len(long) >= 1 and sum(len(row["token_ids"]) for row in long) <= MOST_TOKENS
    assert len(observe([MOST_TOKENS + 1] * 2, fresh=2)["rows"]) == 1, "one is noted however long it is"


def test_what_the_fresh_rows_say_together_is_of_the_on_policy_ones():
    notes = observe([2, 3, 2, 3, 2, 3, 2, 3], fresh=6)
    on_policy = [row for row in notes["rows"] if row["fresh"] and row["behaviour"] == "on_policy"]
    assert notes["behaviours"] == {"on_policy": 0.5, "tempered": 0.5}
    rewards = [row["log_reward"] for row in on_policy]
    assert notes["quantiles"][2] == pytest.approx(np.median(rewards), abs=1e-3)
    assert notes["diversity"] == 1.0
    assert notes["terms"]["a"] == pytest.approx(np.mean([row["terms"]["a"][-1] for row in on_policy]), abs=1e-3)
    assert (
        set(notes["prompts"]) == {"p0"}
        and notes["prompts"]["p0"]["log_z_lower"] <= notes["prompts"]["p0"]["log_z_mean"]
    )


def test_a_batch_without_fresh_rows_is_noted_all_the_same():
    notes = observe([2, 3], fresh=0)
    assert len(notes["rows"]) == 2 and "quantiles" not in notes and "behaviours" not in notes


@pytest.mark.parametrize("broken", [np.inf, -np.inf, np.nan])
def test_a_batch_with_rewards_that_are_not_finite_is_noted_too(broken):
    rows, estimates, scored = batch([3, 3, 3, 3], fresh=4)
    rows[0].trajectory.log_reward[0] = broken
    rows[2].trajectory.log_reward[0] = -broken
    notes = StepSampler().notes(rows, estimates, scored, 3, {})
    assert notes is not None and notes["rows"][0]["log_reward_prefix"] == [None] * 4
    assert len(notes["quantiles"]) == 5 and set(notes["terms"]) == {"a", "b", "_note"}


def test_notes_are_made_once_in_a_while_and_are_plain_json():
    now = [0.0]
    observer = StepSampler(every_s=1.0, clock=lambda: now[0])
    rows, estimates, scored = batch([3, 3], 2)
    made = []
    for tick in range(31):
        now[0] = tick / 10
        made.append(observer.notes(rows, estimates, scored, 3, {}))
    assert [k for k, notes in enumerate(made) if notes] == [0, 10, 20, 30]
    assert json.loads(json.dumps(made[0], allow_nan=False)) == made[0]
