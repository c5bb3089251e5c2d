"""Formatting of numbers and text for the terminal."""

import math

from rich.console import Console

console = Console(highlight=False)


def visible(text: str) -> str:
    """Text with its control characters made visible: model output is untrusted. Escape rich's markup separately."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


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
