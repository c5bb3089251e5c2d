"""Libraries that a command loads have nothing to say to its user."""

import os
import subprocess
import sys

import pytest

from tests.support.processes import ROOT


@pytest.mark.parametrize("prepare", ["prepare_for_ray", "quiet_engine"])
def test_no_library_asks_the_user_for_a_package_that_no_run_needs(prepare: str) -> None:
    program = f"from deploy.commands.environment import {prepare}; {prepare}(); import bitsandbytes"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=os.environ, capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == ("", "")
