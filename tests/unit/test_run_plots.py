"""Plots: every possible run can be plotted, and the captions are right."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from deploy.dashboard.views.glossary import GLOSSARY
from deploy.report.run_plots import (
    MAX_POINTS,
    Side,
    _caption,
    _is_informative,
    plot_figures,
    plot_histogram,
    plot_posterior,
    plot_training,
)
from rewards.judging.bootstrap import Interval
from rewards.judging.bound import Bound
from rewards.task import Figure

PNG = b"\x89PNG\r\n\x1a\n"


def a_row(step: int, **others: Any) -> dict[str, Any]:
    return {
        "step": step, "loss": 2.0 / step, "var_u": 1.0 / step, "log_z": 4.0, "labels": {"valid": 0.5},
        "staleness_mean": 0.5, "staleness_max": 1, "wait_s": 0.1, "step_s": 1.0,
    } | others  # fmt: skip


def test_a_histogram_is_written_as_a_picture(tmp_path: Path) -> None:
    counts = np.arange(101)
    plot_histogram(tmp_path / "new" / "h.png", counts, counts[::-1], 6000, 5050, "a prompt with $ signs $ and _")
    assert (tmp_path / "new" / "h.png").read_bytes().startswith(PNG)


def test_a_sampler_that_drew_nothing_valid_can_be_plotted(tmp_path: Path) -> None:
    plot_histogram(tmp_path / "h.png", np.zeros(3, int), np.zeros(3, int), 10, 0, "none")
    assert (tmp_path / "h.png").exists()


def test_the_caption_of_a_uniform_sample_reads_zero_divergence() -> None:
    assert _caption(np.full(10, 5), 100, 50) == (
        "100 samples · 50.0 % valid · KL to uniform 0.000 nats (noise floor 0.090)"
    )


def test_the_caption_of_a_point_mass_reads_log_k() -> None:
    assert f"KL to uniform {math.log(4):.3f} nats" in _caption(np.array([0, 8, 0, 0]), 8, 8)


def test_the_caption_of_nothing_valid_claims_no_divergence() -> None:
    assert _caption(np.zeros(4, int), 2000, 0) == "2,000 samples, none valid"


@pytest.mark.parametrize(
    "rows",
    [
        [a_row(k) for k in range(1, 6)],
        [a_row(1)],
        [a_row(1, var_u=math.nan), a_row(2, var_u=math.nan)],
        [a_row(1, labels={}), a_row(2, labels={"valid": math.nan}), a_row(3, labels={"length": 12.0})],
        [a_row(1, loss=0.0, var_u=0.0)],
        [{"step": 1}],
    ],
    ids=["usual", "one step", "no variance", "labels come and go", "zero on a log axis", "figures missing"],
)
@pytest.mark.parametrize("log_z", [4.6, None])
@pytest.mark.filterwarnings("error")
def test_every_training_history_can_be_plotted(tmp_path: Path, rows: list[dict[str, Any]], log_z: float | None) -> None:
    plot_training(tmp_path / "t.png", rows, log_z)
    assert (tmp_path / "t.png").read_bytes().startswith(PNG)


def a_side(n: int, noise: float = 1.0) -> Side:
    rng = np.random.default_rng(n)
    log_p = rng.normal(-10.0, 3.0, n)
    return Side(log_p + noise * rng.normal(size=n), log_p, 1.0, 0.9, 0.5)


def texts_of(path: Path) -> str:
    """The texts of an SVG: matplotlib writes each as a comment next to its shapes."""
    parser = ElementTree.XMLParser(target=ElementTree.TreeBuilder(insert_comments=True))
    return " ".join(str(e.text) for e in ElementTree.parse(path, parser).iter() if e.tag is ElementTree.Comment)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (a_side(50), a_side(50, noise=0.1)),
        (a_side(0), a_side(1)),
        (Side(np.full(3, -2.0), np.full(3, math.nan), math.nan, math.nan, math.nan), a_side(5)),
        (Side(np.full(2, -2.0), np.full(2, 3.0), math.nan, math.nan, 1.0), a_side(0)),
    ],
    ids=["usual", "nothing drawn", "log Z unknown", "above the line of certainty"],
)
@pytest.mark.filterwarnings("error")
def test_any_set_of_strings_can_be_plotted_against_the_target(tmp_path: Path, before: Side, after: Side) -> None:
    plot_posterior(tmp_path / "p.png", before, after, 0.7)
    assert (tmp_path / "p.png").read_bytes().startswith(PNG)
    texts = texts_of(tmp_path / "p.svg")
    assert "base model" in texts and GLOSSARY["log Z"] in texts and "T = 0.7" in texts


def test_a_plot_shows_at_most_max_points_strings(tmp_path: Path) -> None:
    plot_posterior(tmp_path / "few.png", a_side(MAX_POINTS), a_side(MAX_POINTS), 1.0)
    plot_posterior(tmp_path / "many.png", a_side(30 * MAX_POINTS), a_side(30 * MAX_POINTS), 1.0)
    few, many = ((tmp_path / f"{name}.svg").stat().st_size for name in ("few", "many"))
    assert many < 2 * few


@pytest.mark.parametrize(
    "figures",
    [
        {},
        {"unknown": math.nan},
        {"share": Interval(0.5, 0.4, 0.6), "nats": Interval(-40.0, -45.0, -30.0), "count": 3.0},
        {"skewed": Interval(1.0, 2.0, 3.0), "no interval": Interval(1.0, math.nan, math.nan), "nought": 0.0},
        {f"figure $ {k} _ with a long name": Interval(1e9 * k, -1.0, 2e9 * k) for k in range(13)},
    ],
    ids=["none", "unknown", "usual", "odd intervals", "many and large"],
)
@pytest.mark.filterwarnings("error")
def test_all_figures_that_a_task_may_have_can_be_plotted(tmp_path: Path, figures: Mapping[str, Figure]) -> None:
    plot_figures(tmp_path / "f.png", {}, figures)
    plot_figures(tmp_path / "f.png", figures, {name: math.nan for name in figures})
    assert (tmp_path / "f.png").read_bytes().startswith(PNG) and (tmp_path / "f.svg").is_file()


def test_plots_show_the_side_of_a_bound_and_how_many_samples_it_is_of(tmp_path: Path) -> None:
    ess = Bound(0.182, "at most", "K = 10, 1/K = 0.1")
    plot_figures(tmp_path / "f.png", {"ess": math.nan, "kl": 1.0}, {"ess": ess, "kl": Bound(0.5, "at least")})
    texts = texts_of(tmp_path / "f.svg")
    assert "ess, at most" in texts and ess.note in texts and "kl, at least" in texts
    side = Side(np.zeros(2), np.zeros(2), 1.0, 1.0, ess)
    plot_posterior(tmp_path / "p.png", side, side, 1.0)
    texts = texts_of(tmp_path / "p.svg")
    assert "ess at most 0.182" in texts and ess.note in texts


def test_an_uninformative_figure_has_no_panel(tmp_path: Path) -> None:
    moved = Interval(0.1, 0.0, 0.2), Interval(0.9, 0.8, 1.0)
    assert _is_informative(*moved) and _is_informative(math.nan, 0.5) and _is_informative(moved[0], moved[0])
    assert not _is_informative(2000.0, 2000.0) and not _is_informative(math.nan, math.nan)
    plot_figures(tmp_path / "f.png", {"valid": moved[0], "samples": 9.0}, {"valid": moved[1], "samples": 9.0})
    assert "valid" in texts_of(tmp_path / "f.svg") and "samples" not in texts_of(tmp_path / "f.svg")


def test_a_prompt_with_control_characters_makes_a_well_formed_svg(tmp_path: Path) -> None:
    plot_histogram(tmp_path / "h.png", np.ones(3, int), np.ones(3, int), 3, 3, "a\x00\x1b[31m <b> & \n" + "long " * 60)
    texts = texts_of(tmp_path / "h.svg")
    assert "x1b[31m" in texts and "\x1b" not in texts
