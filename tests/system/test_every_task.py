"""Every shipped recipe trains a tiny model without an engine: checked, scored, added to the buffer, learned from."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import numpy as np
import pytest
import torch

from buffer.poison_strings import PoisonStrings
from buffer.replay import ReplayBuffer
from buffer.server.connect import connect
from buffer.tool import actions_of
from buffer.types import IntArray, Trajectory, given_trajectory
from deploy.config import load_recipe
from deploy.driver.evaluation import judge
from deploy.driver.preflight import Checked
from learner.adapter import adapter_files, adapter_version
from learner.config import WHOLE_STRING_OBJECTIVES
from learner.learner import Learner
from learner.policy import LoraPolicy
from rewards.base_model import BaseModel
from rewards.task import Judges
from rewards.tasks import TASKS
from rewards.worker import RewardWorker
from tests.support.tiny_text import RECIPES, checked_recipe, make_text_model

CPU = torch.device("cpu")
ROWS = 8
OVERRIDES = (
    f"learner.batch_size={ROWS}",
    "learner.ranks=1",
    "buffer.min_size_to_sample=1",
    "buffer.samples_per_insert=0.0",
)


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_model(tmp_path_factory.mktemp("text-model"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrix products this small are slower on two threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def random_string(checked: Checked, rng: np.random.Generator) -> IntArray:
    """A string that an actor could have sampled: an allowed number of actions, and the tool's text."""
    spec, tool = checked.spec, checked.task.tool
    choices = [
        t for t in spec.allowed_token_ids or range(3, checked.tokenizer.get_vocab_size()) if t != spec.stop_token_id
    ]
    string: list[int] = []
    for _ in range(int(rng.integers(spec.min_actions, min(spec.max_actions, spec.min_actions + 6) + 1))):
        string.append(int(rng.choice(choices)))
        if tool and string[-1] in tool.triggers:
            string += tool.answer(np.array(string, np.int32)).tolist()
    return np.array(string, np.int32)


def sampled(checked: Checked, n: int) -> list[Trajectory]:
    """n unscored trajectories, four per prompt."""
    rng = np.random.default_rng(0)
    trajectories = []
    for k in range(n):
        prompt, ids = checked.prompts[k // 4 % len(checked.prompts)], random_string(checked, rng)
        made = given_trajectory(prompt, ids, "on_policy", is_action=actions_of(ids, checked.task.tool))
        trajectories.append(replace(made, adapter_digest="00"))
    return trajectories


@pytest.mark.parametrize(
    ("name", "overrides"), [*((name, ()) for name in RECIPES), ("infill", ("learner.objective=group_subtb",))]
)
def test_every_recipe_trains_a_tiny_model(
    name: str, overrides: Sequence[str], text_model: Path, redis_url: str
) -> None:
    checked = checked_recipe(name, text_model, *OVERRIDES, *overrides)
    config, task, buffer_name = checked.config, checked.task, uuid4().hex
    client = connect(redis_url)
    buffer = ReplayBuffer(client, config.buffer, buffer_name, config.rewards.term_weights)
    base = BaseModel(checked.spec, CPU) if task.needs_base_model else None
    poison_strings = PoisonStrings(client, buffer_name, "reward-0")
    whole_strings = config.learner.objective in WHOLE_STRING_OBJECTIVES
    worker = RewardWorker(
        "reward-0", config.task.name, task, base, buffer, poison_strings, config.rewards, whole_strings=whole_strings
    )
    added = worker.score([*sampled(checked, 4 * ROWS), *checked.demonstrations[:ROWS]])
    assert added.added >= ROWS and not added.refused, "every string can be scored"
    policy = LoraPolicy(checked.spec, CPU)
    before = [p.detach().clone() for p in policy.trainable_parameters()]
    learner = Learner(
        policy, buffer, config.learner, lambda v, f: None, checked.prompts[0], weights=config.rewards.term_weights
    )
    for _ in range(3):
        rows = buffer.draw(ROWS // 2, ROWS // 2, np.random.default_rng(1))
        has_reward = [row.trajectory.has_reward for row in rows]
        if name == "infill":
            assert all(r[:-1].any() != whole_strings for r in has_reward), "an objective gets no reward that it skips"
        row = learner.step(rows)
        assert np.isfinite(row["loss"]) and row["skipped_steps"] == 0
    files = adapter_files(policy)
    version = adapter_version(policy, files, 1, 3, rows[0].trajectory, 1e-3)
    assert np.isfinite(version.canary.log_probs).all(), "a row that was learned from can serve as the canary"
    assert any((p - old).abs().max() > 0 for p, old in zip(policy.trainable_parameters(), before, strict=True))
    rng = np.random.default_rng(2)
    samples = {
        prompt.id: worker.score_samples(prompt, [random_string(checked, rng) for _ in range(3)], [-9.0] * 3)
        for split in task.splits
        for prompt in list(task.prompts(split))[:2]
    }
    for split in task.splits:
        ids = [prompt.id for prompt in list(task.prompts(split))[:2]]
        judged = judge(checked, {i: samples[i] for i in ids}, Judges(), 1.0, n_drawn=3)
        assert judged.problem is None and judged.metrics["unscored"] == 0, split


def test_every_task_has_a_recipe_and_every_recipe_names_a_task() -> None:
    named = {load_recipe(name).task.name for name in RECIPES}
    assert named == set(TASKS)
