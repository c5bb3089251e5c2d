"""Checks of a recipe before anything heavy starts: model, tokens, task, reward, floor, store."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer

from buffer.config import BufferConfig
from buffer.errors import ConfigError
from buffer.server.connect import connect
from buffer.server.redis_server import check_port
from buffer.stored_policy import StoredPolicy
from buffer.types import PolicySpec, Prompt, Trajectory
from deploy.config import ModelConfig, PolicyConfig, RunConfig
from deploy.driver.check_engine import check_engine
from deploy.driver.check_machine import check_machine
from deploy.driver.check_model import ModelFiles, check_model, check_tokens, lora_targets
from deploy.driver.check_objective import check_objective
from deploy.driver.check_rows import check_rows
from deploy.driver.demonstrations import load_demonstrations
from deploy.driver.model_len import for_prompts, is_computed, within_model
from deploy.models.fingerprint import fingerprint
from deploy.models.registry import resolve_model
from learner.schedule import reward_temperature
from lm.tokens import encode_behind, find_token, load_tokenizer
from rewards.check_task import check_task
from rewards.task import Task
from rewards.task_registry import make_task


@dataclass(frozen=True, slots=True)
class Checked:
    """A checked recipe with the objects it refers to; in its configuration model.lora_targets is a list of names."""

    config: RunConfig
    spec: PolicySpec
    tokenizer: Tokenizer
    task: Task
    prompts: Sequence[Prompt]
    demonstrations: Sequence[Trajectory]
    stored_policy: StoredPolicy

    @property
    def log_z_exact(self) -> float | None:
        """log Z of the target that training ends with, nats; None where the task does not know it."""
        log_z, _ = self.task.log_mass()
        same = self.task.mass_temperature == self.config.learner.reward_temperature_end
        return log_z if same and math.isfinite(log_z) else None


def check(config: RunConfig) -> Checked:
    """Resolve and check everything that a recipe names; takes seconds. TributaryError for the first problem."""
    folder = resolve_model(config.model.name)
    tokenizer = load_tokenizer(folder)
    files = ModelFiles.read(folder)
    computed = is_computed(config)
    if computed:
        config = within_model(config, files)
    check_model(config, files)
    check_engine(config, files.config)
    targets = lora_targets(config.model, files)
    config = config.model_copy(update={"model": config.model.model_copy(update={"lora_targets": targets})})
    spec = policy_spec(config.model, config.policy, folder, tokenizer, targets)
    check_tokens(config, spec, files.rows)
    task = make_task(config.task, tokenizer, folder)
    _check_waits(config, task)
    temperature = reward_temperature(config.learner.steps, config.learner)
    max_model_len = None if computed else config.actors.max_model_len
    prompts = check_task(task, spec, config.task, config.rewards, max_model_len, tokenizer, temperature, files.rows)
    if computed:
        config = for_prompts(config, files, task, spec)
        check_engine(config, files.config)
    check_objective(config, len(prompts), task.whole_strings_only)
    check_machine(config, files)
    demonstrations = load_demonstrations(config, task, prompts, tokenizer, spec)
    check_rows(task, demonstrations, files.rows, config.model.name)
    rewards = config.rewards
    stored_policy = StoredPolicy.from_run(
        spec,
        fingerprint(folder),
        tokenizer.get_vocab(),
        files.rows,
        config.task.name,
        config.task.options,
        rewards.length_penalty,
        None if rewards.adapter is None else fingerprint(Path(rewards.adapter)),
        config.actors.max_model_len,
    )
    return Checked(config, spec, tokenizer, task, prompts, demonstrations, stored_policy)


def _check_waits(config: RunConfig, task: Task) -> None:
    """ConfigError where a wait for a reward would end the run before the reward's own patience ends."""
    for section, limit_s in (
        ("actors", config.actors.advanced.wait_limit_s),
        ("learner", config.learner.advanced.wait_limit_s),
    ):
        if task.longest_wait_s > limit_s:
            raise ConfigError(
                f"a reward may wait {task.longest_wait_s:g} s (patience_s + limit_s of each), but "
                f"{section}.advanced.wait_limit_s = {limit_s:g} ends the run before. Raise it, or lower patience_s."
            )


def check_store(config: BufferConfig) -> None:
    """Check that Redis accepts the connection, or that the port of the run's own server is free.

    Raises StoreError or ConfigError.
    """
    if config.url:
        connect(config.url).close()
    elif config.advanced.port:
        check_port(config.advanced.port)


def policy_spec(
    model: ModelConfig, policy: PolicyConfig, folder: Path, tokenizer: Tokenizer, targets: Sequence[str]
) -> PolicySpec:
    """The policy that actor and learner share, with an adapter on the linear layers `targets`.

    ConfigError for a stop or an allowed token that is not one token.
    """
    return PolicySpec(
        base_model=str(folder.resolve()),
        dtype=model.dtype,
        quantization=model.quantization,
        lora_rank=model.lora_rank,
        lora_alpha=model.lora_alpha,
        lora_targets=tuple(targets),
        stop_token_id=_one_token(tokenizer, policy.stop, "policy.stop"),
        max_actions=policy.max_actions,
        min_actions=policy.min_actions,
        allowed_token_ids=None
        if policy.allowed_tokens is None
        else tuple(_one_token(tokenizer, text, "policy.allowed_tokens") for text in policy.allowed_tokens),
        forbidden_token_ids=tuple(
            _one_token(tokenizer, text, "policy.forbidden_tokens") for text in policy.forbidden_tokens
        ),
    )


def _one_token(tokenizer: Tokenizer, text: str, field: str) -> int:
    """The token that a setting names; ConfigError where there is not exactly one."""
    token = find_token(tokenizer, text)
    if token is None:
        ids = encode_behind(tokenizer, text).tolist()
        tokens = ", ".join(repr(tokenizer.decode([i], skip_special_tokens=False)) for i in ids) or "none"
        raise ConfigError(
            f"{field} = {text!r} is not one token of the model's vocabulary (it becomes {len(ids)}: {tokens}). "
            "Use a text that is exactly one token, such as '.' or a newline, or the name of a special token."
        )
    return token
