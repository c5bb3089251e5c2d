"""The vLLM engine against the learner: same weights, same log-probabilities; the right version or an error."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from tokenizers import Tokenizer

from actors.behaviour import Behaviour
from actors.canary import SAMPLED_TOKENS, SampleCheck
from actors.config import ActorConfig
from actors.engine import Engine
from actors.segments import Response, Sampled
from buffer.errors import AdapterError
from buffer.types import AdapterFiles, AdapterVersion, FloatArray, PolicySpec
from learner.adapter import adapter_files, adapter_version
from learner.batch import collate
from learner.policy import LoraPolicy
from tests.support.processes import ROOT, until
from tests.support.tiny import VOCABULARY, TinyTask, tiny_trajectory

pytestmark = pytest.mark.slow

RECORDED_BOUND = 2e-4
"""Largest difference between engine and learner, nats, fp32; measured 4e-5 on SmolLM2-135M and 1e-5 on the tiny model."""
ON_POLICY = Behaviour("on_policy", 1.0, suppress_stop=False)
LONG = Behaviour("suppressed", 1.3, suppress_stop=True)


@pytest.fixture(scope="module")
def task(tiny_model: Path) -> TinyTask:
    return TinyTask(Tokenizer.from_file(str(tiny_model / "tokenizer.json")))


@pytest.fixture(scope="module")
def engine(tiny_spec: PolicySpec, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """One engine for all tests; its start takes half a minute."""
    yield Engine(
        tiny_spec,
        ActorConfig(max_in_flight=32, max_model_len=64),
        tmp_path_factory.mktemp("adapters"),
        seed=1,
        on_gpu=False,
    )


def published(
    spec: PolicySpec, task: TinyTask, number: int, seed: int
) -> tuple[LoraPolicy, AdapterVersion, AdapterFiles]:
    """A policy with a random adapter, as the learner would publish it."""
    policy = LoraPolicy(spec, torch.device("cpu"))
    torch.manual_seed(seed)
    for name, parameter in policy.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    files = adapter_files(policy)
    return policy, adapter_version(policy, files, number, 0, tiny_trajectory(task, (0, 1)), RECORDED_BOUND), files


class RecordingCheck(SampleCheck):
    """Notes the version and the number of tokens of each comparison."""

    def __init__(self) -> None:
        super().__init__()
        self.compared: list[tuple[int, int]] = []

    def compare(self, version: AdapterVersion, reported: FloatArray, scored: FloatArray) -> float:
        self.compared.append((version.number, len(reported)))
        return super().compare(version, reported, scored)


def drain(engine: Engine, wanted: set[str]) -> dict[str, Sampled]:
    """Step until all of `wanted` are finished."""
    done: dict[str, Sampled] = {}
    while set(done) < wanted:
        done |= {s.request_id: s for s in engine.step() if s.request_id in wanted}
    return done


def largest_difference(policy: LoraPolicy, task: TinyTask, samples: list[Sampled]) -> float:
    rows = [tiny_trajectory(task, task.string(s.token_ids)) for s in samples]
    with torch.no_grad():
        scored = policy.log_probs(collate(rows, policy.spec))
    worst = 0.0
    for b, s in enumerate(samples):
        n = len(s.token_ids)
        worst = max(worst, np.abs(scored.log_pf[b, :n].numpy() - s.log_pf).max(initial=0.0))
        may_stop = np.isfinite(s.log_pterm)
        worst = max(worst, np.abs(scored.log_pterm[b, : n + 1].numpy() - s.log_pterm)[may_stop].max(initial=0.0))
    return worst


def test_actor_and_learner_agree_on_log_q_of_every_token_and_every_stop(
    engine: Engine, tiny_spec: PolicySpec, task: TinyTask
) -> None:
    policy, version, files = published(tiny_spec, task, 1, seed=1)
    assert engine.serve(version, files) < RECORDED_BOUND
    prompt = task.prompts()[0].token_ids
    ids = {engine.add(prompt, behaviour) for behaviour in (ON_POLICY, LONG) for _ in range(40)}
    samples = list(drain(engine, ids).values())
    assert {len(s.token_ids) for s in samples} >= {1, 3}
    assert largest_difference(policy, task, samples) < RECORDED_BOUND


@pytest.mark.parametrize("min_actions", [0, 2])
def test_forbidding_all_other_tokens_is_the_policy_that_allows_these(
    engine: Engine, tiny_spec: PolicySpec, task: TinyTask, monkeypatch: pytest.MonkeyPatch, min_actions: int
) -> None:
    allowing = replace(tiny_spec, min_actions=min_actions)
    every = np.arange(64, dtype=np.int32)
    others = tuple(every[~allowing.permits(every)].tolist())
    forbidding = replace(allowing, allowed_token_ids=None, forbidden_token_ids=others)
    policy, version, files = published(forbidding, task, 20 + min_actions, seed=1)
    monkeypatch.setattr(engine, "_spec", forbidding)
    assert engine.serve(version, files) < RECORDED_BOUND
    prompt = task.prompts()[0].token_ids
    samples = list(drain(engine, {engine.add(prompt, b) for b in (ON_POLICY, LONG) for _ in range(40)}).values())
    assert all(allowing.permits(s.token_ids).all() and len(s.token_ids) >= min_actions for s in samples)
    assert largest_difference(policy, task, samples) < RECORDED_BOUND
    monkeypatch.setattr(policy, "spec", allowing)
    monkeypatch.setattr(policy, "_allowed", policy._packed.output.of_policy(allowing)[0])
    monkeypatch.setattr(policy, "_stop_column", policy._packed.output.of_policy(allowing)[1])
    assert largest_difference(policy, task, samples) < RECORDED_BOUND


@pytest.mark.parametrize(
    ("min_actions", "behaviour"), [(0, ON_POLICY), (2, ON_POLICY), (0, LONG)], ids=["free", "min_actions", "suppressed"]
)
def test_min_actions_bans_eos__end_of_text_is_sampled_as_often_as_q_says(
    engine: Engine, task: TinyTask, monkeypatch: pytest.MonkeyPatch, min_actions: int, behaviour: Behaviour
) -> None:
    """It is an action like any other, though generation_config.json names it as an end: also while the stop is masked."""
    eos, n = VOCABULARY.index("</s>"), 1500
    spec = replace(engine._spec, min_actions=min_actions)
    spec = replace(spec, allowed_token_ids=(*(spec.allowed_token_ids or ()), eos))
    monkeypatch.setattr(engine, "_spec", spec)
    prompt, untempered = task.prompts()[0].token_ids, replace(behaviour, temperature=1.0)
    ids = {engine.add(prompt, untempered, use_base_model=True) for _ in range(n)}
    samples = [s for s in drain(engine, ids).values() if len(s.token_ids)]
    drawn = sum(int(s.token_ids[0]) == eos for s in samples)
    [log_q] = {round(float(s.log_pf[0]), 5) for s in samples if int(s.token_ids[0]) == eos}
    share = np.exp(log_q)
    if behaviour.suppress_stop:  # the behaviour masks the stop, log q is the policy's
        log_stop = float(samples[0].log_pterm[0])
        share /= 1 - np.exp(log_stop)
    total = n if min_actions == 0 and not behaviour.suppress_stop else len(samples)
    assert share > 0.1
    assert abs(drawn / total - share) < 5 * np.sqrt(share * (1 - share) / total)


def test_two_versions_in_flight_use_their_own_weights(engine: Engine, tiny_spec: PolicySpec, task: TinyTask) -> None:
    """Requests keep the version they started with; the prefix cache never mixes blocks; rows of both share a step."""
    old, old_version, old_files = published(tiny_spec, task, 2, seed=2)
    new, new_version, new_files = published(tiny_spec, task, 3, seed=3)
    prompt = task.prompts()[0].token_ids
    engine.serve(old_version, old_files)
    old_ids = {engine.add(prompt, LONG) for _ in range(10)}
    engine.serve(new_version, new_files)
    new_ids = {engine.add(prompt, LONG) for _ in range(10)}
    done = drain(engine, old_ids | new_ids)
    of_old, of_new = [done[i] for i in old_ids], [done[i] for i in new_ids]
    assert largest_difference(old, task, of_old) < RECORDED_BOUND
    assert largest_difference(new, task, of_new) < RECORDED_BOUND
    assert largest_difference(new, task, of_old) > 100 * RECORDED_BOUND, (
        "the versions differ, or this test shows nothing"
    )


def test_requests_that_finish_during_a_canary_check_are_returned_before_anything_advances(
    engine: Engine, tiny_spec: PolicySpec, task: TinyTask
) -> None:
    """The rollout loop then fills their places before the next step, so a new version costs no tokens."""
    _, old_version, old_files = published(tiny_spec, task, 5, seed=5)
    _, new_version, new_files = published(tiny_spec, task, 6, seed=6)
    engine.serve(old_version, old_files)
    drain(engine, {engine.add(task.prompts()[0].token_ids, LONG) for _ in range(SAMPLED_TOKENS)})  # compared by now
    ids = {engine.add(task.prompts()[0].token_ids, LONG) for _ in range(10)}
    for _ in range(tiny_spec.max_actions - 1):
        assert not engine.step()
    engine.serve(new_version, new_files)  # their last step
    busy_s = engine.busy_s
    assert engine.in_flight == len(ids)
    assert {sampled.request_id for sampled in engine.step()} == ids
    assert engine.busy_s == busy_s and engine.in_flight == 0


def test_base_model_requests_are_not_touched_by_the_adapter(
    engine: Engine, tiny_spec: PolicySpec, task: TinyTask
) -> None:
    """vLLM's stock CPU path lets a row without an adapter (index -1) select the last slot."""
    _, version, files = published(tiny_spec, task, 4, seed=4)
    engine.serve(version, files)
    prompt = task.prompts()[0].token_ids
    base_ids = {engine.add(prompt, LONG, use_base_model=True) for _ in range(10)}
    other_ids = {engine.add(prompt, LONG) for _ in range(10)}
    done = drain(engine, base_ids | other_ids)
    assert (
        largest_difference(LoraPolicy(tiny_spec, torch.device("cpu")), task, [done[i] for i in base_ids])
        < RECORDED_BOUND
    )


