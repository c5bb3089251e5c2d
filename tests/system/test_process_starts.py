"""A process of any kind that fails or dies while it loads ends the wait with its own words, or is started again."""

from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import ray
import typer

from buffer.errors import ConfigError, TributaryError, WaitTimeout
from buffer.types import PolicySpec
from deploy import cli
from deploy.cluster import system
from deploy.cluster.process_setup import Address
from deploy.cluster.ray_calls import result_of
from deploy.cluster.root_cause import root_cause
from deploy.cluster.system import System
from deploy.config import parse_config
from deploy.dashboard.data.run_reader import HistoryUnreadable
from tests.support import tiny
from tests.support.failing_start import FailingStore
from tests.support.local_ray import local_ray
from tests.support.placed_process import PlacedProcess

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with local_ray():
        yield


def start(
    role: str,
    spec: PolicySpec,
    redis_url: str,
    folder: Path,
    patch: pytest.MonkeyPatch,
    restarts: int = 0,
    limit_s: float = 600.0,
    release: str = version("tributary"),
    **how: Any,
) -> None:
    """Start a run of whose processes only those of `role` are real, wait until all are ready, and end it."""
    for name in {"actor", "reward", "learner"} - {role}:
        patch.setattr(system, f"{name.title()}Process", PlacedProcess)
    recipe = tiny.tiny_recipe(Path(spec.base_model))
    options = {"role": role, **(how or {"role": "none", "how": ""})}
    recipe["task"] = {"name": "tests.support.failing_start:FailsInOneRole", "options": options}
    recipe["actors"] |= {"engine": "simulated", "advanced": {"max_restarts": restarts, "start_limit_s": limit_s}}
    recipe["rewards"] = {"advanced": {"max_restarts": restarts}}
    recipe["learner"] |= {"ranks": 2 if "rank" in how else 1}
    config = parse_config(recipe, source="test")
    address = Address(config, spec, redis_url, uuid4().hex, "tiny", str(folder), uuid4().hex, release)
    run = System(config, address)
    try:
        run.wait_until_ready(lambda wait: None, lambda name, seconds: None)
    finally:
        run.kill()


def test_a_node_with_another_release_than_the_drivers_is_refused(
    tiny_spec: PolicySpec, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(Exception) as raised:
        start("reward", tiny_spec, redis_url, tmp_path, monkeypatch, release="0.0.9")
    error = root_cause(raised.value)
    assert isinstance(error, ConfigError) and "and the driver 0.0.9. Install the driver's release" in str(error)


@pytest.mark.parametrize(
    ("role", "rank"),
    [("actor", {}), ("reward", {}), ("learner", {"rank": 1})],
    ids=["actor", "reward-worker", "learner-rank-1"],
)
def test_an_error_that_cannot_be_sent_reaches_the_driver_in_its_own_words(
    role: str,
    rank: dict[str, int],
    tiny_spec: PolicySpec,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(TributaryError, match=r"the constructor raised UnpicklableError: no weights at this address \("):
        start(role, tiny_spec, redis_url, tmp_path, monkeypatch, how="raise", **rank)


def test_an_adapter_store_that_does_not_start_is_named_and_not_the_processes_that_need_it(
    tiny_spec: PolicySpec, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(system, "AdapterStore", FailingStore)
    with pytest.raises(
        TributaryError, match=r"the process of the adapter store failed .*RuntimeError: no object store"
    ):
        start("actor", tiny_spec, redis_url, tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("SIGSEGV", r"process of the actors \(process \d+\) died by SIGSEGV\."),
        ("SIGKILL", r"process of the actors \(process \d+\) died without a word, as by SIGKILL; .*dmesg"),
    ],
)
def test_a_process_that_dies_while_it_loads__the_error_says_what_is_known(
    how: str, words: str, tiny_spec: PolicySpec, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TributaryError, match=words):
        start("actor", tiny_spec, redis_url, tmp_path, monkeypatch, how=how)


def test_processes_that_take_longer_than_the_recipe_allows_end_the_start_with_the_setting(
    tiny_spec: PolicySpec, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WaitTimeout, match=r"actors\.advanced\.start_limit_s .* loading: .*actors.*limit 0\.01 s"):
        start("actor", tiny_spec, redis_url, tmp_path, monkeypatch, limit_s=0.01)


def test_a_process_that_dies_the_first_time_it_loads_is_started_again(
    tiny_spec: PolicySpec, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first"
    start("actor", tiny_spec, redis_url, tmp_path, monkeypatch, restarts=1, how="SIGKILL", once=str(first))
    assert first.exists()


def errors_made_on_purpose(base: type[TributaryError] = TributaryError) -> list[type[TributaryError]]:
    """TributaryError and every class below it that the packages define."""
    return [base, *(error for below in base.__subclasses__() for error in errors_made_on_purpose(below))]


class Raises:
    """A process that raises an error in its constructor, in a method, or in a process that it calls."""

    def __init__(self, error: type[TributaryError] | None = None) -> None:
        if error:
            raise error(MESSAGE)
        self._other: Any = None

    def call(self, error: type[TributaryError]) -> None:
        """Raise it from another error."""
        try:
            raise KeyError("an error below")
        except KeyError as below:
            raise error(MESSAGE) from below

    def call_another(self, error: type[TributaryError]) -> None:
        """Raise what another process raises."""
        self._other = self._other or ray.remote(Raises).options(num_cpus=0).remote()
        ray.get(self._other.call.remote(error))


MESSAGE = "[red]bad value[/red]: the fix"


def test_every_error_made_on_purpose_is_one_message_and_exit_code_2_wherever_it_is_raised(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    classes = errors_made_on_purpose()
    assert HistoryUnreadable in classes and len(classes) >= 9
    process = ray.remote(Raises).options(num_cpus=0)
    lasting = process.remote()
    calls = [(error, process.remote(error).call.remote(error)) for error in classes[-1:]]  # each is a new process
    calls += [(error, method.remote(error)) for error in classes for method in (lasting.call, lasting.call_another)]
    for error, call in calls:
        for command in (lambda call=call: result_of(call, "learner"), lambda call=call: ray.get(call)):
            app = typer.Typer(pretty_exceptions_enable=False)
            app.command()(command)
            monkeypatch.setattr(cli, "app", lambda standalone_mode, app=app: app([], standalone_mode=standalone_mode))
            with pytest.raises(SystemExit) as ended:
                cli.main()
            output = capsys.readouterr()
            assert ended.value.code == 2
            assert (output.out, output.err) == ("", f"{error.__name__}: {MESSAGE}\n")
