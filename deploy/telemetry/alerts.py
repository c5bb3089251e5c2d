"""Alerts of a run: the form of a rule, its inputs on the dashboard, and its query in Prometheus."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from deploy.telemetry.figures import FIGURES

Level = Literal["warning", "error"]
Severity = Literal["info", "warning", "critical"]
Finding = tuple[str, str, str] | None
"""(what is wrong, its cause, its remedy), each in whole sentences; None where nothing is wrong."""


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
    """Everything that rules read. Times are Unix seconds."""

    limits: Mapping[str, float]
    """From the recipe: max_grad_norm, canary_tolerance, ...; equal_rewards where the task's strings have one reward;
    samples where it learns from samples."""
    now: float = 0.0
    version: int = -1
    """Newest adapter."""
    var_u: Sequence[float] = ()
    """Finite readings, oldest first, of at most the first WINDOW and the newest 2 WINDOW steps."""
    spreads: Sequence[float] = ()
    """Spread of log R over fresh on-policy rows, 95 % minus 5 % quantile, nats; the newest few recorded steps."""
    diversity: Sequence[float] = ()
    """Share of different strings among these rows; the same steps."""
    data_ages: Sequence[float] = ()
    """Mean staleness of fresh rows, versions; the newest WINDOW steps that had any."""
    missing_mass: Sequence[float] = ()
    """Share of the known mass that fresh draws leave out; the newest WINDOW steps that had the figure."""
    cut: Sequence[float] = ()
    """Share of fresh on-policy samples that policy.max_actions ended; the newest WINDOW steps that had the figure."""
    totals: Mapping[str, Sequence[tuple[float, float]]] = field(default_factory=dict)
    """Total -> its readings (time, value), oldest first: skipped_steps, quarantined, refused, inserted, drawn,
    arrivals, strings, failed, restarts, canaries_exceeded."""
    buffer: Mapping[str, Any] | None = None
    actors: Sequence[Mapping[str, Any]] = ()
    workers: Sequence[Mapping[str, Any]] = ()
    last_reply: Mapping[str, float] = field(default_factory=dict)
    """Actor -> time of its last status."""
    last_step_at: float | None = None
    """Time of the newest learner step; None before the first."""
    free_bytes: int | None = None

    def increase(self, total: str, seconds: float) -> float:
        """Growth of a total over the last `seconds`; 0 where it was not read, or fell with its process."""
        readings = [value for at, value in self.totals.get(total, ()) if at >= self.now - seconds]
        return max(readings[-1] - readings[0], 0) if readings else 0


Check = Callable[[AlertInputs], Finding]


@dataclass(frozen=True, slots=True)
class Query:
    """The same rule for Prometheus."""

    alert: str
    """Name of the alert, and of its section in docs/operate.md."""
    expr: str
    summary: str
    hold: str = ""
    """Time for which the expression must hold, such as 2m, so that a passing state alerts nobody."""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule: its check for the dashboard, its query for Prometheus, or both."""

    id: str
    severity: Severity
    check: Check
    query: Query | None

    def alert(self, inputs: AlertInputs) -> Alert | None:
        """The alert on the dashboard, where the check finds something."""
        finding = self.check(inputs)
        return Alert(self.id, "error" if self.severity == "critical" else "warning", *finding) if finding else None


RUN, VALUE = "{{ $labels.run }}", "{{ $value | humanize }}"
"""In the summary of a query."""
SERIES = {name: figure.series for name, figure in FIGURES.items() if figure.metric}
"""Figure -> its series in Prometheus."""


class RuleSet:
    """A decorator that collects the rules of one file, in their order."""

    def __init__(self) -> None:
        self.rules: list[Rule] = []

    def __call__(self, id_: str, severity: Severity, query: Query | None = None) -> Callable[[Check], Check]:
        """Register the decorated function as the check of a rule."""

        def register(check: Check) -> Check:
            self.rules.append(Rule(id_, severity, check, query))
            return check

        return register


def span(seconds: float) -> str:
    """A time span in a query, such as 15m."""
    return f"{seconds // 60:.0f}m"


def growth(series: str, seconds: float) -> str:
    """Query for the growth of a counter that appears with its first count, which `increase` would not see."""
    return f"{series}\n  - ({series} offset {span(seconds)} or 0 * {series})"
