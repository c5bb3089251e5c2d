"""Plots: they come out as pictures for every run that can happen, and their captions are right."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from deploy.plots import _verdict, plot_histogram, plot_training

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
    assert _verdict(np.full(10, 5), 100, 50) == (
        "100 samples · 50.0 % valid · KL to uniform 0.000 nats (noise floor 0.090)"
    )


def test_the_caption_of_a_point_mass_reads_log_k() -> None:
    assert f"KL to uniform {math.log(4):.3f} nats" in _verdict(np.array([0, 8, 0, 0]), 8, 8)


def test_the_caption_of_nothing_valid_claims_no_divergence() -> None:
    assert _verdict(np.zeros(4, int), 2000, 0) == "2,000 samples, none valid"


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
def test_every_course_of_a_run_can_be_plotted(tmp_path: Path, rows: list[dict[str, Any]], log_z: float | None) -> None:
    plot_training(tmp_path / "t.png", rows, log_z)
    assert (tmp_path / "t.png").read_bytes().startswith(PNG)
