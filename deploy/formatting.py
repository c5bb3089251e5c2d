"""How numbers and text are printed."""

import math

from rich.console import Console

console = Console(highlight=False)


def visible(text: str) -> str:
    """Model text is untrusted: control characters are shown, not obeyed. Escape rich's markup besides."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def figure(value: float) -> str:
    """Three digits; a dash for what is not finite."""
    if not math.isfinite(value):
        return "-"
    return f"{value:,.0f}" if value == int(value) else f"{value:.3g}"


def clock(seconds: float) -> str:
    """m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
