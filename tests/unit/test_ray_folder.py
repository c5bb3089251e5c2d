"""Ray's folder: paths of sockets that are too long are refused, those that fit are not."""

import os
import socket
from pathlib import Path

import pytest

from buffer.errors import ConfigError
from deploy.cluster import ray_folder
from deploy.cluster.ray_folder import MAX_SOCKET_PATH_BYTES, check_ray_folder

SLURM = "slurm_jobdir/cluster_a/project_x/users/somebody/job_1355700/node0016/tmp"


@pytest.fixture(autouse=True)
def no_ray_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RAY_ADDRESS", "RAY_TMPDIR", "TMPDIR"):
        monkeypatch.delenv(name, raising=False)


def test_tmpdir_too_long__is_refused_with_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_ray_folder()
    monkeypatch.setenv("TMPDIR", str(tmp_path / SLURM))
    with pytest.raises(ConfigError, match=r"paths of \d+ bytes, and at most 107 are possible") as error:
        check_ray_folder()
    assert "set TMPDIR (or RAY_TMPDIR) to a short path such as /tmp" in str(error.value)
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    check_ray_folder()


def test_a_cluster_that_runs_already_has_its_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", "/" + SLURM * 2)
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    check_ray_folder()


def test_the_limit_is_the_one_of_this_system_and_counts_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longest = f"/tmp/{os.getpid()}".ljust(MAX_SOCKET_PATH_BYTES, "x")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as refused:
        server.bind(longest)
        os.unlink(longest)
        with pytest.raises(OSError, match="too long"):
            refused.bind(longest + "x")
    rest = len(str(Path("/ray") / ray_folder._SOCKET.format(pid=os.getpid())))
    fits = "/" + "é" * ((MAX_SOCKET_PATH_BYTES - rest - 1) // 2)
    monkeypatch.setenv("TMPDIR", fits)
    check_ray_folder()
    monkeypatch.setenv("TMPDIR", fits + "é")
    with pytest.raises(ConfigError):
        check_ray_folder()
