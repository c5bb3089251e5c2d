"""Learner and scorer on a device that is not the CPU: every tensor is made where it is used."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.pretend_steps import OBJECTIVES, compute
from tests.support.processes import ROOT

pytestmark = pytest.mark.slow

CLOSE = 1e-4
"""Relative difference: the order of sums differs."""


def test_learner_and_scorer_mix_no_devices_and_compute_what_they_do_on_the_cpu(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Two steps with a checkpoint between them, one pass and several, publishing, canaries, exact figures; scores."""
    command = [sys.executable, "-m", "tests.support.pretend_steps", str(tiny_model), str(tmp_path / "pretend")]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=400)
    assert done.returncode == 0, "an operation mixed devices, or read a device's memory: the traceback is above"
    on_device, on_cpu = json.loads(done.stdout.splitlines()[-1]), compute(tiny_model, tmp_path, torch.device("cpu"))
    for objective in OBJECTIVES:
        assert on_device[objective].keys() == on_cpu[objective].keys() >= {"loss", "grad_norm", "canary"}
        for name, value in on_cpu[objective].items():
            assert on_device[objective][name] == pytest.approx(value, rel=CLOSE, abs=CLOSE), f"{objective}: {name}"
    for ours, expected in zip(on_device["scorer"], on_cpu["scorer"], strict=True):
        assert ours == pytest.approx(expected, abs=CLOSE)


def test_the_pretended_device_refuses_what_cuda_refuses() -> None:
    """Else the test above could not fail."""
    code = """
import numpy, torch
from tests.support.pretend_device import DEVICE
x, y = torch.ones(3, device=DEVICE), torch.ones(3)
def write(): x[torch.tensor([0, 1])] = y[:2]
for mixed in (lambda: x + y, lambda: torch.cat([x, y]), lambda: x.numpy(), lambda: numpy.asarray(x), write):
    try:
        mixed()
    except (RuntimeError, TypeError):
        continue
    raise SystemExit("a mixture of devices went unnoticed")
assert (x + y.to(DEVICE)).cpu().numpy().tolist() == [2.0, 2.0, 2.0]
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
