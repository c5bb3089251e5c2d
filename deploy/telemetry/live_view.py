"""The view of a training run: a panel on a terminal, single lines anywhere else."""

import math
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.text import Text

from deploy.formatting import clock, visible
from deploy.telemetry.live_panel import Progress, curves, draw_panel, shown, staleness
from deploy.telemetry.snapshot import Snapshot

LINE_EVERY_S = 10.0
"""Without a terminal, between two lines of one phase."""


@dataclass
class LiveView:
    """A context manager; call `update` with each snapshot. It starts no thread and reads no clock."""

    console: Console
    title: str
    steps: int
    _history: dict[str, list[float]] = field(default_factory=dict)
    _first: tuple[int, float] | None = None
    _newest: tuple[int, float] = (0, 0.0)
    _printed: tuple[str, float, int] = ("", -math.inf, 0)
    """Phase, elapsed seconds and step of the last line."""
    _snapshot: Snapshot | None = None
    _live: Live | None = None

    def __enter__(self) -> Self:
        if self.console.is_interactive:
            self._live = Live(console=self.console, auto_refresh=False)
            self._live.start()
        else:
            self.tell(self.title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()
        elif self._snapshot and self._snapshot.row.get("step", 0) != self._printed[2]:
            self.tell(self._line(self._snapshot))

    def update(self, snapshot: Snapshot) -> None:
        """Show `snapshot`."""
        self._snapshot = snapshot
        self._remember(snapshot)
        if self._live:
            progress = Progress(self.steps, self._left_s(snapshot), self._history)
            self._live.update(draw_panel(self.title, snapshot, progress, self.console), refresh=True)
        elif snapshot.phase != self._printed[0] or snapshot.elapsed_s - self._printed[1] >= LINE_EVERY_S:
            self._printed = snapshot.phase, snapshot.elapsed_s, snapshot.row.get("step", 0)
            self.tell(self._line(snapshot))

    def _remember(self, snapshot: Snapshot) -> None:
        step = snapshot.row.get("step", 0)
        if step == self._newest[0]:
            return
        self._newest = step, snapshot.elapsed_s
        self._first = self._first or self._newest
        for name, value in curves(snapshot.row).items():
            self._history.setdefault(name, []).append(value)

    def _left_s(self, snapshot: Snapshot) -> float | None:
        """Seconds to the last step at the mean pace so far; None before the second step and after the last."""
        step, at = self._newest
        if self._first is None or step in (self._first[0], self.steps):
            return None
        pace = (at - self._first[1]) / (step - self._first[0])
        return max(pace * (self.steps - step) - (snapshot.elapsed_s - at), 0.0)

    def tell(self, line: str) -> None:
        """Print a line that stays."""
        self.console.print(Text(visible(line)), soft_wrap=True)

    def _line(self, snapshot: Snapshot) -> str:
        words = [f"[{clock(snapshot.elapsed_s)}] {snapshot.phase}"]
        if step := snapshot.row.get("step"):
            words.append(f"step {step}/{self.steps}")
            words += [f"{name} {shown(name, value)}" for name, value in curves(snapshot.row).items()]
            words.append(f"staleness {staleness(snapshot.row)}")
        if (left := self._left_s(snapshot)) is not None:
            words.append(f"{clock(left)} left")
        return "  ".join([*words, *snapshot.waits])


def next_commands(run: Path, steps: int, open_steps: int) -> str:
    """The commands that come next, as plain text; `tributary` with its path where it is not on PATH.

    A run that was stopped with `open_steps` left goes on with these; one that is done needs a larger number.
    """
    tributary = "tributary" if shutil.which("tributary") else f"{_shown_path(Path(sys.executable).parent)}/tributary"
    run = _shown_path(run)
    further = f"train --resume {run}" + (
        f"  # the last {open_steps} steps" if open_steps else f" learner.steps={2 * steps}"
    )
    return (
        "Next:\n"
        f"  {tributary} sample --run {run} -n 20\n"
        f"  {tributary} evaluate --run {run}\n"
        f"  {tributary} dashboard --run {run}\n"
        f"  {tributary} {further}\n"
        f"Plots are in {run}/plots, figures in {run}/summary.json.\n"
        f"{run}/adapter is a PEFT adapter: vLLM, PEFT and transformers load it on top of the base model."
    )


def _shown_path(path: Path) -> Path:
    """The path, relative where it is below the working directory."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
