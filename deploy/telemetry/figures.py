"""The registry of figures: each figure that a run reports is named, explained and given its unit once.

Prometheus metrics, the dashboard's curves, the buffer table, the live panel and the tables of the documentation take
name, title, unit and meaning from this registry. To add a figure, add one entry and the code that computes it; the
head of each file says where that is:

actor.NAME.X, reward.NAME.X, system.X, run.X   process_figures.py
buffer.X                                       buffer_figures.py
learner.X, prompt.ID.X                         learner_figures.py
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import cache

from deploy.telemetry.buffer_figures import BUFFER_FIGURES
from deploy.telemetry.figure import Figure
from deploy.telemetry.learner_figures import LEARNER_FIGURES
from deploy.telemetry.process_figures import PROCESS_FIGURES

FIGURES: Mapping[str, Figure] = {
    figure.name: figure for figure in (*LEARNER_FIGURES, *BUFFER_FIGURES, *PROCESS_FIGURES)
}
METRICS: Mapping[str, Figure] = {figure.metric: figure for figure in FIGURES.values() if figure.metric}
"""Every name that a run exports to Prometheus, before Ray puts `ray_` in front of it."""
_PATTERNS = [figure for figure in FIGURES.values() if "{}" in figure.title]


@cache
def in_room(room: str) -> tuple[Figure, ...]:
    """The figures whose names begin with `room`, in the order of the registry."""
    return tuple(figure for figure in FIGURES.values() if figure.room == room)


@cache
def rates_in(room: str) -> Mapping[str, str]:
    """Field of a rate -> field of the total that it is a difference of."""
    return {figure.field: figure.rate_of for figure in in_room(room) if figure.rate_of}


def describe(curve: str) -> Figure:
    """The figure that a curve shows, with its title filled in. An unregistered curve is its own title."""
    if curve in FIGURES:
        return FIGURES[curve]
    for figure in _PATTERNS:
        placeholder = next(part for part in figure.name.split(".") if part.isupper())
        begin, end = figure.name.split(placeholder)
        if curve.startswith(begin) and curve.endswith(end) and len(curve) > len(begin) + len(end):
            middle = curve[len(begin) : len(curve) - len(end)]
            return replace(figure, name=curve, title=figure.title.replace("{}", middle))
    room, _, rest = curve.partition(".")
    return Figure(curve, rest or curve, "", "", page="buffer" if room == "buffer" else "learner")
