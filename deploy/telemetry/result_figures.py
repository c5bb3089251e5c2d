"""Figures of a result: their titles, and what they read where the sampler is the target."""

from collections.abc import Mapping

AT_TARGET: Mapping[str, float] = {
    **dict.fromkeys(("slope", "correlation", "ess", "tempering"), 1.0),
    **dict.fromkeys(("kl_to_target", "var_u", "gap", "kl_q_p", "kl_p_q", "underrated", "overrated", "missing"), 0.0),
}
"""Those that are known for any task."""
LOG_Z = ("log_z_low", "log_z_high", "log_z_lower", "log_z_mean")
"""They read log Z at the target."""
TITLES: Mapping[str, str] = {
    "log_z_low": "log Z, lower bound, nats",
    "log_z_high": "log Z, upper bound, nats",
    "gap": "KL both ways, nats",
    "log_z_lower": "log Z, lower bound, nats",
    "log_z_mean": "log Z, estimate, nats",
    "kl_to_target": "KL(q ‖ p), nats",
    "log_reward": "mean log R, nats",
    "slope": "slope of log q",
    "ess": "effective samples, share",
    "var_u": "Var(u), nats²",
}
