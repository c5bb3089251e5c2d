"""Formatting of numbers and text for the terminal."""

import math
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.segment import Segment


def visible(text: str) -> str:
    """Text with its control characters made visible: model output is untrusted. Escape rich's markup separately."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


class Terminal(Console):
    """A console that cleans all text with `visible`, whoever prints it; only rich's own styles reach the terminal.

    Text that a table or a panel lays out should be cleaned before, too: there it is measured.
    """

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Segments of `renderable` with every character visible but line breaks."""
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
            else:
                yield Segment("\n".join(map(visible, segment.text.split("\n"))), segment.style)


console = Terminal(highlight=False)


def figure(value: float) -> str:
    """A number with three significant digits; a dash if it is not finite."""
    if not math.isfinite(value):
        return "-"
    return f"{value + 0.0:,.0f}" if value == int(value) else f"{value:.3g}"  # + 0.0: not "-0"


def clock(seconds: float) -> str:
    """A duration as m:ss or h:mm:ss."""
    minutes, whole_seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{whole_seconds:02}" if hours else f"{minutes}:{whole_seconds:02}"
