"""Functions of the user in a process of their own, which can be killed whatever they do.

The parent writes one JSON line for each call and reads one: `rewards/verifiers/child_main.py` is the other side. What
the function prints goes to the worker's log.
"""

import contextlib
import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from buffer.errors import RewardError
from rewards.verifiers.verifier import Answers, Grade

START_LIMIT_S = 120.0
"""Time limit for the import of the function's module, which may load a model, s."""
MAX_FAILURES = 3
"""Single answers that fail in a row: then the function itself is broken, or hangs whatever it is given."""
MAX_REPLY_BYTES = 64 * 2**20


class Child:
    """A function `module:name` or `PATH.py:name` in its own process, started at the first call and after each kill."""

    def __init__(self, function: str, limit_s: float) -> None:
        self._function = function
        self._limit_s = limit_s
        self._process: subprocess.Popen[bytes] | None = None

    def __call__(self, answers: Answers) -> Sequence[Grade]:
        """Grades of B answers. A call that fails is repeated answer by answer: one bad answer costs no other. After
        MAX_FAILURES in a row the rest is not tried."""
        grades = self._call(answers)
        if isinstance(grades, RewardError):
            if len(answers.texts) == 1:
                return [grades]
            return self._one_by_one(answers)
        return grades

    def _one_by_one(self, answers: Answers) -> list[Grade]:
        grades: list[Grade] = []
        for i in range(len(answers.texts)):
            last = grades[-MAX_FAILURES:]
            if len(last) == MAX_FAILURES and all(isinstance(grade, RewardError) for grade in last):
                return [*grades, *([last[-1]] * (len(answers.texts) - i))]
            grades += self(answers.one(i))
        return grades

    def _call(self, answers: Answers) -> Sequence[Grade] | RewardError:
        """The grades, or why there are none."""
        request = {
            "prompts": answers.prompts,
            "completions": answers.completions,
            "columns": dict(answers.columns),
        }
        try:
            self._start()
            reply = self._exchange(request, self._limit_s, f"took longer than limit_s = {self._limit_s:g} s")
        except _Failed as error:
            self.kill()
            return RewardError(f"{self._function} {error}")
        if "error" in reply:
            return RewardError(f"{self._function} {reply['error']}")
        rewards: list[float | str | None] = reply["rewards"]
        return [RewardError(f"{self._function} {r}") if isinstance(r, str) else r for r in rewards]

    def _start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        self.kill()
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("child_main.py")), self._function],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)},
            start_new_session=True,
        )
        reply = self._read(START_LIMIT_S, f"could not be imported within {START_LIMIT_S:g} s")
        if "error" in reply:
            raise _Failed(str(reply["error"]))

    def _exchange(self, request: Mapping[str, object], limit_s: float, too_late: str) -> dict[str, Any]:
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request, default=str).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise _Failed(self._death()) from None
        return self._read(limit_s, too_late)

    def _read(self, limit_s: float, too_late: str) -> dict[str, Any]:
        """The next line of the child, as JSON."""
        assert self._process is not None and self._process.stdout is not None
        deadline, line = time.monotonic() + limit_s, bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(deadline - time.monotonic(), 0.0)):
                    raise _Failed(too_late)
                part = os.read(self._process.stdout.fileno(), 1 << 16)
                if not part:
                    raise _Failed(self._death())
                line += part
                if len(line) > MAX_REPLY_BYTES:
                    raise _Failed(f"returned more than {MAX_REPLY_BYTES} bytes")
        reply: dict[str, Any] = json.loads(line)
        return reply

    def _death(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        return f"ended its process with signal {-code}" if code < 0 else f"ended its process with exit code {code}"

    def kill(self) -> None:
        """End the process and all that it started."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()
        self._process = None

    def __del__(self) -> None:
        self.kill()


class _Failed(Exception):
    """A call without a reply; the message goes on after the function's name."""
