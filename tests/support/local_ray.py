"""Ray on this machine with invented GPUs, for tests of where and how processes start."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray

from deploy.cluster.ray_folder import make_ray_folder
from tests.support.processes import ROOT

GPUS, CPUS = 8, 4


@contextmanager
def local_ray() -> Iterator[pytest.MonkeyPatch]:
    """Ray for the length of the block; yields what sets the environment back at its end."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("RAY_")]:
            patch.delenv(name)
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_raylet_start_wait_time_s", "120")
        patch.setenv("PYTHONPATH", str(ROOT))
        _start_ray()
        yield patch
        ray.shutdown()


def _start_ray() -> None:
    """Up to three times: Ray gives a node's agent 15 s to report its port, too few on a busy machine (2.60)."""
    for attempts_left in (2, 1, 0):
        try:
            ray.init(
                address="local",
                num_cpus=CPUS,
                num_gpus=GPUS,
                include_dashboard=False,
                logging_level="error",
                log_to_driver=False,
                _temp_dir=str(make_ray_folder()),
            )
            return
        except Exception:  # Ray raises several unrelated classes here
            ray.shutdown()
            if not attempts_left:
                raise