def test_a_sync_skipped_on_purpose_is_detected(engine: Engine, tiny_spec: PolicySpec, task: TinyTask) -> None:
    """The actor gets version 11 with the weights and the digest of version 10: only the canary can show it."""
    _, stale, stale_files = published(tiny_spec, task, 10, seed=10)
    _, announced, _ = published(tiny_spec, task, 11, seed=11)
    engine.serve(stale, stale_files)
    with pytest.raises(AdapterError, match="does not serve adapter version 11"):
        engine.serve(replace(announced, digest=stale.digest), stale_files)
    assert engine.version is not None and engine.version.number == 10, "the old version stays"


def test_bytes_with_another_digest_than_announced_are_rejected(
    engine: Engine, tiny_spec: PolicySpec, task: TinyTask
) -> None:
    _, version, files = published(tiny_spec, task, 12, seed=12)
    with pytest.raises(AdapterError, match="sha256"):
        engine.serve(version, AdapterFiles(files.weights + b"\0", files.config_json))


def test_an_adapter_of_another_rank_is_refused(engine: Engine, tiny_spec: PolicySpec, task: TinyTask) -> None:
    _, version, files = published(replace(tiny_spec, lora_rank=8), task, 13, seed=13)
    with pytest.raises(AdapterError, match=r"version 13 has rank 8, but the engine was started for .* = 16"):
        engine.serve(version, files)


