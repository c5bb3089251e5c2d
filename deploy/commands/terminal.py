"""What all commands print with."""

from rich.console import Console

console = Console(highlight=False)


def visible(text: str) -> str:
    """Model text is untrusted: control characters are shown, not obeyed. Escape rich's markup besides."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
