"""Everything that can be known before anything heavy starts: model, tokens, task, reward, floor, store."""

import importlib.util
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors import safe_open
from tokenizers import Tokenizer

from buffer.config import BufferConfig
from buffer.connect import connect
from buffer.errors import ConfigError, ModelError, RewardError
from buffer.server import check_port
from buffer.tool import Tool
from buffer.types import IntArray, PolicySpec, Prompt, Trajectory
from deploy.config import ModelConfig, PolicyConfig, RunConfig
from deploy.demonstrations import given_string, read_demonstrations
from deploy.models import read_tokenizer, resolve_model
from rewards.config import RewardConfig, TaskConfig
from rewards.guard import Failed, guarded
from rewards.load import LOAD_LIMIT_S, make_task
from rewards.task import TRAIN, BaseLogProbs, Task, Terms, check_terms

LARGEST_FLOOR_SHARE = 0.01
"""Of the target's known mass that the floor may add."""


@dataclass(frozen=True, slots=True)
class Checked:
    """A configuration with what it refers to."""

    config: RunConfig
    spec: PolicySpec
    tokenizer: Tokenizer
    task: Task
    prompts: Sequence[Prompt]
    demonstrations: Sequence[Trajectory]


def check(config: RunConfig) -> Checked:
    """Resolve and check all that a recipe names, in seconds. Raises a TributaryError with value, rule and remedy."""
    folder = resolve_model(config.model.name)
    tokenizer = read_tokenizer(folder)
    spec = policy_spec(config.model, config.policy, folder, tokenizer)
    _check_targets(config.model, folder)
    task = make_task(config.task, tokenizer)
    _check_length(config, folder)
    _check_tool(task.tool, spec)
    try:
        task.check_policy(spec)
    except ValueError as error:
        raise ConfigError(f"task {config.task.name!r} and section [policy] don't fit: {error}") from error
    prompts = _check_prompts(task, config)
    terms = _check_reward(task, prompts[0], spec, tokenizer.get_vocab_size(), config)
    _check_weights(config.rewards, terms)
    _check_floor(task, config.task)
    _check_devices(config)
    return Checked(config, spec, tokenizer, task, prompts, _given(config, task, prompts, tokenizer, spec))


def check_store(config: BufferConfig) -> None:
    """Redis answers and lets us in; or, where the run starts its own, the port is free. StoreError or ConfigError."""
    if config.url:
        connect(config.url).close()
    elif config.port:
        check_port(config.port)


def policy_spec(model: ModelConfig, policy: PolicyConfig, folder: Path, tokenizer: Tokenizer) -> PolicySpec:
    """What actor and learner must agree on. Raises ConfigError for a stop or allowed token that is not one token."""
    return PolicySpec(
        base_model=str(folder.resolve()),
        dtype=model.dtype,
        quantization=model.quantization,
        lora_rank=model.lora_rank,
        lora_alpha=model.lora_alpha,
        lora_targets=tuple(model.lora_targets),
        stop_token_id=_one_token(tokenizer, policy.stop, "policy.stop"),
        max_actions=policy.max_actions,
        min_actions=policy.min_actions,
        allowed_token_ids=None
        if policy.allowed_tokens is None
        else tuple(_one_token(tokenizer, text, "policy.allowed_tokens") for text in policy.allowed_tokens),
    )


def _one_token(tokenizer: Tokenizer, text: str, field: str) -> int:
    """A token by its exact name (such as <|im_end|>), or the one token that a text becomes."""
    token = tokenizer.token_to_id(text)
    if token is not None:
        return int(token)
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    if len(ids) != 1:
        pieces = ", ".join(repr(tokenizer.decode([i], skip_special_tokens=False)) for i in ids) or "none"
        raise ConfigError(
            f"{field} = {text!r} is not one token of the model's vocabulary (it becomes {len(ids)}: {pieces}). "
            "Choose a text that is exactly one token, such as '.' or a newline, or the name of a special token."
        )
    return int(ids[0])


def _check_targets(model: ModelConfig, folder: Path) -> None:
    names = {name for file in sorted(folder.glob("*.safetensors")) for name in _tensor_names(file)}
    layers = {name.split(".")[-2] for name in names if name.endswith(".weight") and name.count(".") >= 2}
    unknown = [target for target in model.lora_targets if target not in layers]
    if unknown:
        raise ConfigError(
            f"model.lora_targets names {', '.join(unknown)}, which {model.name} does not have. "
            f"It has: {', '.join(sorted(layers))}."
        )


def _check_length(config: RunConfig, folder: Path) -> None:
    longest = json.loads((folder / "config.json").read_text()).get("max_position_embeddings")
    if longest and config.actors.max_model_len > longest:
        raise ConfigError(
            f"actors.max_model_len = {config.actors.max_model_len} is more than the {longest} positions of "
            f"{config.model.name}: lower it."
        )


def _tensor_names(file: Path) -> list[str]:
    try:
        with safe_open(file, framework="np") as tensors:
            return list(tensors.keys())
    except Exception as error:  # safetensors raises a class of its own for any damage
        raise ModelError(
            f"{file.name} of the base model can't be read ({error}): the file is damaged. Fetch the model again."
        ) from error


