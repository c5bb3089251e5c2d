"""Targets whose strings can be enumerated, learned from all these strings on a tiny model: the exact posterior."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from buffer.config import BufferConfig
from buffer.replay import ReplayBuffer
from buffer.server.connect import connect
from buffer.tool import actions_of
from buffer.types import IntArray, PolicySpec, Trajectory, given_trajectory, total_log_reward
from learner.batch import collate
from learner.config import LearnerConfig
from learner.learner import Learner
from learner.objectives.balance import log_q_of_strings
from learner.policy import LoraPolicy
from rewards.base_model import BaseModel
from rewards.config import RewardConfig, TaskConfig
from rewards.scorer import Score, Scorer
from rewards.task import Task
from rewards.task_registry import make_task
from rewards.tasks.toys import ToyTask
from tests.support.tiny import SYMBOLS

CPU = torch.device("cpu")
STEPS = 250
SMALL = {"max_actions": 3, "prompt": "draw"}
STARTS_WITH_A = {"kind": "regex", "pattern": "a.*"}
TASKS: dict[str, tuple[str, dict[str, object], int]] = {
    "plain": ("toy", SMALL, 0),
    "with a tool": ("toy", SMALL | {"writes": {"b": ["c"]}}, 0),
    "with min_actions": ("toy", SMALL | {"min_actions": 2}, 2),
    "constrained, soft": ("constrained", {"prompts": ["draw"], "constraint": STARTS_WITH_A, "penalty": 2.0}, 0),
    "constrained, hard": ("constrained", {"prompts": ["draw"], "constraint": STARTS_WITH_A}, 0),
    "continuation": ("custom", {"prompts": ["draw"], "terms": [{"kind": "continuation"}]}, 0),
}
"""Name of the case -> task, options, min_actions."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrix products this small are slower on two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def strings_of(task: Task, tokenizer: Tokenizer, spec: PolicySpec) -> list[IntArray]:
    """All strings that the policy can write, the tool's text included."""
    if isinstance(task, ToyTask):
        return [ids for ids, _ in next(iter(task.support().values()))]
    ids = [tokenizer.token_to_id(symbol) for symbol in SYMBOLS]
    strings: list[list[int]] = [[]]
    for string in strings:
        strings += [[*string, token] for token in ids] if len(string) < spec.max_actions else []
    return [np.array(string, np.int32) for string in strings]


def scored(task: Task, spec: PolicySpec, strings: Sequence[IntArray], rewards: RewardConfig) -> list[Trajectory]:
    base = BaseModel(spec, CPU) if task.needs_base_model else None
    prompt = task.prompts()[0]
    rows = []
    for ids, score in zip(strings, Scorer(task, base, rewards).score([prompt] * len(strings), strings), strict=True):
        assert isinstance(score, Score), score
        rows.append(
            given_trajectory(prompt, ids, "all", score.log_reward, score.term_names, actions_of(ids, task.tool)),
        )
    return rows


def distances(
    policy: LoraPolicy, rows: Sequence[Trajectory], temperature: float, weights: Mapping[str, float]
) -> tuple[float, float]:
    """(total variation to R^(1/T) / Z, Σ q)"""
    batch = collate(rows, policy.spec)
    with torch.no_grad():
        log_probs = policy.log_probs(batch)
    q = log_q_of_strings(log_probs.log_pf, log_probs.log_pterm, batch.is_terminal).double().exp().numpy()
    log_r = np.array([total_log_reward(row, weights)[-1] for row in rows], np.float64) / temperature
    p = np.exp(log_r - np.logaddexp.reduce(log_r))
    return float(0.5 * np.abs(q - p).sum()), float(q.sum())


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("case", TASKS)
def test_the_exact_posterior_is_reached(
    tiny_spec: PolicySpec, tiny_model: Path, redis_url: str, case: str, temperature: float
) -> None:
    name, options, min_actions = TASKS[case]
    spec, weights = replace(tiny_spec, min_actions=min_actions), {"table": 1.0}
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    task = make_task(TaskConfig.model_validate({"name": name, "options": options}), tokenizer, tiny_model)
    rows = scored(task, spec, strings_of(task, tokenizer, spec), RewardConfig())
    replay = ReplayBuffer(connect(redis_url), BufferConfig(min_size_to_sample=1), uuid4().hex)
    replay.add(rows)
    config = LearnerConfig(
        steps=STEPS,
        batch_size=len(rows),
        learning_rate=5e-3,
        decay_fraction=0.7,
        objective="group_subtb",
        publish_every=1000,
        reward_temperature_start=temperature,
        reward_temperature_end=temperature,
    )
    torch.manual_seed(0)
    learner = Learner(LoraPolicy(spec, CPU), replay, config, lambda version, files: None, task.prompts()[0])
    before, _ = distances(learner._policy, rows, temperature, weights)
    rng = np.random.default_rng(0)
    for _ in range(config.steps):
        learner.step(replay.draw(0, config.batch_size, rng))
    after, total = distances(learner._policy, rows, temperature, weights)
    assert total == pytest.approx(1.0, abs=1e-4), "these are all strings that the policy can write"
    assert after <= 0.03 < before


def test_weights_and_a_length_penalty_change_the_target_as_documented(tiny_spec: PolicySpec, tiny_model: Path) -> None:
    tokenizer = Tokenizer.from_file(str(tiny_model / "tokenizer.json"))
    task = make_task(TaskConfig.model_validate({"name": "toy", "options": SMALL}), tokenizer, tiny_model)
    strings = strings_of(task, tokenizer, tiny_spec)
    rows = scored(task, tiny_spec, strings, RewardConfig(length_penalty=0.5))
    weights = {"table": 2.0}
    plain = {tuple(ids.tolist()): value for ids, value in task.support()["toy"]}
    for row in rows:
        ids = row.token_ids.tolist()
        expected = [2.0 * plain[tuple(ids[:i])] - 0.5 * i for i in range(len(ids) + 1)]
        np.testing.assert_allclose(total_log_reward(row, weights), expected, rtol=1e-5)
    batch = collate(rows, tiny_spec, weights=weights)
    for b, row in enumerate(rows):
        np.testing.assert_allclose(
            batch.log_reward[b, : len(row.token_ids) + 1], total_log_reward(row, weights), rtol=1e-6
        )
