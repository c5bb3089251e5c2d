"""How a process died, from what Ray tells."""

import os
from pathlib import Path

import pytest

from buffer.errors import TributaryError
from deploy.cluster import death
from deploy.cluster.death import cause_of, how_it_died
from deploy.cluster.process_setup import portable_errors


@pytest.fixture(autouse=True)
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of logs."""
    monkeypatch.setattr(death, "_logs", lambda: tmp_path)
    return tmp_path


DIED = "The actor died unexpectedly before finishing this task.\n\tclass_name: A\n\tpid: 71\n\tip: 192.0.2.2\n"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (DIED + "Worker exits with an exit code 4.", "(process 71) ended with exit code 4"),
        ("Task was killed due to the node running low on memory.", "was killed by Ray, because its machine"),
        (DIED + "connection error code 2. End of file.", "(process 71) died without a word, as by SIGKILL"),
        ("", "died without a word"),
    ],
    ids=["exit-code", "out-of-memory", "killed", "unknown"],
)
def test_an_exit_code_and_a_lack_of_memory_are_named(told: str, words: str) -> None:
    assert how_it_died(told).startswith(words)


def test_a_signal_is_read_at_the_end_of_the_log_of_that_process(logs: Path) -> None:
    (logs / "worker-aa-01-71.err").write_text("x" * death.TAIL_BYTES + "*** SIGBUS received at time=1 on cpu 0 ***\n")
    (logs / "worker-bb-01-171.err").write_text("*** SIGSEGV received at time=1 on cpu 0 ***\n")
    assert how_it_died(DIED) == "(process 71) died by SIGBUS"


class Dead(Exception):
    """As Ray's ActorDiedError of a constructor that raised."""

    actor_init_failed = True


def test_an_error_of_another_package_in_a_constructor_is_told_with_its_type() -> None:
    error = cause_of(Dead(ImportError("no module named nothing")), "adapter store")
    assert "the process of the adapter store failed to start: ImportError: no module named nothing." in str(error)


@portable_errors
def start(error: Exception | None) -> None:
    """Fail as the start of a process may: with an error, or with one that has no text, as of an `assert`."""
    raise error or AssertionError


LOG = """(Worker_TP1 pid=8) ERROR 11-26 [multiproc_executor.py:789] WorkerProc failed to start.
(Worker_TP1 pid=8) ERROR 11-26 [multiproc_executor.py:789] Traceback (most recent call last):
(Worker_TP1 pid=8) ERROR 11-26 [multiproc_executor.py:789] torch.OutOfMemoryError: CUDA out of memory.
RuntimeError: Engine core initialization failed. See stack trace for root cause.
"""


def test_an_error_without_a_text_is_told_with_its_place_and_line() -> None:
    with pytest.raises(TributaryError, match=r"AssertionError without a text, at .*test_death\.py:\d+: raise error or"):
        start(None)


def test_the_error_of_a_worker_of_vllm_is_read_in_the_log(logs: Path) -> None:
    points = RuntimeError("WorkerProc initialization failed. See stack trace for root cause.")
    with pytest.raises(TributaryError, match=r"See stack trace for root cause\. Its last output is in the logs folder"):
        start(points)
    (logs / f"worker-0-{os.getpid()}.err").write_text(LOG)
    with pytest.raises(TributaryError, match=r"failed to start: torch\.OutOfMemoryError: CUDA out of memory\.$"):
        start(points)
