"""What each curve is called, its unit, and whether a log axis helps."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class About:
    """One curve in words."""

    title: str
    unit: str
    group: str
    log: bool = False


_KNOWN = {
    "learner.loss": About("loss", "nats²", "learner", True),
    "learner.grad_norm": About("gradient norm", "", "learner", True),
    "learner.learning_rate": About("learning rate", "", "learner"),
    "learner.reward_temperature": About("reward temperature", "", "learner"),
    "learner.skipped_steps": About("skipped steps", "steps", "learner"),
    "learner.step_s": About("time of a step", "s", "learner"),
    "learner.wait_s": About("waiting for data", "s", "learner"),
    "learner.work_s": About("computing", "s", "learner"),
    "learner.publish_s": About("publishing the adapter", "s", "learner"),
    "learner.utilisation": About("utilisation", "share", "learner"),
    "learner.nodes_per_s": About("positions computed", "tokens/s", "learner"),
    "learner.tree_nodes": About("positions of a batch", "tokens", "learner"),
    "learner.version": About("newest version", "versions", "learner"),
    "learner.staleness_mean": About("staleness of fresh rows, mean", "versions", "learner"),
    "learner.staleness_max": About("staleness of fresh rows, largest", "versions", "learner"),
    "learner.fresh": About("fresh rows", "rows", "learner"),
    "learner.on_policy": About("on-policy rows", "rows", "learner"),
    "learner.var_u": About("Var(u)", "nats²", "posterior", True),
    "learner.log_z": About("log Z", "nats", "posterior"),
    "learner.log_z_lower": About("log Z, lower bound", "nats", "posterior"),
    "learner.log_z_mean": About("log Z, mean estimate", "nats", "posterior"),
    "learner.kl_estimate": About("KL(q ‖ p), estimate", "nats", "posterior", True),
    "learner.ess": About("effective sample size", "share", "posterior"),
    "learner.slope": About("slope of log q against log R", "", "posterior"),
    "learner.correlation": About("correlation of log q and log R", "", "posterior"),
    "learner.total_variation": About("total variation, exact", "", "posterior", True),
    "learner.kl": About("KL(p ‖ q), exact", "nats", "posterior", True),
    "learner.log_reward": About("log R, mean", "nats", "rewards"),
    "learner.diversity": About("different strings of a step", "share", "rewards"),
    "buffer.size": About("trajectories", "trajectories", "buffer"),
    "buffer.fill": About("fill", "share", "buffer"),
    "buffer.fresh_waiting": About("fresh, waiting", "trajectories", "buffer"),
    "buffer.priority_ess": About("effective size of draws", "trajectories", "buffer"),
    "buffer.mean_age_s": About("mean age", "s", "buffer"),
    "buffer.draws_per_insert": About("draws for each arrival", "rows", "buffer"),
    "buffer.unique_ratio": About("new among the arrivals", "share", "buffer"),
    "buffer.prompts": About("prompts", "prompts", "buffer"),
    "buffer.quarantined": About("quarantined", "trajectories", "buffer"),
    "buffer.arrival_rate": About("arrivals", "1/s", "buffer"),
    "buffer.insert_rate": About("new", "1/s", "buffer"),
    "buffer.duplicate_rate": About("duplicates", "1/s", "buffer"),
    "buffer.sample_rate": About("draws", "1/s", "buffer"),
    "buffer.evict_rate": About("evicted", "1/s", "buffer"),
    "buffer.expired_rate": About("taken out as stale", "1/s", "buffer"),
    "buffer.update_rate": About("priorities set", "1/s", "buffer"),
    "system.trajectories_per_s": About("trajectories", "1/s", "system"),
    "system.tokens_per_s": About("tokens", "tokens/s", "system"),
}
_OF_ACTORS = {
    "tokens_per_s": ("tokens", "tokens/s"),
    "trajectories_per_s": ("trajectories", "1/s"),
    "version": ("version served", "versions"),
    "behind": ("versions behind", "versions"),
    "busy": ("time in the engine", "share"),
    "waits": ("waiting", ""),
    "canary_difference": ("largest canary difference", "nats"),
}
_OF_WORKERS = {
    "strings_per_s": ("strings", "1/s"),
    "cache_hits": ("from the cache", "share"),
    "failed": ("set aside", "strings"),
    "function_s": ("log_reward of a string", "s"),
    "slowest_s": ("slowest log_reward", "s"),
}
_BOUNDS = {"log_z_lower": "lower bound", "log_z_mean": "mean estimate"}


def about(name: str) -> About:
    """In words; a name that is not known by itself, such as of a label, is its own title."""
    if name in _KNOWN:
        return _KNOWN[name]
    kind, _, rest = name.partition(".")
    middle, _, last = rest.rpartition(".")
    if kind == "actor" and last in _OF_ACTORS:
        return About(f"{middle}: {_OF_ACTORS[last][0]}", _OF_ACTORS[last][1], "actors")
    if kind == "reward" and last in _OF_WORKERS:
        return About(f"{middle}: {_OF_WORKERS[last][0]}", _OF_WORKERS[last][1], "rewards")
    if kind == "prompt" and last in _BOUNDS:
        return About(f"log Z of {middle}, {_BOUNDS[last]}", "nats", "posterior")
    if rest.startswith("log_reward_q"):
        return About(f"log R, {int(rest.removeprefix('log_reward_q'))} % quantile", "nats", "rewards")
    if rest.startswith("terms."):
        return About(f"term {rest.removeprefix('terms.')}", "nats", "rewards")
    if rest.startswith("labels."):
        return About(rest.removeprefix("labels."), "", "rewards")
    if rest.startswith("behaviours."):
        return About(f"rows drawn {rest.removeprefix('behaviours.')}", "share", "actors")
    if rest.startswith("refused."):
        return About(f"refused: {rest.removeprefix('refused.')}", "trajectories", "buffer")
    return About(rest or name, "", kind if kind in ("learner", "buffer") else "learner")
