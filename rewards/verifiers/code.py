"""Python code in an answer, run against the tests of its row: 1 if all of it ends without an exception, else 0.

A process of its own, in an empty folder that is removed, with limits on time, memory and file size, and
without the environment's variables. That keeps accidents small. It is not a sandbox: the code may read the user's
files, use the network, and find out how it is graded. Run such recipes as a user without rights, or in a container.
"""

import contextlib
import os
import re
import resource
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from rewards.verifiers.verifier import Grade, Verifier, VerifierSettings, each

_BLOCK = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)```", re.DOTALL)
MAX_FILE_BYTES = 16 * 2**20
LAST_LINE = "import sys; print('\\n' + sys.stdin.read(), end='')"


class Code(VerifierSettings):
    """{kind = "code", tests = "tests"}: a column with assertions, which run behind the answer's code."""

    kind: Literal["code"]
    tests: str = "tests"
    """The column with Python code that raises an exception where the answer is wrong."""
    limit_s: float = Field(default=5.0, gt=0.0)
    """Time limit of one answer, s; one that takes longer is wrong."""
    memory_mib: int = Field(default=512, ge=64)
    """Limit on its memory, MiB."""

    @property
    def columns(self) -> Sequence[str]:
        """The tests'."""
        return (self.tests,)

    def build(self) -> Verifier:
        """Never fails."""

        def grade(text: str, row: Mapping[str, object]) -> Grade:
            tests = row[self.tests]
            lines = tests if isinstance(tests, list) else [tests]
            return float(self._passes(code_of(text), "\n".join(map(str, lines))))

        return each(grade)

    def _passes(self, code: str, tests: str) -> bool:
        ended = secrets.token_hex(16)  # an answer that exits before its tests does not print it
        with (
            tempfile.TemporaryDirectory(prefix="tributary-code-") as folder,
            tempfile.TemporaryFile() as given,
            tempfile.TemporaryFile() as output,
        ):
            script = Path(folder, "answer.py")
            script.write_bytes(f"{code}\n{tests}\n{LAST_LINE}\n".encode("utf-8", "replace"))
            given.write(ended.encode())
            given.seek(0)
            process = subprocess.Popen(
                [sys.executable, "-I", str(script)],
                cwd=folder,
                env={"PATH": os.defpath, "HOME": folder},
                stdin=given,
                stdout=output,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=self._limit,
            )
            try:
                succeeded = process.wait(self.limit_s) == 0
            except subprocess.TimeoutExpired:
                succeeded = False
            finally:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, 9)  # what it started, too
                process.wait()
            output.seek(max(output.seek(0, os.SEEK_END) - len(ended), 0))
            return succeeded and output.read() == ended.encode()

    def _limit(self) -> None:
        """In the new process, before the code."""
        for limit, value in (
            (resource.RLIMIT_AS, self.memory_mib * 2**20),
            (resource.RLIMIT_CPU, int(self.limit_s) + 1),
            (resource.RLIMIT_FSIZE, MAX_FILE_BYTES),
            (resource.RLIMIT_CORE, 0),
        ):
            resource.setrlimit(limit, (value, value))


def code_of(text: str) -> str:
    """The last fenced block of an answer, or the whole answer."""
    blocks = _BLOCK.findall(text)
    return blocks[-1] if blocks else text
