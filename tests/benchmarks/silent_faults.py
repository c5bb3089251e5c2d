"""Twelve faults that make a trainer sample another policy than it trains, and what notices each of them here.

    python tests/benchmarks/silent_faults.py [--small] [--json] [--dtype float32] [--versions 6]

Each fault was published against another trainer or engine, or is a variant of one that was. It is put into the real
parts by a patch and plays in a run of one thread (tests/support/lockstep_run.py): vLLM's engine on a CPU, the rollout
actor, the learner with the objective and learning rate of the recipe `continue`, without warm-up, and a Redis server; a
tiny model, two prompts, sixteen requests in flight, a version after each step. A run without a fault comes first.

| fault | published as |
|---|---|
| base model sampled | https://github.com/verl-project/verl/issues/7495 |
| adapter never requested | https://github.com/verl-project/verl/pull/3821, https://github.com/unslothai/unsloth/pull/8701 |
| name loaded again over its prefix cache | https://github.com/vllm-project/vllm/issues/42125 |
| adapter applied twice after a resume | https://github.com/modelscope/ms-swift/issues/8233 |
| written adapter equal to the base | https://github.com/verl-project/verl/issues/7285 |
| one layer of 32 trained | no thread known |
| base weights trained | no thread known |
| keys and values of the version before | https://github.com/NovaSky-AI/SkyRL/issues/2246 |
| adapter unloaded in flight | https://github.com/huggingface/trl/pull/7017 |
| another base model in the engine | no thread known |
| log-probabilities after top-p | https://github.com/huggingface/trl/issues/6789 |
| adapter of another rank | https://github.com/huggingface/trl/pull/6007 |

Figures, in the JSON object of the last line:

rows                    for each fault: detected, whether an error of this project names it; versions, the wrong versions that
                        had finished a response by then (0: none); by, the code that noticed; sentence, what the user reads
faults, detected        numbers of rows
versions_max            the largest of `versions`
healthy_versions        versions of the run without a fault
healthy_difference_max  largest mean difference of its canaries and first samples, nats
dtype, tolerance        of the weights; of a mean difference, nats
"""

import functools
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from deploy.commands.environment import quiet_engine

quiet_engine()

import torch
from peft import LoraConfig
from safetensors.torch import load, save

from actors.config import ActorConfig
from actors.engine import Engine
from actors.segments import Response, segment_params
from actors.served_versions import ServedVersion, ServedVersions
from buffer.errors import TributaryError
from buffer.server.connect import connect
from buffer.server.redis_server import RedisServer
from buffer.types import AdapterFiles, AdapterVersion
from deploy.artifacts.run_folder import RunFolder
from deploy.config import load_recipe
from deploy.driver.preflight import Checked, check
from learner.adapter import digest, load_adapter
from learner.checkpoint import Checkpoints
from learner.policy import LoraPolicy
from tests.support.benchmark import ROOT, make_parser, parse, print_result
from tests.support.lockstep_run import Parts, reset
from tests.support.tiny_text import make_text_model

LAYERS = 32
PROMPTS = 2


def base_sampled(parts: Parts) -> None:
    """The engine drops the adapter of every request, of samples and of canaries."""
    submit = parts.engine._submit
    with patch.object(parts.engine, "_submit", lambda tokens, params, served: submit(tokens, params, None)):
        parts.play()


def never_requested(parts: Parts) -> None:
    """The requests that sample name no adapter; those of canaries do."""
    next_segment = parts.engine._next_segment

    def without_adapter(response: Response) -> None:
        served, response.served = response.served, None
        next_segment(response)
        response.served = served

    with patch.object(parts.engine, "_next_segment", without_adapter):
        parts.play()


def one_name(parts: Parts) -> None:
    """All versions have one name, id and folder, and vLLM is told to load it again."""
    from vllm.lora.request import LoRARequest

    def write(versions: ServedVersions, version: AdapterVersion, files: AdapterFiles) -> ServedVersion:
        folder = versions._folder / "adapter"
        folder.mkdir(exist_ok=True)
        (folder / "adapter_model.safetensors").write_bytes(files.weights)
        (folder / "adapter_config.json").write_text(files.config_json)
        return ServedVersion(version, LoRARequest("adapter", 1, str(folder), load_inplace=True), folder)

    with patch.object(ServedVersions, "write", write), patch.object(ServedVersions, "remove", lambda *_: None):
        parts.play()


