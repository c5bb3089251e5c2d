"""The dashboard's scripts name registered figures only."""

import re
from collections.abc import Iterator

import pytest

from deploy.telemetry.figures import FIGURES
from deploy.telemetry.generated_files import ROOT

STATIC = ROOT / "deploy/dashboard/static"
SCRIPTS = [path for path in sorted(STATIC.rglob("*.js")) if "vendor" not in path.parts]
ROOMS = "|".join(sorted({figure.room for figure in FIGURES.values()}))
NAME = re.compile(rf"""["'`/]\^?((?:{ROOMS})\\?\.[^"'`\s]*)""")
"""A string, template or regular expression that begins like the name of a figure."""


def figures_in(script: str) -> Iterator[str]:
    """The names of figures in a script, without import paths."""
    yield from NAME.findall(re.sub(r'from ".*"', "", script))


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_names_registered_figures_only(path):
    unknown = set(figures_in(path.read_text())) - set(FIGURES)
    assert not unknown, f"add them to deploy/telemetry/figures.py, or correct the names: {sorted(unknown)}"


@pytest.mark.parametrize(
    ("script", "names"),
    [
        ('{ figure: "learner.losss" }', ["learner.losss"]),
        ("fact('buffer.sise', now.size)", ["buffer.sise"]),
        ("const rate = (name) => `buffer.${name}_rate`;", ["buffer.${name}_rate"]),
        (r"match: /^actor\..*\.busy$/", [r"actor\..*\.busy$/"]),
        ('import * as buffer from "../buffer.js"; live.run.id', []),
    ],
)
def test_a_name_is_recognised_in_strings_templates_and_patterns(script, names):
    assert list(figures_in(script)) == names


def test_the_views_name_figures():
    named = {name for path in SCRIPTS for name in figures_in(path.read_text())}
    assert len(named) > 50 and {"learner.loss", "buffer.size", "actor.NAME.busy"} <= named
