"""The Slurm script is sound shell and refuses what it can't do."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "deploy" / "slurm" / "tributary.sbatch"
TEXT = SCRIPT.read_text()


def test_bash_can_parse_it() -> None:
    assert subprocess.run(["bash", "-n", str(SCRIPT)]).returncode == 0


def test_shellcheck_finds_nothing() -> None:
    shellcheck = Path(sys.executable).parent / "shellcheck"
    result = subprocess.run([str(shellcheck), "--shell=bash", str(SCRIPT)], capture_output=True, text=True)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("arguments", [[], ["demo"], ["demo", "runs/demo"]])
def test_without_a_recipe_and_an_absolute_folder_it_says_how_to_call_it(arguments: list[str], tmp_path: Path) -> None:
    result = subprocess.run(["bash", str(SCRIPT), *arguments], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 2 and "RECIPE /ABSOLUTE/FOLDER" in result.stderr
    assert os.listdir(tmp_path) == []


def test_no_secret_is_in_the_arguments_of_a_command() -> None:
    commands = re.sub(r"<<CONF\n.*?\nCONF\n", "", TEXT, flags=re.DOTALL)
    uses = [line for line in commands.splitlines() if "TRIBUTARY_REDIS_PASSWORD" in line]
    assert uses == ['TRIBUTARY_REDIS_PASSWORD=$(cat "$secrets/password")', "export TRIBUTARY_REDIS_PASSWORD"]
    assert TEXT.index('chmod 700 "$secrets"') < TEXT.index('random > "$secrets/token"')
