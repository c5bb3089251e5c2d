"""A tool between the pieces of a response: what acting records is what the learner finds when it replays."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from actors.behaviour import Behaviour
from actors.config import ActorConfig
from actors.engine import Engine
from actors.segments import Sampled
from buffer.tool import actions_of
from buffer.types import IntArray, PolicySpec
from learner.adapter import adapter_files, adapter_version
from learner.batch import collate
from learner.policy import LoraPolicy
from tests.support.tiny import TinyTask, tiny_trajectory

pytestmark = pytest.mark.slow

BOUND = 2e-4
"""Of |engine - learner|, nats, as in test_engine.py."""
ON_POLICY, LONG = Behaviour("on_policy", 1.0, False), Behaviour("suppressed", 1.3, True)


class Echo:
    """After every b it writes c c, as the model's own tokens could be; after a b that follows a b, nothing."""

    max_tokens = 2

    def __init__(self, b: int, c: int) -> None:
        self.triggers = frozenset({b})
        self._b, self._c = b, c

    def answer(self, token_ids: IntArray) -> IntArray:
        twice = len(token_ids) > 1 and token_ids[-2] == self._b
        return np.array([] if twice else [self._c] * 2, dtype=np.int32)


@pytest.fixture(scope="module")
def task(tiny_model: Path) -> TinyTask:
    return TinyTask(Tokenizer.from_file(str(tiny_model / "tokenizer.json")))


@pytest.fixture(scope="module")
def tool(task: TinyTask) -> Echo:
    return Echo(*task.tokens((1, 2)).tolist())


@pytest.fixture(scope="module")
def spec(tiny_spec: PolicySpec) -> PolicySpec:
    return replace(tiny_spec, max_actions=4)


@pytest.fixture(scope="module")
def engine(spec: PolicySpec, tool: Echo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    config = ActorConfig(max_in_flight=32, max_model_len=64)
    yield Engine(spec, config, tmp_path_factory.mktemp("adapters"), 1, on_gpu=False, tool=tool)


def drawn(engine: Engine, task: TinyTask, behaviour: Behaviour, n: int = 60) -> list[Sampled]:
    wanted = {engine.add(task.prompts()[0].token_ids, behaviour) for _ in range(n)}
    done: list[Sampled] = []
    while len(done) < len(wanted):
        done += [s for s in engine.step() if s.request_id in wanted]
    return done


@pytest.mark.parametrize("min_actions", [0, 2])
@pytest.mark.parametrize("behaviour", [ON_POLICY, LONG], ids=["on_policy", "suppressed"])
def test_acting_with_a_tool_is_what_replay_makes_of_it(
    engine: Engine, spec: PolicySpec, task: TinyTask, tool: Echo, behaviour: Behaviour, min_actions: int
) -> None:
    spec = replace(spec, min_actions=min_actions)
    engine._spec = spec
    policy = LoraPolicy(spec, torch.device("cpu"))
    torch.manual_seed(3)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    number = 1 + 2 * min_actions + behaviour.suppress_stop
    files = adapter_files(policy)
    engine.serve(adapter_version(policy, files, number, 0, tiny_trajectory(task, (0, 1)), BOUND), files)
    samples = drawn(engine, task, behaviour)
    assert any((~s.is_action).any() for s in samples), "the tool wrote"
    rows = []
    for s in samples:
        n = len(s.token_ids)
        assert s.is_action.tolist() == actions_of(s.token_ids, tool).tolist(), "replay knows who wrote what"
        assert min_actions <= s.is_action.sum() <= spec.max_actions
        assert behaviour is ON_POLICY or s.is_action.sum() == spec.max_actions
        base = tiny_trajectory(task, (0,) * n)
        rows.append(replace(base, token_ids=s.token_ids, is_action=s.is_action))
    batch = collate(rows, spec)
    with torch.no_grad():
        found = policy.log_probs(batch)
    for b, s in enumerate(samples):
        n, acts = len(s.token_ids), s.is_action
        np.testing.assert_allclose(found.log_pf[b, :n].numpy()[acts], s.log_pf[acts], atol=BOUND)
        counts = batch.is_terminal[b, : n + 1].numpy()
        np.testing.assert_allclose(found.log_pterm[b, : n + 1].numpy()[counts], s.log_pterm[counts], atol=BOUND)
        assert not s.log_pf[~acts].any(), "no log q where the tool wrote"


def test_a_piece_on_the_prefix_cache_keeps_the_version_it_began_with(
    engine: Engine, spec: PolicySpec, task: TinyTask
) -> None:
    """A newer version arrives while responses are under way: their later pieces stay with the old one."""
    engine._spec = spec
    policies = []
    for number in (20, 21):
        policy = LoraPolicy(spec, torch.device("cpu"))
        torch.manual_seed(number)
        for name, parameter in policy.model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        policies.append(policy)
    first, second = (adapter_files(policy) for policy in policies)
    example = tiny_trajectory(task, (0, 1))
    engine.serve(adapter_version(policies[0], first, 20, 0, example, BOUND), first)
    wanted = {engine.add(task.prompts()[0].token_ids, LONG) for _ in range(20)}
    engine.serve(adapter_version(policies[1], second, 21, 0, example, BOUND), second)
    done: list[Sampled] = []
    while len(done) < len(wanted):
        done += [s for s in engine.step() if s.request_id in wanted]
    rows = [
        replace(tiny_trajectory(task, (0,) * len(s.token_ids)), token_ids=s.token_ids, is_action=s.is_action)
        for s in done
    ]
    with torch.no_grad():
        old, new = (policy.log_probs(collate(rows, spec)) for policy in policies)
    for b, s in enumerate(done):
        acts = s.is_action
        np.testing.assert_allclose(old.log_pf[b, : len(acts)].numpy()[acts], s.log_pf[acts], atol=BOUND)
    far = max(float((new.log_pf - old.log_pf).abs()[b, : len(s.token_ids)].max()) for b, s in enumerate(done))
    assert far > 100 * BOUND, "the versions differ, or this test shows nothing"