@pytest.mark.parametrize("min_actions", [0, 2])
@pytest.mark.parametrize("behaviour", [ON_POLICY, LONG], ids=["on_policy", "suppressed"])
def test_first_samples_are_compared_once_a_version_and_equal_their_scores_whatever_is_masked(
    engine: Engine,
    tiny_spec: PolicySpec,
    task: TinyTask,
    monkeypatch: pytest.MonkeyPatch,
    behaviour: Behaviour,
    min_actions: int,
) -> None:
    """Allowed tokens are masked throughout, tokens are drawn at temperature 1.3, the stop is biased away."""
    monkeypatch.setattr(engine, "_sample_check", check := RecordingCheck())
    monkeypatch.setattr(engine, "_spec", replace(tiny_spec, min_actions=min_actions))
    number = 14 + min_actions + 4 * behaviour.suppress_stop
    _, version, files = published(tiny_spec, task, number, seed=number)
    engine.serve(version, files)
    drain(engine, {engine.add(task.prompts()[0].token_ids, behaviour) for _ in range(60)})
    [compared] = check.compared
    assert compared[0] == number and SAMPLED_TOKENS <= compared[1] < SAMPLED_TOKENS + 4
    assert check.differences.largest < RECORDED_BOUND


def test_samples_that_bypass_the_adapter_are_detected(
    engine: Engine, tiny_spec: PolicySpec, task: TinyTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary is scored with the adapter; requests that sample name none."""
    _, version, files = published(tiny_spec, task, 30, seed=30)
    next_segment = engine._next_segment

    def without_adapter(response: Response) -> None:
        served, response.served = response.served, None
        next_segment(response)
        response.served = served

    monkeypatch.setattr(engine, "_sample_check", SampleCheck())
    monkeypatch.setattr(engine, "_next_segment", without_adapter)
    engine.serve(version, files)
    ids = {engine.add(task.prompts()[0].token_ids, LONG) for _ in range(SAMPLED_TOKENS)}
    with pytest.raises(AdapterError, match="does not sample from adapter version 30, although it scores with it"):
        drain(engine, ids)
    wrong = engine._versions._versions[30]  # an actor would end here; the other tests go on
    wrong.compared = True
    wrong.in_flight.clear()
    while engine.in_flight:
        engine.step()


def test_a_version_that_is_removed_while_it_samples_is_an_error(
    engine: Engine, tiny_spec: PolicySpec, task: TinyTask
) -> None:
    _, version, files = published(tiny_spec, task, 31, seed=31)
    engine.serve(version, files)
    ids = {engine.add(task.prompts()[0].token_ids, LONG)}
    removed = engine._versions._versions.pop(31)
    with pytest.raises(AdapterError, match="version 31 was removed while responses were sampled from it"):
        engine.step()
    engine._versions._versions[31] = removed
    drain(engine, ids)


def test_old_versions_are_removed_when_their_last_request_is_done(
    engine: Engine, tiny_spec: PolicySpec, task: TinyTask
) -> None:
    prompt = task.prompts()[0].token_ids
    for number in range(40, 50):
        _, version, files = published(tiny_spec, task, number, seed=number)
        engine.serve(version, files)
        drain(engine, {engine.add(prompt, ON_POLICY)})
    engine.step()
    assert engine.can_take_version
    assert [p.name for p in engine._versions._folder.iterdir()] == ["v49"]


def test_the_fast_lora_products_equal_vllms_own() -> None:
    """Compared row by row with the stock formulas, in shapes with and without the stacked dimension."""
    from lm import cpu_lora

    torch.manual_seed(0)
    for stacked in (True, False):
        a = torch.randn(3, 1, 4, 8) if stacked else torch.randn(3, 4, 8)
        b = torch.randn(3, 1, 6, 4) if stacked else torch.randn(3, 6, 4)
        for indices in (torch.tensor([1, 1, 1, 1]), torch.tensor([0, 2, 0, 1])):
            x = torch.randn(4, 8)
            shrunk, slow_shrunk = torch.zeros(4, 4), torch.zeros(4, 4)
            out, slow_out = torch.ones(4, 10), torch.ones(4, 10)
            cpu_lora.bgmv_shrink(x, a, shrunk, indices, 0.5)
            cpu_lora.bgmv_expand_slice(shrunk, b, out, indices, 2, 6, True)
            stock_shrink(x, a, slow_shrunk, indices, 0.5)
            stock_expand_slice(slow_shrunk, b, slow_out, indices, 2, 6)
            torch.testing.assert_close(shrunk, slow_shrunk)
            torch.testing.assert_close(out, slow_out)


def test_rows_without_an_adapter_are_unchanged() -> None:
    from lm import cpu_lora

    a, x, y = torch.randn(3, 4, 8), torch.randn(3, 8), torch.zeros(3, 4)
    cpu_lora.bgmv_shrink(x, a, y, torch.tensor([-1, 1, -1]))
    assert y[0].abs().sum() == 0 and y[2].abs().sum() == 0 and y[1].abs().sum() > 0


def stock_shrink(x, weights, y, indices, scaling):  # type: ignore[no-untyped-def]
    """vLLM's formula: each row times its own copy of A."""
    chosen = weights[indices].squeeze(1) if weights.dim() == 4 else weights[indices]
    y[:, : chosen.shape[1]] = scaling * torch.einsum("bi,boi->bo", x, chosen)


def stock_expand_slice(x, weights, y, indices, offset, size):  # type: ignore[no-untyped-def]
    chosen = weights[indices].squeeze(1) if weights.dim() == 4 else weights[indices]
    y[:, offset : offset + size] += torch.einsum("bi,boi->bo", x, chosen)


def test_the_number_of_threads_can_change_after_the_start(engine: Engine) -> None:
    """vLLM's CPU worker replaces torch.set_num_threads by a warning."""
    for threads in (1, 2):
        engine.set_threads(threads)
        assert engine._engine.threads() == threads


def test_a_tensor_parallel_engine_agrees_too_and_ends_its_workers(tiny_model: Path, tmp_path: Path) -> None:
    """In a process of its own: vLLM's process groups belong to the whole process. TMPDIR as long as Slurm's: vLLM's
    sockets are elsewhere."""
    command = [sys.executable, "-m", "tests.support.spread_engine", str(tiny_model)]
    (long := tmp_path / ("job_1355700" * 9)).mkdir()
    environment = os.environ | {"TMPDIR": str(long)}
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=400, env=environment)
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(result["workers"]) >= 2 and result["difference"] < RECORDED_BOUND
    until(lambda: not any(psutil.pid_exists(pid) for pid in result["workers"]), 60, "the end of its workers")
