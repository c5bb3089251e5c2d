"""One figure of a run: its name, title, unit and meaning, and how Prometheus and the dashboard show it."""

from dataclasses import dataclass
from typing import Any, Literal

_GROUPS = {"actor": "actors", "reward": "rewards", "prompt": "posterior"}
_PER_PROCESS = ("actor", "reward", "learner")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure. A part of the name in capitals stands for any name, and for the braces in the title."""

    name: str
    title: str
    unit: str
    """Empty for a pure number."""
    meaning: str
    """One sentence."""
    kind: Literal["gauge", "counter", "curve"] = "gauge"
    """gauge: a level at one time; counter: a total that grows; curve: derived from these by the dashboard."""
    axis: Literal["linear", "log"] = "linear"
    """log: the values span orders of magnitude."""
    aim: float | None = None
    """Value where the policy is the posterior, of a figure that no other policy has, such as one that draws half of it
    right and never visits the rest."""
    metric: str = ""
    """Name in Prometheus, without what Ray and Prometheus add; empty where it is not exported."""
    curve: bool = True
    """True if the dashboard keeps it over time."""
    rate_of: str = ""
    """Field of the total whose growth per second this is."""
    page: str = ""
    """Page of the dashboard, where it does not follow from the name."""
    sampled: bool = False
    """It describes fresh on-policy strings: its curve stands at the step whose policy sampled them."""
    sparse: bool = False
    """Read only every learner.advanced.diagnose_every steps: a step without it is not a gap."""

    @property
    def room(self) -> str:
        """First part of the name: actor, reward, buffer, learner, prompt, system or run."""
        return self.name.partition(".")[0]

    @property
    def field(self) -> str:
        """Name of the value in its source."""
        return ".".join(part for part in self.name.split(".")[1:] if not part.isupper())

    @property
    def group(self) -> str:
        """Group of the dashboard's catalogue."""
        return self.page or _GROUPS.get(self.room, self.room)

    @property
    def log(self) -> bool:
        """True if a log axis helps."""
        return self.axis == "log"

    def as_dict(self) -> dict[str, Any]:
        """The figure in plain values, as `/api/catalog` gives it."""
        return {
            "name": self.name,
            "title": self.title,
            "unit": self.unit,
            "meaning": self.meaning,
            "kind": self.kind,
            "group": self.group,
            "log": self.log,
            "aim": self.aim,
            "sparse": self.sparse,
        }

    @property
    def label(self) -> str:
        """Title without the name it is filled in with."""
        return self.title.replace("{}", "").strip(" :,")

    @property
    def tags(self) -> tuple[str, ...]:
        """Labels in Prometheus, besides Ray's own."""
        own = tuple(part.lower() for part in self.name.split(".") if part in ("REASON", "ROLE"))
        return ("run", *own, *(("process",) if self.room in _PER_PROCESS else ()))

    @property
    def series(self) -> str:
        """Name of the metric in a query."""
        return f"ray_{self.metric}_total" if self.metric_kind == "counter" else f"ray_{self.metric}"

    @property
    def metric_kind(self) -> Literal["counter", "gauge"]:
        """Redis counts the buffer's totals for all processes, and `clear` resets them: Prometheus gets gauges."""
        return "counter" if self.kind == "counter" and self.room != "buffer" else "gauge"
