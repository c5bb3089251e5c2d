"""Rules that involve more than one section of a recipe, or more than one setting of the learner."""

import math

from deploy.config_sections import PolicyConfig, RunConfig

DEVICES = ("auto", "cpu", "cuda")
MAX_LOG_WEIGHT = 69.0
"""Largest log weight of a pair of prefixes, log 1e30: fp32 still holds the sum of their squares."""


def cross_section_problems(config: RunConfig) -> list[str]:
    """One sentence for each violated rule that involves more than one section: value, constraint, fix."""
    problems = []
    batch, capacity = config.learner.batch_size, config.buffer.capacity
    if batch > capacity:
        problems.append(
            f"learner.batch_size = {batch} is larger than buffer.capacity = {capacity}: every batch would repeat rows. "
            "Raise buffer.capacity or lower learner.batch_size."
        )
    problems += _rate_limiter_problems(config)
    problems += _learner_problems(config)
    problems += _evaluation_problems(config)
    problems += _policy_problems(config.policy)
    set_by_recipe = "max_model_len" in config.actors.model_fields_set
    if set_by_recipe and config.policy.max_actions >= config.actors.max_model_len:
        problems.append(
            f"policy.max_actions = {config.policy.max_actions} leaves no room for a prompt in "
            f"actors.max_model_len = {config.actors.max_model_len}. Raise actors.max_model_len."
        )
    if config.learner.publish_every > config.learner.steps:
        problems.append(
            f"learner.publish_every = {config.learner.publish_every} is above "
            f"learner.steps = {config.learner.steps}: actors would only ever see the base model. Lower it."
        )
    if config.actors.tensor_parallel > 1 and config.actors.gpus not in (0.0, 1.0):
        problems.append(
            f"actors.tensor_parallel = {config.actors.tensor_parallel} spreads an engine over whole GPUs, but "
            f"actors.gpus = {config.actors.gpus:g}. Set actors.gpus to 1 (0 on CPUs)."
        )
    if config.actors.gpus and config.actors.engine == "vllm" and config.model.dtype == "float32":
        problems.append(
            f"model.dtype = 'float32' with actors.gpus = {config.actors.gpus:g}: vLLM's LoRA kernels for GPUs take "
            "16-bit numbers only. Set model.dtype to bfloat16, or to auto."
        )
    for section, device in (("learner", config.learner.device), ("rewards", config.rewards.device)):
        if device not in DEVICES:
            problems.append(
                f"{section}.device = {device!r} must be one of {', '.join(DEVICES)}: which GPU a process gets follows "
                f"from {section}.gpus."
            )
    names = [b.name for b in config.actors.behaviours]
    if len(set(names)) < len(names):
        problems.append(
            f"actors.behaviours has duplicate names: {', '.join(names)}. Give each behaviour a name of its own."
        )
    return problems


def _policy_problems(policy: PolicyConfig) -> list[str]:
    problems = []
    if policy.min_actions > policy.max_actions:
        problems.append(
            f"policy.min_actions = {policy.min_actions} is above policy.max_actions = {policy.max_actions}. Lower it."
        )
    if policy.forbidden_tokens and policy.allowed_tokens is not None:
        problems.append(
            "policy.allowed_tokens and policy.forbidden_tokens are both set. Give one: all that is not allowed is "
            "forbidden."
        )
    if policy.stop in policy.forbidden_tokens:
        problems.append(
            f"policy.forbidden_tokens has policy.stop = {policy.stop!r}, so no string could end. Remove it."
        )
    return problems


def _rate_limiter_problems(config: RunConfig) -> list[str]:
    """One draw and one push must fit into the band of samples per insert, or one side would wait forever."""
    rate, band = config.buffer.samples_per_insert, config.buffer.advanced.samples_per_insert_band
    needed = max(config.learner.batch_size, math.ceil(rate * config.actors.push_size))
    if rate and band < 2 * needed:
        return [
            f"buffer.advanced.samples_per_insert_band = {band:g} is too narrow: a batch draws "
            f"{config.learner.batch_size} rows, and each of the {config.actors.push_size} trajectories of a push "
            f"allows {rate:g} rows. Raise it to {2 * needed} or more."
        ]
    return []


def _evaluation_problems(config: RunConfig) -> list[str]:
    """Settings of the evaluation while training that need another one."""
    evaluation = config.evaluation
    if evaluation.best and not evaluation.every:
        return [
            f"evaluation.best = {evaluation.best!r} needs an evaluation while training. Set evaluation.every to a "
            "number of steps, such as 50."
        ]
    if evaluation.patience and not evaluation.best:
        return [
            f"evaluation.patience = {evaluation.patience} needs evaluation.best, the figure that must improve. Set it "
            "to one of the task's figures, such as 'correct'."
        ]
    return []


def _learner_problems(config: RunConfig) -> list[str]:
    """Problems of the learner's section, alone and together with the others."""
    learner, problems = config.learner, []
    if learner.batch_size % learner.ranks:
        problems.append(
            f"learner.batch_size = {learner.batch_size} can't be divided among learner.ranks = {learner.ranks}: "
            "make it a multiple."
        )
    if learner.ranks > 1 and 0 < learner.gpus < 1:
        problems.append(
            f"learner.ranks = {learner.ranks} with learner.gpus = {learner.gpus:g}: ranks can't share a "
            "GPU. Give each a whole one, or use one rank."
        )
    subtb_lambda = learner.advanced.subtb_lambda
    if learner.objective == "subtb" and config.policy.max_actions * math.log(subtb_lambda) > MAX_LOG_WEIGHT:
        problems.append(
            f"learner.advanced.subtb_lambda = {subtb_lambda:g} to the power of "
            f"policy.max_actions = {config.policy.max_actions} overflows. Lower it; 1 gives all pairs the same weight."
        )
    if config.policy.min_actions and learner.objective in ("subtb", "tb", "db"):
        problems.append(
            f"learner.objective = {learner.objective!r} compares prefixes of one string, and with "
            f"policy.min_actions = {config.policy.min_actions} strings that differ before that length share no "
            "terminal prefix: their relative probabilities would not be learned. Use 'group_subtb' or 'vargrad', or "
            "set policy.min_actions to 0."
        )
    return problems
