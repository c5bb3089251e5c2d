"""What an objective needs: two strings of one prompt, or the policy's own fresh strings alone; or to be imported."""

from actors.config import ON_POLICY
from buffer.errors import ConfigError
from deploy.config import RunConfig
from learner.config import OBJECTIVE_NAMES, ON_POLICY_OBJECTIVES

COMPARING_PREFIXES = ("subtb", "db", "tb")
"""Objectives whose loss compares prefixes of one string."""


def check_objective(config: RunConfig, prompts: int, whole_strings_only: bool) -> None:
    """ConfigError where the batches of a run with `prompts` prompts are not what its objective needs.

    `whole_strings_only`: only whole strings have a reward.
    """
    if config.learner.objective not in OBJECTIVE_NAMES:
        from learner.objectives import find_objective

        find_objective(config.learner.objective)
    if whole_strings_only and config.learner.objective in COMPARING_PREFIXES:
        raise ConfigError(
            f"learner.objective = {config.learner.objective!r} compares a string with its prefixes, and the rewards of "
            f"task {config.task.name!r} are of whole strings. Set it to 'vargrad', which is trajectory balance with "
            "log Z from the strings of a prompt."
        )
    if config.buffer.advanced.sampler == "highest_reward" and prompts > 1:
        raise ConfigError(
            f"buffer.advanced.sampler = 'highest_reward' ranks the strings of all {prompts} prompts together, so those "
            "of a prompt with small rewards would never be replayed. Set learner.priority = 'reward', which compares "
            "within a prompt."
        )
    if config.learner.objective in ON_POLICY_OBJECTIVES:
        _check_on_policy(config)
    _check_strings_meet(config, prompts, whole_strings_only)


def _check_on_policy(config: RunConfig) -> None:
    """ConfigError where a batch may hold strings that the policy itself did not just draw."""
    learner = config.learner
    others = [b.name for b in config.actors.behaviours if b != ON_POLICY.model_copy(update={"weight": b.weight})]
    if learner.fresh_fraction < 1.0:
        raise ConfigError(
            f"learner.objective = {learner.objective!r} learns from the policy's own fresh strings, and "
            f"learner.fresh_fraction = {learner.fresh_fraction:g} replays old ones: set it to 1.0."
        )
    if config.buffer.samples_per_insert:
        raise ConfigError(
            f"learner.objective = {learner.objective!r} draws each string once, as fresh, and "
            f"buffer.samples_per_insert = {config.buffer.samples_per_insert:g} makes both sides wait: set it to 0."
        )
    if others:
        raise ConfigError(
            f"learner.objective = {learner.objective!r} learns from the policy's own fresh strings, and "
            f"actors.behaviours has {', '.join(others)}: leave on_policy alone."
        )


def _check_strings_meet(config: RunConfig, prompts: int, whole_strings_only: bool) -> None:
    """ConfigError where no two strings of a prompt meet in a batch, and the objective needs them."""
    learner, buffer = config.learner, config.buffer
    needs_several = learner.objective in {"vargrad", *ON_POLICY_OBJECTIVES} or (
        learner.objective == "group_subtb" and (config.policy.min_actions > 0 or whole_strings_only)
    )
    fresh_rows = round(learner.batch_size * learner.fresh_fraction)
    fresh_meet = min(config.actors.samples_per_prompt, fresh_rows) > 1
    replayed_meet = min(buffer.rows_per_prompt, learner.batch_size - fresh_rows) > 1
    if not needs_several or fresh_meet or replayed_meet or (prompts == 1 and learner.batch_size > 1):
        return
    raise ConfigError(
        f"learner.objective = {learner.objective!r} with "
        + ("rewards of whole strings" if whole_strings_only else f"policy.min_actions = {config.policy.min_actions}")
        + " compares strings of one prompt, and no two meet in a batch: there are "
        f"actors.samples_per_prompt = {config.actors.samples_per_prompt} in {fresh_rows} fresh rows, and "
        f"buffer.rows_per_prompt = {buffer.rows_per_prompt} in {learner.batch_size - fresh_rows} replayed ones. "
        "Set buffer.rows_per_prompt to 4, or raise learner.fresh_fraction and actors.samples_per_prompt."
    )