def applied_twice(parts: Parts) -> None:
    """A learner that resumes adds the checkpoint's adapter to the base weights, and loads it too."""
    checkpoints = Checkpoints(parts.folder / "checkpoints", keep=1)
    parts.play_healthy(checkpoints).learner.save()

    def load_and_merge(policy: LoraPolicy, tensors: dict[str, torch.Tensor]) -> None:
        load_adapter(policy, tensors)
        for layer in policy.model.modules():
            if hasattr(layer, "get_delta_weight"):
                layer.get_base_layer().weight.data += layer.get_delta_weight("default")

    with patch("learner.checkpointer.load_adapter", load_and_merge):
        parts.play(checkpoints=checkpoints)


def equal_to_base(parts: Parts) -> None:
    """The folder adapter/ of a run gets B = 0, with a digest that fits, and is served as `evaluate` and `sample` do."""
    version, files = parts.play_healthy().newest
    zeroed = {name: tensor * (".lora_B." not in name) for name, tensor in load(files.weights).items()}
    files = replace(files, weights=save(zeroed))
    folder = RunFolder.create(parts.folder / "run")
    folder.write_adapter(files)
    folder.write_version(replace(version, digest=digest(files)))
    reset(parts.engine, parts.folder / "evaluate")
    parts.runs.clear()
    parts.engine.serve(folder.version(), folder.adapter())


def few_layers(parts: Parts) -> None:
    """PEFT puts an adapter on the first layer alone."""
    deep = make_text_model(parts.folder / "deep", layers=LAYERS)
    with patch("learner.policy.LoraConfig", functools.partial(LoraConfig, layers_to_transform=[0])):
        parts.policy(base_model=str(deep))


def base_trained(parts: Parts) -> None:
    """The base weights have gradients and belong to the optimiser."""
    policy = parts.policy()
    policy.model.requires_grad_(True)
    parts.play(policy=policy)


def stale_cache(parts: Parts) -> None:
    """Blocks of the prefix cache are found by their tokens, whatever version wrote them."""
    with patch("vllm.v1.core.kv_cache_utils._gen_lora_extra_hash_keys", lambda request: []):
        parts.play()


def unloaded_in_flight(parts: Parts) -> None:
    """A version is removed as soon as a newer one is served, whoever samples from it."""

    def remove_all_but_newest(versions: ServedVersions) -> None:
        for number in [number for number, served in versions._versions.items() if served is not versions.newest]:
            versions.remove(versions._versions.pop(number))

    with patch.object(ServedVersions, "remove_idle", remove_all_but_newest):
        parts.play()


def other_base_model(parts: Parts) -> None:
    """Engine and learner have different folders of one architecture (the learner's changes: the engine is shared)."""
    other = make_text_model(parts.folder / "other", seed=1)
    parts.play(policy=parts.policy(base_model=str(other)))


def after_top_p(parts: Parts) -> None:
    """Sampling with top-p 0.9, and log-probabilities of the distribution that is left."""
    sampler = parts.engine._engine._engine.model_executor.driver_worker.worker.model_runner.sampler

    def with_top_p(*arguments: Any) -> Any:
        params = segment_params(*arguments)
        params.top_p = 0.9
        return params

    with (
        patch("actors.engine.segment_params", with_top_p),
        patch.object(sampler, "logprobs_mode", "processed_logprobs"),
        patch.object(sampler.topk_topp_sampler, "logprobs_mode", "processed_logprobs"),
    ):
        parts.play()


