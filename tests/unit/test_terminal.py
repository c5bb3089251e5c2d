"""Whatever text reaches the terminal has visible characters only, wherever it comes from."""

import io
import re

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from buffer.errors import RewardError
from deploy import cli
from deploy.formatting import Terminal
from deploy.telemetry.live_view import LiveView
from tests.support.hostile import CONTROLS, SHAPES
from tests.unit.test_live_view import a_view

HOSTILE = [text for text in (*CONTROLS, *SHAPES) if not text.isprintable()]
ESCAPE = "model wrote \x1b]0;PWNED\x07\x1b[31mred\x9b2J\u202e"
STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
"""What rich itself writes: colours, and the cursor's moves of a live view."""


def hidden(output: str) -> str:
    """The characters of an output that are neither visible nor rich's own."""
    return "".join(c for c in STYLE.sub("", output) if not c.isprintable() and c != "\n")


@pytest.mark.parametrize("text", HOSTILE, ids=ascii)
def test_a_terminal_shows_hidden_characters_of_strings_texts_and_tables(text: str) -> None:
    console = Terminal(file=io.StringIO(), width=200, force_terminal=True, color_system="truecolor")
    table = Table()
    table.add_column(Text(text))
    table.add_row(Text(text, "red"))
    console.print(text, markup=False)
    console.print(Text(text, "bold"), soft_wrap=True)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    assert hidden(console.file.getvalue()) == ""


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_reason_of_a_failed_reward_cannot_command_the_terminal(is_terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=200, force_terminal=is_terminal)  # not even without Terminal
    with LiveView(console, "title " + ESCAPE, 100) as view:
        view.update(
            a_view(1, 1.0, phase="training " + ESCAPE, waits=(f"reward-0 has quarantined 3 strings: {ESCAPE}",))
        )
    assert isinstance(console.file, io.StringIO)
    assert "PWNED" in console.file.getvalue()
    assert hidden(console.file.getvalue().replace("\r", "")) == ""


def test_an_error_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli._fail(RewardError(f"a log that ends:\n{ESCAPE}"))
    assert hidden(capsys.readouterr().err) == ""
