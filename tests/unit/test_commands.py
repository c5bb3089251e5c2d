"""Small commands and the way in: help, version, recipes, init, and hints for words that are almost right."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

from buffer.errors import ConfigError
from deploy.cli import app
from deploy.config import load_recipe, shipped_recipes
from tests.support.tiny_text import make_text_model

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 0, result.output
    return result.output


def test_help_has_a_short_form_everywhere_and_the_version_is_printed() -> None:
    assert run("-h") == run("--help") and "train" in run("-h") and "--resume" in run("train", "-h")
    assert re.fullmatch(r"tributary \d+\.\d+\.\d+\n", run("--version"))


def test_recipes_lists_every_recipe_in_a_sentence() -> None:
    lines = {line.split()[0]: line.split()[1:] for line in run("recipes").splitlines() if line.strip()}
    assert set(shipped_recipes()) <= set(lines) and all(len(lines[name]) >= 3 for name in shipped_recipes())


HINTS = {
    "recipe": ("dmeo", [], "Did you mean 'demo'?"),
    "section": ("demo", ["lerner.steps=3"], "Did you mean 'learner'?"),
    "setting": ("demo", ["learner.stepz=3"], "Did you mean 'steps'?"),
}


@pytest.mark.parametrize("name", HINTS)
def test_a_word_that_is_almost_right_is_answered_with_the_right_one(name: str) -> None:
    recipe, overrides, hint = HINTS[name]
    with pytest.raises(ConfigError, match=re.escape(hint)):
        load_recipe(recipe, overrides)


def test_an_error_names_the_override_that_caused_it_and_not_the_recipes_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^override 'learner.steps=abc' is not a valid configuration") as caught:
        load_recipe("demo", ["seed=1", "learner.steps=abc"])
    assert "demo.toml" not in str(caught.value)
    recipe = tmp_path / "mine.toml"
    recipe.write_text("[learner]\nsteps = -1\n")
    with pytest.raises(ConfigError, match=r"mine.toml is not a valid configuration"):
        load_recipe(str(recipe), ["seed=1"])


def test_init_writes_a_task_and_a_recipe_that_pass_the_checks(tmp_path: Path) -> None:
    def tributary(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "deploy.cli", *arguments]
        return subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT), "COLUMNS": "200"}, capture_output=True, text=True
        )

    assert tributary("init", "my_words").returncode == 0
    again = tributary("init", "my_words")
    assert again.returncode == 2 and "exist already" in again.stderr
    model = make_text_model(tmp_path / "model")
    checked = tributary("validate", "my_words.toml", f'model.name="{model}"', "model.dtype=float32")
    assert checked.returncode == 0, checked.stderr
    assert tomllib.loads(checked.stdout)["task"]["name"] == "my_words:VowelTask"
    *_, prompts, longest, first, memory, ok = checked.stdout.splitlines()
    assert prompts == "# Prompts: 1 in 'train'" and longest.startswith("# Longest prompt: vowels, ")
    assert first == "# First prompt, as the model sees it: 'In the garden we saw'"
    assert memory == "# Memory: tributary validate my_words.toml --plan" and ok == "# OK"


def test_the_page_about_tasks_shows_the_files_that_init_writes() -> None:
    page = (ROOT / "docs" / "tasks.md").read_text("utf-8")
    for kind, file in (("python", "task.py.txt"), ("toml", "recipe.toml")):
        assert f"```{kind}\n{(ROOT / 'deploy' / 'starter' / file).read_text('utf-8')}```" in page


def test_the_command_line_starts_without_the_packages_that_only_runs_need() -> None:
    heavy = {"torch", "vllm", "ray", "transformers", "redis", "matplotlib", "rapidfuzz"}
    code = f"import sys, deploy.cli; print(sorted({heavy!r} & set(sys.modules)))"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert loaded.strip() == "[]"
