"""`tributary report`: one self-contained HTML page about a run, to send to a colleague.

The page has no scripts and loads nothing; its content security policy forbids both. Text of models and tasks is
escaped, and control characters are made visible.
"""

import base64
import html
import time
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w

from buffer.errors import ConfigError
from deploy.artifacts.json_files import write_whole
from deploy.dashboard.data.run_reader import RunReader
from deploy.dashboard.views.buffer import buffer_view
from deploy.dashboard.views.glossary import GLOSSARY
from deploy.dashboard.views.overview import limits, overview
from deploy.dashboard.views.posterior import posterior_view
from deploy.dashboard.views.result import result_plot
from deploy.dashboard.views.rewards import reward_view
from deploy.dashboard.views.runs import events
from deploy.dashboard.views.samples import before_after, prompts
from deploy.report.svg_charts import Plot, band_plot, bar_plot, figure_plot, line_plot, scatter_plot

POSTERIOR_STEPS = 20
MAX_EVENTS = 200
MAX_LABELS = 8
MAX_COMPARED = 10
"""Samples from before training, and as many from after."""
MAX_TEXT_LENGTH = 300
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_STYLE = """
:root { color-scheme: light; }
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; }
body { max-width: 1160px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; } figure { margin: 0; flex: 1 1 440px; max-width: 560px; }
figure img { width: 100%; height: auto; } figcaption { font-size: .85rem; color: #444; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .2rem .8rem .2rem 0; border-bottom: 1px solid #eee; vertical-align: top; }
td.n { text-align: right; } .scroll { overflow-x: auto; } pre { background: #f6f6f6; padding: .8rem; overflow-x: auto; }
.text { font-family: ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
"""


def write_report(folder: Path, out: Path) -> None:
    """Write the report of the run in `folder` atomically. Raise ConfigError if the run has no learner step yet."""
    run = RunReader(folder, folder.name, primary=True)
    try:
        run.refresh()
        if not run.learner.counts():
            raise ConfigError(
                f"{folder} has no learner step yet, so there is nothing to report. Try again after the first step."
            )
        page = "".join(_page(run))
    finally:
        run.close()
    write_whole(out, page.encode("utf-8", "replace"))


def _page(run: RunReader) -> Iterator[str]:
    view = overview(run)
    title = f"Tributary run {view['name']}"
    yield "<!doctype html>\n<html lang='en'><head><meta charset='utf-8'>"
    yield f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    yield "<meta name='viewport' content='width=device-width, initial-scale=1'>"
    yield f"<title>{text(title)}</title><style>{_STYLE}</style></head><body>"
    written = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(view["now"]))
    yield f"<h1>{text(title)}</h1><p>{text(view['sentence'])} Written {written}.</p>"
    yield from _result(run, view)
    yield from _figures(view)
    yield from _glossary()
    posterior = posterior_view(run, None, POSTERIOR_STEPS, limits(run).get("log_z_exact"))
    rewards, buffer = reward_view(run, None), buffer_view(run, limits(run))
    for heading, plots in _plots(run, posterior, rewards, buffer):
        yield f"<h2>{heading}</h2><div class='plots'>{''.join(_figure(plot) for plot in plots if plot)}</div>"
    yield from _samples(run, rewards)
    yield from _events(run)
    yield f"<h2>Configuration</h2><pre>{text(tomli_w.dumps(run.config()), max_length=100_000)}</pre></body></html>\n"


def _plots(
    run: RunReader, posterior: Mapping[str, Any], rewards: Mapping[str, Any], buffer: Mapping[str, Any]
) -> Iterator[tuple[str, list[Plot | None]]]:
    """Heading -> its plots; None for a plot without data."""
    names = list(run.learner.counts() | run.snapshots.counts())
    yield "Posterior", _posterior_plots(run, posterior)
    yield "Rewards", _reward_plots(run, rewards, names)
    yield "Learner", _learner_plots(run)
    yield "Buffer", _buffer_plots(run, buffer)
    actors = sorted({name.split(".")[1] for name in names if name.startswith("actor.")})
    yield "Actors", [figure_plot(run, f"actor.NAME.{field}", actors) for field in ("tokens_per_s", "behind")]


def _posterior_plots(run: RunReader, posterior: Mapping[str, Any]) -> list[Plot | None]:
    return [
        figure_plot(run, "learner.var_u"),
        line_plot(run, "log Z, two estimates", ["learner.log_z_lower", "learner.log_z_mean"]),
        scatter_plot(posterior),
        band_plot("u by prefix position: flat at the optimum", "prefix position", "nats", posterior["u"]),
        figure_plot(run, "learner.ess"),
        line_plot(run, "distance to the target", ["learner.total_variation", "learner.kl"], log=True),
    ]


def _reward_plots(run: RunReader, rewards: Mapping[str, Any], names: Sequence[str]) -> list[Plot | None]:
    labels = sorted(name for name in names if name.startswith("learner.labels."))[:MAX_LABELS]
    terms = sorted(name for name in names if name.startswith("learner.terms."))[:MAX_LABELS]
    fan = [f"learner.log_reward_{q}" for q in ("q05", "q25", "q50", "q75", "q95")]
    return [
        line_plot(run, "log R of fresh on-policy strings", [*fan, "learner.log_reward"]),
        line_plot(run, "terms", terms),
        line_plot(run, "labels", labels),
        figure_plot(run, "learner.diversity"),
        band_plot("log R along a string", "prefix position", "nats", rewards["per_prefix"]),
        bar_plot("log R in the buffer", "log R, nats", rewards["histogram"]["bins"]),
    ]


