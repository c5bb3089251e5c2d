"""Tasks that can be built by the driver but not in the processes of one role."""

import os
import signal
import threading
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path

from tokenizers import Tokenizer

from buffer.errors import ConfigError
from buffer.types import IntArray, Prompt
from deploy.cluster.adapter_store import AdapterStore
from deploy.cluster.learner_process import LearnerProcess
from tests.support.tiny import TinyTask


def _is_in(role: str) -> bool:
    return any(frame.filename.endswith(f"/{role}_process.py") for frame in traceback.extract_stack())


class ConfigErrorInReward(TinyTask):
    """Raises an error of ours in the reward workers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        if _is_in("reward"):
            raise ConfigError("the base model has a sliding window of 32 tokens.\n  Choose another model.")
        super().__init__(tokenizer)


class BareAssertInActor(TinyTask):
    """Fails in the actors as many an `assert` of other packages does: without a text."""

    def prompts(self, split: str = "train") -> Sequence[Prompt]:
        assert not _is_in("actor")
        return super().prompts(split)


class RuntimeErrorInLearner(TinyTask):
    """Raises an error of another package's kind in the learner, once the task is built."""

    def support(self) -> Mapping[str, Sequence[tuple[IntArray, float]]]:
        if _is_in("learner"):
            raise RuntimeError("no kernel image for this device")
        return super().support()


class FailsInOneRole(TinyTask):
    """Raises or dies in the processes of one role, or in a learner's `rank`; with `once`, a path, only the first time."""

    def __init__(self, tokenizer: Tokenizer, role: str, how: str, rank: int | None = None, once: str = "") -> None:
        if _is_in(role) and rank in (None, _rank()) and not (once and Path(once).exists()):
            if once:
                Path(once).touch()
            fail(how)
        super().__init__(tokenizer)


def fail(how: str) -> None:
    """`raise`: an error that can't be pickled; otherwise the name of a signal to this process."""
    if how == "raise":
        raise UnpicklableError
    os.kill(os.getpid(), signal.Signals[how])


class UnpicklableError(Exception):
    """As some of other packages: it can't be sent to another process."""

    def __init__(self) -> None:
        super().__init__("no weights at this address")
        self.lock = threading.Lock()


class FailingStore(AdapterStore):
    """An adapter store that does not start."""

    def __init__(self) -> None:
        raise RuntimeError("no object store")


def _rank() -> int | None:
    """The rank of the learner process that calls."""
    for frame, _ in traceback.walk_stack(None):
        if isinstance(process := frame.f_locals.get("self"), LearnerProcess):
            return int(process._rank)
    return None
