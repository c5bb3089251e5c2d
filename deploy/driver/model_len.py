"""actors.max_model_len of a recipe that does not set it: the default, or what the model or the prompts make of it."""

from buffer.errors import ConfigError
from buffer.types import PolicySpec
from deploy.config import RunConfig
from deploy.driver.check_model import ModelFiles, longest_context
from rewards.check_task import tokens_needed
from rewards.task import Task


def is_computed(config: RunConfig) -> bool:
    """True where the recipe leaves it open."""
    return "max_model_len" not in config.actors.model_fields_set


def within_model(config: RunConfig, files: ModelFiles) -> RunConfig:
    """`config` with no more tokens than the model has positions."""
    longest = longest_context(files)
    return _with_max_model_len(config, min(config.actors.max_model_len, longest)) if longest else config


def for_prompts(config: RunConfig, files: ModelFiles, task: Task, spec: PolicySpec) -> RunConfig:
    """`config` with at least the tokens that the prompts of all splits need. ConfigError where the model has fewer."""
    prompts = [prompt for split in task.splits for prompt in task.prompts(split)]
    needed, longest = tokens_needed(prompts, spec, task.tool), longest_context(files)
    if longest and needed > longest:
        raise ConfigError(
            f"the longest prompt and policy.max_actions = {config.policy.max_actions} need {needed} tokens, and "
            f"{config.model.name} has {longest} positions. Shorten the prompt, or lower policy.max_actions."
        )
    return _with_max_model_len(config, max(config.actors.max_model_len, needed))


def _with_max_model_len(config: RunConfig, tokens: int) -> RunConfig:
    return config.model_copy(update={"actors": config.actors.model_copy(update={"max_model_len": tokens})})
