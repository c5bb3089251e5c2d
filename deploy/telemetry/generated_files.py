"""Files that follow from the registries of figures and alert rules.

`python -m deploy.telemetry.generated_files` writes them; tests/unit/test_figures.py fails where one is out of date.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from deploy.telemetry.alert_rules import RULES
from deploy.telemetry.alerts import Rule
from deploy.telemetry.figures import FIGURES

ROOT = Path(__file__).parents[2]
ALERTS = "deploy/monitoring/alerts.yml"
BEGIN, END = "<!-- generated from deploy/telemetry/figures.py: begin -->", "<!-- generated: end -->"
_HEAD = """\
# Generated from deploy/telemetry/alert_rules.py by `python -m deploy.telemetry.generated_files`: do not edit.
# Ray keeps the counters of a process that has ended, under a WorkerId of their own, and drops its gauges within 20 s.
# So counters are added up over processes, and a gauge tells whether there is a run.
# Each alert has a section of its name in docs/operate.md: what it means, what to do. tests/deployment checks that.
groups:
  - name: tributary
    rules:
"""


def generated_files() -> Iterator[tuple[Path, str]]:
    """(path, content as it should be)."""
    yield ROOT / ALERTS, _HEAD + "\n".join(_alert(rule) for rule in RULES if rule.query)
    for page, table in (("docs/dashboard-api.md", curve_table()), ("docs/operate.md", metric_table())):
        text = (ROOT / page).read_text()
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        yield ROOT / page, f"{before}{BEGIN}\n{table}{END}{after}"


def curve_table() -> str:
    """The figures that the dashboard keeps over time, as a table in Markdown."""
    rows = [
        (f"`{figure.name}`", figure.unit or "1", figure.axis, _meaning(figure.meaning, figure.aim))
        for figure in FIGURES.values()
        if figure.curve
    ]
    return _table(("name", "unit", "axis", "meaning"), rows)


def metric_table() -> str:
    """The figures that Prometheus sees, as a table in Markdown."""
    rows = [
        (f"`{figure.series}`", figure.unit or "1", ", ".join(figure.tags), _meaning(figure.meaning, figure.aim))
        for figure in FIGURES.values()
        if figure.metric
    ]
    return _table(("name", "unit", "labels", "meaning"), rows)


def _meaning(meaning: str, aim: float | None) -> str:
    return meaning if aim is None else f"{meaning} {aim:g} at the optimum."


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines)


def _alert(rule: Rule) -> str:
    query = rule.query
    assert query is not None
    fields: Mapping[str, str] = {"summary": query.summary, "runbook": f"docs/operate.md#{query.alert.lower()}"}
    lines = [f"      - alert: {query.alert}"]
    if query.comment:
        lines.append(f"        # {query.comment}")
    lines.append("        expr: |-")
    lines += [f"          {line}" for line in query.expr.splitlines()]
    if query.hold:
        lines.append(f"        for: {query.hold}")
    lines.append(f"        labels: {{severity: {rule.severity}}}")
    lines.append("        annotations:")
    lines += [f"          {name}: {json.dumps(text, ensure_ascii=False)}" for name, text in fields.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    for path, content in generated_files():
        path.write_text(content)
