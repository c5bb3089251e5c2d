"""What Ray's worker processes import: Tributary's own packages, and the user's modules from the working folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from deploy import PACKAGES
from deploy.cluster.ray_folder import _SOCKET, MAX_SOCKET_PATH_BYTES
from tests.support.processes import ROOT

PROGRAM = ROOT / "tests" / "support" / "worker_imports.py"
PRIVATE_RAY = ROOT / "tests" / "support" / "private_ray.py"


def folder_with_our_names(folder: Path) -> Path:
    """A user's folder in which every package of Tributary has a namesake that ends the process which imports it."""
    for name in PACKAGES:
        module = folder / "buffer" / "__init__.py" if name == "buffer" else folder / f"{name}.py"
        module.parent.mkdir(parents=True, exist_ok=True)
        module.write_text("raise SystemExit('a file of the user was imported')\n")
    (folder / "my_task.py").write_text("")
    return folder


def imports_of_a_worker(folder: Path, **environment: str) -> dict[str, str]:
    """Module -> file, in a worker of a driver that was started in `folder`."""
    done = subprocess.run(
        [sys.executable, "-P", PROGRAM], cwd=folder, capture_output=True, text=True, timeout=240,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_raylet_start_wait_time_s": "120"} | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(json.loads(done.stdout))


def expected(folder: Path) -> dict[str, str]:
    return {name: str(ROOT / name / "__init__.py") for name in PACKAGES} | {"my_task": str(folder / "my_task.py")}


def test_rewards_py_in_folder__workers_import_our_packages_and_the_user_s_task(tmp_path: Path) -> None:
    """The temporary folder is the longest one that is not refused: Ray's sockets fit."""
    folder = folder_with_our_names(tmp_path / "own")
    longest = MAX_SOCKET_PATH_BYTES - len(f"/ray-{os.getuid()}/ray/{_SOCKET.format(pid=10**6)}")
    scratch = Path(f"/tmp/t{os.getpid()}".ljust(longest, "x"))
    try:
        assert imports_of_a_worker(folder, RAY_TMPDIR=str(scratch)) == expected(folder)
        assert (scratch / f"ray-{os.getuid()}" / "ray").is_dir()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def test_the_ray_of_a_run_is_closed_to_other_users_of_the_machine(tmp_path: Path) -> None:
    """Loopback, a private folder, a token of this run only that is in no file."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, PRIVATE_RAY], capture_output=True, text=True, timeout=240,
        env=clean | {"PYTHONPATH": str(ROOT), "HOME": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert (result["mode"], result["own token"], result["another token"]) == ("0o700", True, False)
    assert result["address"].startswith("127.0.0.1:")
    assert list(tmp_path.iterdir()) == [], "by default Ray leaves its token in the user's home"