def _check_prompts(task: Task, config: RunConfig) -> Sequence[Prompt]:
    try:
        by_split = guarded(
            lambda: {split: list(task.prompts(split)) for split in task.splits}, LOAD_LIMIT_S, "its method prompts"
        )
    except Failed as error:
        raise ConfigError(f"task {config.task.name!r}: {error}. It must return the prompts of each split.") from error
    prompts, everything = by_split.get(TRAIN, []), [prompt for split in by_split.values() for prompt in split]
    if not prompts or not all(isinstance(prompt, Prompt) and len(prompt.token_ids) for prompt in everything):
        raise ConfigError(
            f"task {config.task.name!r} has no prompt, or gives something else. The split {TRAIN!r} needs at least one "
            "Prompt (buffer/types.py), and each needs a token."
        )
    longest = max(len(prompt.token_ids) for prompt in everything)
    of_tool = 0 if task.tool is None else task.tool.max_tokens
    room = config.actors.max_model_len - config.policy.max_actions * (1 + of_tool)
    if longest > room:
        raise ConfigError(
            f"the longest prompt has {longest} tokens and actors.max_model_len = {config.actors.max_model_len} leaves "
            f"{room} beside policy.max_actions = {config.policy.max_actions}"
            + (f", behind each of which the tool may write {of_tool}" if of_tool else "")
            + ". Raise actors.max_model_len."
        )
    if len({prompt.id for prompt in everything}) < len(everything):
        raise ConfigError(
            f"task {config.task.name!r} gives two prompts the same id: ids must be unique, over all its splits."
        )
    return prompts


def _check_tool(tool: Tool | None, spec: PolicySpec) -> None:
    if tool is not None and spec.stop_token_id in tool.triggers:
        raise ConfigError(
            "the task's tool waits for the token that policy.stop names: it would never be asked. Choose another stop."
        )


def _check_weights(rewards: RewardConfig, terms: set[str]) -> None:
    known = sorted(name for name in terms | ({"length"} if rewards.length_penalty else set()) if name[0] != "_")
    if unknown := sorted(set(rewards.weights) - set(known)):
        raise ConfigError(
            f"rewards.weights names {', '.join(unknown)}, which the task's reward does not have. It has: "
            f"{', '.join(known)}."
        )


def _given(
    config: RunConfig, task: Task, prompts: Sequence[Prompt], tokenizer: Tokenizer, spec: PolicySpec
) -> list[Trajectory]:
    """The recipe's given strings and those that the task knows."""
    by_id = {prompt.id: prompt for prompt in prompts}
    given = [
        given_string(by_id[prompt_id], text, f"demonstration {k} of the task", tokenizer, spec, task.tool)
        for k, (prompt_id, text) in enumerate(task.demonstrations(), start=1)
    ]
    if path := config.task.demonstrations:
        given += read_demonstrations(Path(path), prompts, tokenizer, spec, task.tool)
    if config.learner.objective == "sft" and not given:
        raise ConfigError(
            "learner.objective = 'sft' learns from given strings and task.demonstrations names none: give a file, or "
            "choose an objective that learns from samples."
        )
    return given


def _check_reward(task: Task, prompt: Prompt, spec: PolicySpec, vocabulary: int, config: RunConfig) -> set[str]:
    """The names of the reward's terms, from three strings scored with a made-up base model: NaN, wrong shapes,
    exceptions and endless loops show before any loading."""
    rng, name, found = np.random.default_rng(0), config.task.name, set[str]()
    choices = np.array(spec.allowed_token_ids or range(vocabulary), dtype=np.int32)
    for n in sorted({0, 1, spec.max_actions}):
        token_ids = rng.choice(choices, size=n).astype(np.int32)
        behind = np.full(n + 1, -3.0, np.float32)
        said = BaseLogProbs(np.full(n, -5.0, np.float32), behind, behind)

        def ask(token_ids: IntArray = token_ids, said: BaseLogProbs = said) -> tuple[Terms, Mapping[str, float]]:
            answers = [said for _ in task.questions(prompt)]
            return task.log_reward(prompt, token_ids, answers), task.labels(prompt, token_ids)

        try:
            terms, labels = guarded(ask, config.rewards.time_limit_s, f"task {name!r}")
        except Failed as error:
            raise RewardError(
                f"{error}, on a response of {n} tokens {token_ids.tolist()[:8]}. "
                "log_reward and labels must answer for any string, the empty one included."
            ) from error
        check_terms(terms, n, name)
        found |= set(terms)
        bad = [key for key, value in labels.items() if not math.isfinite(value)]
        if bad:
            raise RewardError(
                f"labels of task {name!r} has {bad[0]} = {labels[bad[0]]} on a response of {n} tokens: "
                "it must be finite."
            )
    return found


def _check_floor(task: Task, config: TaskConfig) -> None:
    known, floor = task.log_mass()
    if math.isfinite(known) and floor - known > math.log(LARGEST_FLOOR_SHARE):
        raise ConfigError(
            f"task {config.name!r} with options {json.dumps(config.options)}: the floor for all other strings may "
            f"weigh {math.exp(floor - known):.1%} of the target, more than {LARGEST_FLOOR_SHARE:.0%}: "
            "the optimum would be samples of the floor. "
            "Lower the floor (for the relative floor: a smaller log_epsilon)."
        )


def _check_devices(config: RunConfig) -> None:
    if config.model.quantization != "none" and not config.actors.gpus:
        raise ConfigError(
            f"model.quantization = {config.model.quantization!r} but actors.gpus = 0: vLLM quantises on GPUs only, and "
            "actors and learner must have the same policy. Give the actors GPUs, or set it to none."
        )
    if config.model.quantization != "none" and importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            f"model.quantization = {config.model.quantization!r} needs bitsandbytes, which is not installed. Install "
            "tributary[nf4], or set it to none."
        )
    for section, part in (("learner", config.learner), ("rewards", config.rewards)):
        if part.device.startswith("cuda") and not part.gpus:
            raise ConfigError(
                f"{section}.device = {part.device!r} but {section}.gpus = 0, so Ray would hide all GPUs from it. "
                f"Set {section}.gpus to a share such as 0.2, or {section}.device to cpu."
            )
