"""The lagged actor: it draws from the version that many versions ago, in that version's proportions."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from learner.batch import Batch, collate
from learner.policy import PrefixLogProbs
from tests.support.lagged_actor import LaggedActor
from tests.support.oracle import String, exact_policy, log_sum
from tests.support.tiny import MAX_ACTIONS, SYMBOLS, VOCABULARY, TinyTask, tiny_spec, tiny_trajectory

SURE = 60.0
"""log R of the one string that a version samples, nats; that of the others is 0."""


@pytest.fixture
def task() -> TinyTask:
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return TinyTask(tokenizer)


@pytest.fixture
def listed(task: TinyTask) -> Batch:
    return collate([tiny_trajectory(task, z) for z in task.log_r], tiny_spec(Path("model")))


def actor(task: TinyTask, lag: int | None) -> LaggedActor:
    return LaggedActor([tiny_trajectory(task, z) for z in task.log_r], lag, seed=1)


def policy_of(log_r: dict[String, float]) -> PrefixLogProbs:
    """Log-probabilities of all strings under the policy whose samples are R / Σ R."""
    stop, step, _ = exact_policy(log_r, len(SYMBOLS), MAX_ACTIONS)
    log_pf, log_pterm = torch.zeros(len(log_r), MAX_ACTIONS), torch.zeros(len(log_r), MAX_ACTIONS + 1)
    for k, z in enumerate(log_r):
        for i in range(len(z) + 1):
            log_pterm[k, i] = stop[z[:i]]
        for i, symbol in enumerate(z):
            log_pf[k, i] = step[z[:i]][symbol]
    return PrefixLogProbs(log_pf, log_pterm)


def policy_of_one(task: TinyTask, number: int) -> PrefixLogProbs:
    """A policy that samples string `number` of the list and no other."""
    return policy_of({z: SURE * (k == number) for k, z in enumerate(task.log_r)})


@pytest.mark.parametrize(("lag", "expected"), [(0, [0, 1, 2, 3, 4]), (2, [0, 0, 0, 1, 2]), (None, [0, 0, 0, 0, 0])])
def test_the_batch_comes_from_the_version_lag_versions_ago_and_from_version_0_before_that(
    task: TinyTask, listed: Batch, lag: int | None, expected: list[int]
) -> None:
    strings, lagged = list(task.log_r), actor(task, lag)
    for newest, version in enumerate(expected):
        lagged.publish(listed, policy_of_one(task, newest))
        rows = lagged.sample(8)
        assert {task.string(row.token_ids.tolist()) for row in rows} == {strings[version]}
        assert {row.policy_version for row in rows} == {version}


def test_a_row_records_the_log_probabilities_of_the_version_that_sampled_it(task: TinyTask, listed: Batch) -> None:
    old, lagged = policy_of(task.log_r), actor(task, 1)
    lagged.publish(listed, old)
    lagged.publish(listed, policy_of_one(task, 5))
    for row in lagged.sample(32):
        k, n = list(task.log_r).index(task.string(row.token_ids.tolist())), len(row.token_ids)
        assert np.array_equal(row.log_pf, old.log_pf[k, :n]) and len(row.log_pterm) == n + 1
        assert np.array_equal(row.log_pterm, old.log_pterm[k, : n + 1])
        assert row.log_reward[0, -1] == pytest.approx(task.log_r[task.string(row.token_ids.tolist())])


def test_strings_are_drawn_in_proportion_to_their_probabilities(task: TinyTask, listed: Batch) -> None:
    lagged, draws = actor(task, 0), 20_000
    lagged.publish(listed, policy_of(task.log_r))
    drawn = [task.string(row.token_ids.tolist()) for row in lagged.sample(draws)]
    log_z = log_sum(list(task.log_r.values()))
    for z, log_r in task.log_r.items():
        p = float(np.exp(log_r - log_z))
        assert abs(drawn.count(z) / draws - p) < 5 * (p * (1 - p) / draws) ** 0.5


def test_a_policy_with_mass_on_strings_that_are_not_listed_is_refused(task: TinyTask, listed: Batch) -> None:
    leaking = policy_of(task.log_r)
    leaking.log_pterm[:, 0] -= 0.1
    with pytest.raises(ValueError, match=r"sums to 0\.99"):
        actor(task, 0).publish(listed, leaking)
