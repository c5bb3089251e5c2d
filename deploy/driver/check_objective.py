"""An objective that compares strings of one prompt needs batches in which two of them can meet."""

from buffer.errors import ConfigError
from deploy.config import RunConfig


def check_objective(config: RunConfig, prompts: int) -> None:
    """ConfigError where no two strings of one of `prompts` prompts meet in a batch, and the objective needs them."""
    learner, buffer = config.learner, config.buffer
    needs_several = learner.objective == "vargrad" or (
        learner.objective == "group_subtb" and config.policy.min_actions > 0
    )
    fresh_rows = round(learner.batch_size * learner.fresh_fraction)
    fresh_meet = min(config.actors.samples_per_prompt, fresh_rows) > 1
    replayed_meet = min(buffer.rows_per_prompt, learner.batch_size - fresh_rows) > 1
    if not needs_several or fresh_meet or replayed_meet or (prompts == 1 and learner.batch_size > 1):
        return
    raise ConfigError(
        f"learner.objective = {learner.objective!r} with policy.min_actions = {config.policy.min_actions} compares "
        "strings of one prompt, and no two meet in a batch: there are "
        f"actors.samples_per_prompt = {config.actors.samples_per_prompt} in {fresh_rows} fresh rows, and "
        f"buffer.rows_per_prompt = {buffer.rows_per_prompt} in {learner.batch_size - fresh_rows} replayed ones. "
        "Set buffer.rows_per_prompt to 4, or raise learner.fresh_fraction and actors.samples_per_prompt."
    )
