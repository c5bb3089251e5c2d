"""Every shipped recipe on a tiny model: checked, scored, given to the buffer, learned from. No engine: seconds."""

from collections.abc import Iterator
from dataclasses import replace
from importlib import resources
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
from deploy.driver.preflight import Checked, check
from learner.adapter import adapter_files, adapter_version
from learner.learner import Learner
from learner.policy import LoraPolicy
from rewards.base_model import BaseModel
from rewards.task import TRAIN, Judges
from rewards.tasks import TASKS
from rewards.worker import RewardWorker
from tests.support.tiny_text import make_text_model

CPU = torch.device("cpu")
RECIPES = sorted(
    p.name[:-5] for p in resources.files("deploy").joinpath("recipes").iterdir() if p.name.endswith(".toml")
)
ROWS = 8


@pytest.fixture(scope="module")
def text_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_text_model(tmp_path_factory.mktemp("text-model"))


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Products this small are slower on two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recipe(name: str, model: Path) -> Checked:
    """As shipped, on the tiny model, on CPU."""
    overrides = [f'model.name="{model}"', 'model.dtype="float32"', 'model.quantization="none"']
    overrides += [
        "learner.gpus=0.0",
        "rewards.gpus=0.0",
        "actors.gpus=0.0",
        'learner.device="cpu"',
        'rewards.device="cpu"',
    ]
    overrides += [
        f"learner.batch_size={ROWS}",
        "learner.ranks=1",
        "buffer.min_size_to_sample=1",
        "buffer.samples_per_insert=0.0",
    ]
    return check(load_recipe(name, overrides))


def random_string(checked: Checked, rng: np.random.Generator) -> IntArray:
    """As acting could have led to: with the tool's text, of an allowed number of actions."""
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
    rng = np.random.default_rng(0)
    found = []
    for k in range(n):
        prompt, ids = checked.prompts[k // 4 % len(checked.prompts)], random_string(checked, rng)
        made = given_trajectory(prompt, ids, "on_policy", is_action=actions_of(ids, checked.task.tool))
        found.append(replace(made, adapter_digest="00"))
    return found


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_a_tiny_model(name: str, text_model: Path, redis_url: str) -> None:
    checked = recipe(name, text_model)
    config, task, buffer_name = checked.config, checked.task, uuid4().hex
    client = connect(redis_url)
    buffer = ReplayBuffer(client, config.buffer, buffer_name, config.rewards.weights)
    base = BaseModel(checked.spec, CPU) if task.needs_base_model else None
    suspects = PoisonStrings(client, buffer_name, "reward-0")
    worker = RewardWorker("reward-0", config.task.name, task, base, buffer, suspects, config.rewards)
    added = worker.score([*sampled(checked, 4 * ROWS), *checked.demonstrations[:ROWS]])
    assert added.added >= ROWS and not added.refused, "every string can be scored"
    policy = LoraPolicy(checked.spec, CPU)
    before = [p.detach().clone() for p in policy.trainable_parameters()]
    learner = Learner(
        policy, buffer, config.learner, lambda v, f: None, checked.prompts[0], weights=config.rewards.weights
    )
    for _ in range(3):
        rows = buffer.draw(ROWS // 2, ROWS // 2, np.random.default_rng(1))
        row = learner.step(rows)
        assert np.isfinite(row["loss"]) and row["skipped_steps"] == 0
    files = adapter_files(policy)
    version = adapter_version(policy, files, 1, 3, rows[0].trajectory, 1e-3)
    assert np.isfinite(version.canary.log_probs).all(), "what was learned from can prove an adapter"
    assert any((p - old).abs().max() > 0 for p, old in zip(policy.trainable_parameters(), before, strict=True))
    rng = np.random.default_rng(2)
    samples = {
        prompt.id: worker.score_samples(prompt, [random_string(checked, rng) for _ in range(3)], [-9.0] * 3)
        for split in task.splits
        for prompt in list(task.prompts(split))[:2]
    }
    for split in task.splits:
        ids = [prompt.id for prompt in list(task.prompts(split))[:2]]
        judged = judge(checked, {i: samples[i] for i in ids}, Judges(), n_drawn=3)
        assert judged.problem is None and judged.metrics["unscored"] == 0, split


def test_every_task_has_a_recipe_for_cpus_and_every_name_is_a_task() -> None:
    named = {load_recipe(name).task.name for name in RECIPES}
    assert named == set(TASKS)


def test_splits_share_no_prompt(text_model: Path) -> None:
    for name in RECIPES:
        task = recipe(name, text_model).task
        texts = [prompt.text for split in task.splits for prompt in task.prompts(split)]
        assert len(set(texts)) == len(texts), name
        assert TRAIN in task.splits
