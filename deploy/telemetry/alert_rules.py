"""What a person should look at now: each rule gives one alarm, or none, with its cause and what mends it.

Rules read `AlertInputs` and nothing else, so that each can be tried on made-up numbers.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any, Literal

Level = Literal["warning", "error"]

NEAR = 0.7
"""Of a limit: from here on it is said."""
CANARY_NEAR = 0.5
SILENT_S = 10.0
RECENT_S = 60.0
WINDOW = 50
"""Learner steps that one median is taken of."""
CONVERGED = 0.05
"""nats²: below it Var(u) need not fall any more."""
FEW_BYTES = 10**9


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that is wrong, or about to be."""

    id: str
    level: Level
    what: str
    cause: str
    remedy: str
    since: float = 0.0
    """Unix time, s."""

    def as_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(slots=True)
class AlertInputs:
    """What rules read. Times are Unix seconds."""

    limits: Mapping[str, float]
    """Of the recipe: max_staleness, canary_tolerance, batch_size, ..."""
    now: float = 0.0
    version: int = -1
    """Newest adapter."""
    var_u: list[float] = field(default_factory=list)
    """Finite readings, oldest first, of at most the first WINDOW and the newest 2 WINDOW steps."""
    spreads: Sequence[float] = ()
    """Of log R of fresh on-policy rows, 95 % minus 5 % quantile, nats; the newest few noted steps."""
    diversity: Sequence[float] = ()
    """Share of different strings, likewise."""
    skipped: Sequence[tuple[float, int]] = ()
    """(time, steps skipped so far) of the last RECENT_S."""
    set_aside: Sequence[tuple[float, int]] = ()
    """(time, strings quarantined or refused for their reward so far) of the last RECENT_S."""
    buffer: Mapping[str, Any] | None = None
    actors: Sequence[Mapping[str, Any]] = ()
    heard: Mapping[str, float] = field(default_factory=dict)
    """Actor -> when it last answered."""
    free_bytes: int | None = None


def alerts_of(known: AlertInputs) -> list[Alert]:
    """All alarms of this moment, those of rank error first."""
    found = [alarm for rule in _RULES if (alarm := rule(known))]
    return sorted(found, key=lambda alarm: alarm.level != "error")


def _staleness(known: AlertInputs) -> Alert | None:
    limit = known.limits.get("max_staleness", 0)
    behind = {a["name"]: known.version - a["version"] for a in known.actors if a["version"] >= 0}
    name, most = max(behind.items(), key=lambda pair: pair[1], default=("", 0))
    if not limit or most <= NEAR * limit:
        return None
    return Alert(
        "staleness",
        "warning",
        f"{name} is {most} versions behind the newest; at more than {limit:g} it stops the run.",
        "The learner publishes faster than the actor can take adapters: they wait for requests in flight.",
        "Raise learner.publish_every or actors.advanced.max_staleness, or give actors more threads.",
    )


def _few_drawn(known: AlertInputs) -> Alert | None:
    batch, buffer = known.limits.get("batch_size", 0), known.buffer
    if not buffer or buffer["size"] < 10 * batch or buffer["priority_ess"] >= batch:
        return None
    return Alert(
        "priority_ess",
        "warning",
        f"Replay draws spread over {buffer['priority_ess']:.0f} of {buffer['size']:,} trajectories.",
        "A few priorities are far above the others, so the learner sees the same strings over and over.",
        "Lower buffer.priority_exponent, raise learner.fresh_fraction, or mix learner.priority with recency.",
    )


def _not_falling(known: AlertInputs) -> Alert | None:
    if len(known.var_u) < 3 * WINDOW:
        return None
    first, newest = median(known.var_u[:WINDOW]), median(known.var_u[-WINDOW:])
    if newest <= max(0.9 * first, CONVERGED):
        return None
    return Alert(
        "var_u",
        "warning",
        f"Var(u) does not fall: {newest:.3g} nats² over the last {WINDOW} steps, {first:.3g} over the first.",
        "The policy does not come nearer to the posterior: steps too small or too large, rewards that jump, or data "
        "that misses where the mass is.",
        "Look at gradient norm and loss; try another learner.learning_rate, a reward temperature that starts higher, "
        "or a tempered behaviour.",
    )


