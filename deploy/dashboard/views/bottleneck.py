"""The bottleneck of a run: one sentence that names it, and the setting to change.

Shares are of the newest WINDOW_S seconds. The learner can only wait for data; actors can only wait for reward workers;
reward workers can only wait for the learner, through samples per insert. The part that does not wait is the bottleneck.
"""

from dataclasses import dataclass

WINDOW_S = 30.0
HIGH_SHARE = 0.25
"""A share of waiting that is worth a change of settings."""
LOW_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class BottleneckInputs:
    """The measurements that `find_bottleneck` reads; None where one is unknown."""

    learner_waits: float | None
    """Share of the learner's time without data."""
    actors_wait: float | None
    """Share of readings in which an actor waited for reward workers, a mean over actors."""
    engine_busy: float | None
    """Share of the actors' time in the engine."""
    pace: str | None
    """The side that samples per insert holds back: "inserts", "draws" or None."""
    actors_alive: int


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """The limiting part, the reason in one sentence, and the remedy."""

    who: str
    sentence: str
    change: str


def find_bottleneck(inputs: BottleneckInputs) -> Bottleneck | None:
    """The bottleneck; None before the first learner step."""
    if inputs.learner_waits is None:
        return None
    learner, actors = inputs.learner_waits, inputs.actors_wait or 0.0
    if learner > HIGH_SHARE:
        return _of_waiting_learner(inputs, learner, actors)
    if actors > HIGH_SHARE:
        return _of_waiting_actors(inputs, actors)
    if learner < LOW_SHARE:
        return Bottleneck(
            "learner",
            f"The learner sets the pace: it waits for data {_percent(learner)} of its time, and no other part waits.",
            "To go faster, give the learner more threads or a GPU.",
        )
    return Bottleneck(
        "balanced",
        f"Well balanced: the learner waits {_percent(learner)} of its time, actors {_percent(actors)}.",
        "No change is needed; more resources for every part make the run faster.",
    )


def _of_waiting_learner(inputs: BottleneckInputs, learner: float, actors: float) -> Bottleneck:
    """The part that the learner waits for, a large share of its time."""
    if inputs.actors_alive == 0:
        return Bottleneck(
            "actors",
            "No actor answers, so the learner waits for data.",
            "The actors are starting or have died: check Events and the logs in Ray's session folder.",
        )
    if inputs.pace == "draws":
        return Bottleneck(
            "pace",
            f"The learner waits {_percent(learner)} of its time: it has drawn as often as samples per insert allow.",
            "Raise buffer.samples_per_insert to train on each string more often, or add actors.",
        )
    if actors > HIGH_SHARE:
        return Bottleneck(
            "rewards",
            f"Reward workers are the bottleneck: actors wait for them {_percent(actors)} of the time, and the learner "
            f"waits for data {_percent(learner)}.",
            "Raise rewards.workers, give them more threads or a GPU, or make log_reward faster.",
        )
    return Bottleneck(
        "actors",
        f"Sampling is the bottleneck: the learner waits for data {_percent(learner)} of its time and reward "
        f"workers keep up{_engine_note(inputs)}.",
        "Add actors or give them more threads, or replay more (lower learner.fresh_fraction).",
    )


def _of_waiting_actors(inputs: BottleneckInputs, actors: float) -> Bottleneck:
    """The part that actors wait for a large share of their time, while the learner has enough data."""
    if inputs.pace == "inserts":
        return Bottleneck(
            "learner",
            "The learner is the bottleneck: samples per insert stop reward workers from adding faster than it draws, "
            f"so actors wait {_percent(actors)} of the time.",
            "Give the learner more threads or a GPU, lower buffer.samples_per_insert, or run fewer actors.",
        )
    return Bottleneck(
        "rewards",
        f"Reward workers are slower than actors, which wait {_percent(actors)} of the time; the learner has enough "
        "data.",
        "No change is needed. For fresher data raise rewards.workers, make log_reward faster, or run fewer actors.",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _engine_note(inputs: BottleneckInputs) -> str:
    return "" if inputs.engine_busy is None else f" (the engines are busy {_percent(inputs.engine_busy)} of their time)"
