"""Ray's folder: paths of sockets that are too long are refused, those that fit are not."""

import os
import socket
from pathlib import Path

import pytest

from buffer.errors import ConfigError
from deploy.cluster import ray_folder
from deploy.cluster.ray_folder import MAX_SOCKET_PATH_BYTES, check_ray_folder, make_ray_folder

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
    rest = len(str(Path(f"/ray-{os.getuid()}/ray") / ray_folder._SOCKET.format(pid=os.getpid())))
    fits = "/" + "é" * ((MAX_SOCKET_PATH_BYTES - rest - 1) // 2)
    monkeypatch.setenv("TMPDIR", fits)
    check_ray_folder()
    monkeypatch.setenv("TMPDIR", fits + "é")
    with pytest.raises(ConfigError):
        check_ray_folder()


def test_rays_folder_is_in_one_that_only_this_user_can_enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    private = make_ray_folder().parent
    assert private.parent == tmp_path and private.stat().st_mode & 0o777 == 0o700
    private.chmod(0o777)
    make_ray_folder()
    assert private.stat().st_mode & 0o777 == 0o700
    private.rename(tmp_path / "elsewhere")
    private.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"is a link or another user's folder.*RAY_TMPDIR"):
        make_ray_folder()


def test_a_folder_that_another_user_made_first_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    make_ray_folder()
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)
    ray_folder.ray_folder().parent.mkdir()
    with pytest.raises(ConfigError, match="another user's folder"):
        make_ray_folder()