def other_rank(parts: Parts) -> None:
    """The learner's adapter has twice the rank that the engine was started for."""
    parts.play(policy=parts.policy(lora_rank=2 * parts.checked.spec.lora_rank))


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault and how it is played."""

    name: str
    play: Callable[[Parts], object]
    first_wrong: int = 1
    """The first version that it makes wrong. Version 0 equals the base model, so most faults leave it right."""


FAULTS = (
    Fault("base model sampled", base_sampled),
    Fault("adapter never requested", never_requested),
    Fault("name loaded again over its prefix cache", one_name),
    Fault("adapter applied twice after a resume", applied_twice, first_wrong=0),
    Fault("written adapter equal to the base", equal_to_base, first_wrong=0),
    Fault(f"one layer of {LAYERS} trained", few_layers, first_wrong=0),
    Fault("base weights trained", base_trained),
    Fault("keys and values of the version before", stale_cache),
    Fault("adapter unloaded in flight", unloaded_in_flight),
    Fault("another base model in the engine", other_base_model, first_wrong=0),
    Fault("log-probabilities after top-p", after_top_p, first_wrong=0),
    Fault("adapter of another rank", other_rank, first_wrong=0),
)


def observe(fault: Fault, parts: Parts) -> dict[str, Any]:
    """The row of a fault."""
    reset(parts.engine, parts.folder / "before")
    parts.runs.clear()
    try:
        fault.play(parts)
        detected, by, sentence = False, "", ""
    except Exception as error:  # an error of vLLM's or torch's own does not name the fault
        detected, by, sentence = isinstance(error, TributaryError), place(error), str(error)
    used = parts.runs[-1].used if parts.runs else []
    return {
        "fault": fault.name,
        "detected": detected,
        "versions": sum(number >= fault.first_wrong for number in used),
        "by": by,
        "sentence": sentence,
    }


def place(error: Exception) -> str:
    """File and function that raised an error."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    assert trace is not None
    code = trace.tb_frame.f_code
    path = Path(code.co_filename)
    ours = path.is_relative_to(ROOT) and "site-packages" not in path.parts
    return f"{path.relative_to(ROOT) if ours else path.name}: {code.co_qualname}"


def recipe(model: Path, dtype: str) -> Checked:
    """The recipe `continue` on the model in a folder."""
    options = [f'model.name="{model}"', f'model.dtype="{dtype}"', "policy.max_actions=16", "learner.warmup_steps=0"]
    options += ["actors.max_in_flight=16", f"task.options.count={PROMPTS}", "task.options.held_out=0"]
    return check(load_recipe("continue", options))


def engine_config(checked: Checked) -> ActorConfig:
    """Room for one request more than the actor has: a canary is scored while responses are half sampled."""
    actors = checked.config.actors
    return actors.model_copy(update={"max_in_flight": actors.max_in_flight + 1})


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Figures of the rows."""
    detected = [row for row in rows if row["detected"]]
    return {"faults": len(rows), "detected": len(detected), "versions_max": max(row["versions"] for row in rows)}


def main() -> None:
    """Play all faults and print."""
    parser = make_parser(__doc__)
    parser.add_argument("--dtype", default="float32", help="The dtype of engine and learner.")
    parser.add_argument("--versions", type=int, default=6, help="Versions in which a fault has to be noticed.")
    args = parse(parser, versions=3)
    with tempfile.TemporaryDirectory() as scratch, RedisServer.start(Path(scratch) / "redis") as server:
        checked = recipe(make_text_model(Path(scratch) / "model"), args.dtype)
        engine = Engine(checked.spec, engine_config(checked), Path(scratch) / "start", seed=1, on_gpu=False)
        with connect(server.url) as client:
            parts = Parts(checked, engine, client, Path(scratch), args.versions)
            healthy = {
                "healthy_versions": len(parts.play_healthy().used),
                "healthy_difference_max": engine.canary_difference_max,
            }
            rows = [observe(fault, parts) for fault in FAULTS]
    tolerance = checked.config.learner.canary_tolerance_of(args.dtype)
    result = {"rows": rows, **summary(rows), **healthy, "dtype": args.dtype, "tolerance": tolerance}
    if not args.json:
        for row in rows:
            print(*(f"{key:10} {value}" for key, value in row.items()), sep="\n", end="\n\n")
    print_result(result, json_only=True)


if __name__ == "__main__":
    main()