def _learner_plots(run: RunReader) -> list[Plot | None]:
    seconds = [f"learner.{name}" for name in ("wait_s", "work_s", "publish_s")]
    return [
        figure_plot(run, "learner.loss"),
        figure_plot(run, "learner.grad_norm"),
        line_plot(run, "seconds per step", seconds),
        figure_plot(run, "learner.learning_rate"),
    ]


def _buffer_plots(run: RunReader, buffer: Mapping[str, Any]) -> list[Plot | None]:
    flows = ["buffer.arrival_rate", "buffer.sample_rate", "buffer.evict_rate"]
    return [
        figure_plot(run, "buffer.size"),
        line_plot(run, "trajectories in and out", flows),
        figure_plot(run, "buffer.draws_per_insert"),
        bar_plot("draw weights", "weight", buffer["priority_histogram"], log_x=True),
    ]


def _figure(plot: Plot) -> str:
    data = base64.b64encode(plot.svg).decode()
    return (
        f"<figure><figcaption><b>{text(plot.title)}</b></figcaption><img alt='{text(plot.description)}' "
        f"src='data:image/svg+xml;base64,{data}'><figcaption>{text(plot.description)}</figcaption></figure>"
    )


def _glossary() -> Iterator[str]:
    yield "".join(f"<p><b>{text(term)}</b>: {text(meaning)}.</p>" for term, meaning in GLOSSARY.items())


def _figures(view: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        [text(one["title"]), _number(one["before"]), _number(one["value"]), _ends(one), text(one["unit"])]
        for one in view["figures"]
    ]
    yield "<h2>Training samples</h2><p>Means over many samples, with 95 % intervals.</p>"
    yield _table(["figure", "first samples", "newest samples", "interval", "unit"], rows)


def _result(run: RunReader, view: Mapping[str, Any]) -> Iterator[str]:
    """Base model, trained policy and target of the newest evaluation, its verdicts, and the plot that shows it."""
    if not (result := view["result"]):
        return
    yield "<h2>Result</h2>"
    for side, name in (("after", "Trained"), ("before", "Base model")):
        if verdict := result["verdicts"][side]:
            yield f"<p><b>{name}:</b> {text(verdict, max_length=1000)}.</p>"
    rows = [
        [
            text(row["title"]),
            _cell(row["before"]),
            f"<b>{_cell(row['after'])}</b>",
            "" if row["target"] is None else _number(row["target"]),
        ]
        for row in result["rows"]
    ]
    yield _table(["figure", "base", "trained", "target"], rows)
    if plot := result_plot(run, "svg"):
        name, content = plot
        words = "Outcomes of base model and trained policy" if name == "histogram" else "log q against log R"
        yield f"<div class='plots'>{_figure(Plot('Result', words, content))}</div>"
    yield f"<p>From {text(result['source'])}; brackets are 95 % intervals.</p>"


def _cell(cell: Mapping[str, Any]) -> str:
    """A value with its interval, or with the side that a biased estimate is on."""
    if cell["value"] is None:
        return "n/a"
    return f"{text(cell['side'] or '')} {_number(cell['value'])}{_ends(cell)}".strip()


def _ends(one: Mapping[str, Any]) -> str:
    return "" if one["low"] is None else f" [{_number(one['low'])}, {_number(one['high'])}]"


def _samples(run: RunReader, rewards: Mapping[str, Any]) -> Iterator[str]:
    top = [
        [_model_text(one["text"]), _number(one["log_reward"]), _number(one["log_q"]), text(str(one["times"]))]
        for one in rewards["top"]
    ]
    if top:
        yield "<h2>Best strings recorded</h2>"
        yield _table(["string", "log R, nats", "log q, nats", "times recorded"], top)
    for prompt in prompts(run, 1)["prompts"]:
        sides = before_after(run, prompt["id"])
        yield f"<h2>Before and after, prompt {_model_text(prompt['id'])}</h2><p>{_model_text(prompt['text'])}</p>"
        for side in ("before", "after"):
            rows = [[_model_text(one["text"]), _number(one["log_reward"])] for one in sides[side][:MAX_COMPARED]]
            if rows:
                yield _table([side, "log R, nats"], rows)


def _events(run: RunReader) -> Iterator[str]:
    rows = [
        [text(str(one["step"])), text(one["level"]), text(one["who"]), text(one["text"])]
        for one in events(run, (), None, MAX_EVENTS)["events"]
    ]
    if rows:
        yield "<h2>Events, newest first</h2>"
        yield _table(["step", "level", "who", "what"], rows)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; the cells are HTML already."""
    head = "".join(f"<th>{text(name)}</th>" for name in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def text(words: str, max_length: int = MAX_TEXT_LENGTH) -> str:
    """Text as HTML: markup escaped; invisible characters and those that reorder text written as code points."""
    shown = words if len(words) <= max_length else f"{words[:max_length]} ..."
    return "".join(f"[U+{ord(c):04X}]" if _is_hidden(c) else html.escape(c, quote=True) for c in shown)


def _is_hidden(character: str) -> bool:
    return character != "\n" and unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")


def _model_text(words: str) -> str:
    """Text of a model as HTML, with its spaces and line breaks."""
    return f"<span class='text'>{text(words) or '(empty)'}</span>"


def _number(value: float | None) -> str:
    return "unknown" if value is None else f"{value:.4g}"