def _skipped(known: AlertInputs) -> Alert | None:
    grown = _grown(known.skipped)
    if not grown:
        return None
    return Alert(
        "skipped",
        "error",
        f"{grown} steps of the last {RECENT_S:.0f} s were skipped: loss or gradient was not finite.",
        "Rewards that are huge, or a precision too low for them. The batches are in quarantine.",
        "Lower learner.learning_rate, look at the rewards, or raise model.dtype's precision.",
    )


def _quarantine(known: AlertInputs) -> Alert | None:
    grown = _grown(known.set_aside)
    if not grown:
        return None
    return Alert(
        "quarantine",
        "warning",
        f"{grown} strings were set aside within {RECENT_S:.0f} s.",
        "The task's log_reward failed, was too slow or gave no finite number; or a record could not be read.",
        "Read the reasons on the Buffer page. Mend the task and `tributary train --resume`.",
    )


def _equal_rewards(known: AlertInputs) -> Alert | None:
    if len(known.spreads) < 5 or max(known.spreads) > 1e-6:
        return None
    return Alert(
        "equal_rewards",
        "warning",
        "All fresh strings have the same reward.",
        "The reward does not tell strings apart, or the policy draws one string only.",
        "Look at Samples. If strings differ, check the task's log_reward; if not, add tempered behaviours.",
    )


def _collapsed(known: AlertInputs) -> Alert | None:
    if len(known.diversity) < 5 or max(known.diversity) >= 0.2:
        return None
    return Alert(
        "diversity",
        "warning",
        f"At most {100 * max(known.diversity):.0f} % of the fresh on-policy strings of a step differ.",
        "The policy repeats a few strings. If the target has more than these, it has fallen into one of its modes.",
        "Add tempered and suppress_stop behaviours, raise the reward temperature, or use group_subtb.",
    )


def _silent(known: AlertInputs) -> Alert | None:
    silent = {name: known.now - at for name, at in known.heard.items() if known.now - at > SILENT_S}
    if not silent:
        return None
    name, seconds = max(silent.items(), key=lambda pair: pair[1])
    return Alert(
        "silent",
        "error",
        f"{name} has not answered for {seconds:.0f} s ({len(silent)} silent in all).",
        "Its process died and is being started again, or its engine hangs.",
        "Look at Events for restarts and at Ray's logs; `Killed` there is often memory.",
    )


def _canary(known: AlertInputs) -> Alert | None:
    tolerance = known.limits.get("canary_tolerance", 0.0)
    worst = max((a["canary_difference_max"] for a in known.actors), default=0.0)
    if not tolerance or worst <= CANARY_NEAR * tolerance:
        return None
    return Alert(
        "canary",
        "warning",
        f"The engines' log-probabilities differ from the learner's by up to {worst:.2g} nats; at {tolerance:.2g} the "
        "run stops.",
        "Rounding in another precision, or weights that are not quite those that were published.",
        "In bf16 learner.canary_tolerance = 0.3 is right. In fp32 don't raise it: find out what differs.",
    )


def _disk(known: AlertInputs) -> Alert | None:
    if known.free_bytes is None or known.free_bytes >= FEW_BYTES:
        return None
    return Alert(
        "disk",
        "error",
        f"{known.free_bytes / 1e9:.2f} GB are free on the disk of the run's folder.",
        "Checkpoints, the buffer's log and this history are written there.",
        "Free some space: a full disk ends the buffer's writes, and with them the run.",
    )


def _grown(readings: Sequence[tuple[float, int]]) -> int:
    return readings[-1][1] - readings[0][1] if readings else 0


_RULES: tuple[Callable[[AlertInputs], Alert | None], ...] = (
    *(_skipped, _silent, _disk, _staleness, _canary, _quarantine),
    *(_not_falling, _equal_rewards, _collapsed, _few_drawn),
)


def is_number(value: Any) -> bool:
    """Whether a figure is there and finite."""
    return isinstance(value, (int, float)) and math.isfinite(value)
