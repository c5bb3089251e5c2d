"""What the run waits for now: one sentence that names the bottleneck, and what to change.

Shares are of the newest WINDOW_S seconds. The learner can only wait for data; actors can only wait for reward workers;
reward workers only for the learner, through samples per insert. So the one who does not wait is the bottleneck.
"""

from dataclasses import dataclass

WINDOW_S = 30.0
MUCH = 0.25
"""A share of its time that is worth a change."""
LITTLE = 0.05


@dataclass(frozen=True, slots=True)
class Situation:
    """What the verdict rests on; None where it is not known."""

    learner_waits: float | None
    """Share of the learner's time without data."""
    actors_wait: float | None
    """Share of readings in which an actor waited for reward workers, a mean over actors."""
    engine_busy: float | None
    """Share of the actors' time in the engine."""
    pace: str | None
    """Who is held back by samples per insert: "inserts", "draws" or None."""
    actors_alive: int


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """Who is the bottleneck, why, and what to change."""

    who: str
    sentence: str
    change: str


def verdict(now: Situation) -> Bottleneck | None:
    """None before there is anything to judge."""
    if now.learner_waits is None:
        return None
    learner, actors = now.learner_waits, now.actors_wait or 0.0
    if now.actors_alive == 0 and learner > MUCH:
        return Bottleneck(
            "actors",
            "No actor answers, so the learner waits for data.",
            "They are starting or dead: look at Events, and at the logs in Ray's session folder.",
        )
    if now.pace == "draws" and learner > MUCH:
        return Bottleneck(
            "pace",
            f"The learner waits {_percent(learner)} of its time: it has drawn as often as samples per insert allow.",
            "Raise buffer.samples_per_insert for more use of each string, or add actors.",
        )
    if learner > MUCH and actors > MUCH:
        return Bottleneck(
            "rewards",
            f"Reward workers are the bottleneck: actors wait for them {_percent(actors)} of the time, and the learner "
            f"waits for data {_percent(learner)}.",
            "Add rewards.workers, give them more threads or a GPU, or make log_reward faster.",
        )
    if learner > MUCH:
        return Bottleneck(
            "actors",
            f"Sampling is the bottleneck: the learner waits for data {_percent(learner)} of its time and reward "
            f"workers keep up{_busy(now)}.",
            "Add actors or give them more threads; or replay more (lower learner.fresh_fraction).",
        )
    if actors > MUCH and now.pace == "inserts":
        return Bottleneck(
            "learner",
            "The learner is the bottleneck: reward workers may not add faster than it draws (samples per insert), so "
            f"actors wait {_percent(actors)} of the time.",
            "Give the learner more threads or a GPU, lower buffer.samples_per_insert, or run fewer actors.",
        )
    if actors > MUCH:
        return Bottleneck(
            "rewards",
            f"Reward workers are slower than actors, which wait {_percent(actors)} of the time; the learner has data "
            "enough.",
            "Nothing has to change. Fresher data needs more rewards.workers, a faster log_reward, or fewer actors.",
        )
    if learner < LITTLE:
        return Bottleneck(
            "learner",
            f"The learner sets the pace: it waits for data {_percent(learner)} of its time, and nobody else waits.",
            "To go faster, give the learner more threads or a GPU.",
        )
    return Bottleneck(
        "balanced",
        f"Well balanced: the learner waits {_percent(learner)} of its time, actors {_percent(actors)}.",
        "Nothing to change; more of everything goes faster.",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _busy(now: Situation) -> str:
    return "" if now.engine_busy is None else f" (the engines compute {_percent(now.engine_busy)} of theirs)"
