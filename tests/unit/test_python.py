"""`import tributary`: fast, the command line's own errors, and tasks that are defined in a notebook."""

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

import tributary
from deploy.artifacts.run_folder import RunFolder
from deploy.config import find_recipe, load_recipe, resumed_config, shown_config
from deploy.driver.notebook_task import task_name, task_section
from rewards.config import TaskConfig
from rewards.task import Task
from rewards.task_registry import make_task
from tests.support.notebook import run_cell
from tests.support.processes import ROOT
from tests.support.tiny import TinyTask, make_tiny_model

IMPORTS = """
import collections
import numpy as np
from math import log as logarithm
from buffer.types import Prompt
import tributary
"""
HELPERS = """
BONUS = {"a": 1.5}
OFFSET = -2.0


def score(text):
    return OFFSET + logarithm(1 + BONUS.get(text, 0))


class Named:
    label = "named"

    def show(self):
        return self.label


Alias = Named
"""
TASK = '''
class Notebook(tributary.Task):
    """Scores by helpers of other cells."""

    needs_base_model = False

    def __init__(self, tokenizer, times: int = 1):
        self.times, self.label = times, Alias.label

    @property
    def doubled(self):
        return self.times * 2

    def prompts(self, split="train"):
        return [Prompt("x", "draw", np.array([3], np.int32))]

    def log_reward(self, prompt, token_ids, base_scores):
        return {"score": np.full(len(token_ids) + 1, score("a"))}
'''


def notebook(*cells: str) -> dict[str, Any]:
    """The names after running cells as Jupyter does."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        run_cell(cell, f"<{abs(hash(cells))} {number}>", names)
    return names


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return Tokenizer.from_file(str(make_tiny_model(tmp_path_factory.mktemp("model")) / "tokenizer.json"))


def test_the_import_is_light() -> None:
    code = "import sys, time; began = time.process_time(); import tributary; print(time.process_time() - began, *sys.modules)"
    seconds, *modules = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert float(seconds) < 0.3
    assert not {"torch", "ray", "vllm", "transformers", "numpy", "pydantic"} & set(modules)


def test_the_facade_does_not_know_ray_and_no_package_knows_the_facade() -> None:
    def imported(file: Path) -> set[str]:
        nodes = list(ast.walk(ast.parse(file.read_text())))
        names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
        names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
        return {name.partition(".")[0] for name in names}

    assert imported(ROOT / "tributary.py").isdisjoint({"ray", "vllm", "torch"})
    for package in ("actors", "buffer", "deploy", "learner", "lm", "rewards"):
        assert [file for file in (ROOT / package).rglob("*.py") if "tributary" in imported(file)] == []


def test_a_task_of_a_notebook_is_one_that_other_processes_can_build(tokenizer: Tokenizer, tmp_path: Path) -> None:
    cls = notebook(IMPORTS, HELPERS, TASK)["Notebook"]
    assert cls.__module__ == "__main__"
    name = task_name(cls, tmp_path)
    task = make_task(TaskConfig(name=name, options={"times": 3}), tokenizer, tmp_path)
    assert (
        type(task) is not cls and isinstance(task, Task) and type(task).__doc__ == "Scores by helpers of other cells."
    )
    assert (task.doubled, task.label) == (6, "named")  # type: ignore[attr-defined]
    expected = cls(tokenizer).log_reward(None, [1, 2], [])["score"]
    assert task.log_reward(task.prompts()[0], [1, 2], [])["score"].tolist() == expected.tolist()  # type: ignore[arg-type]
    code = f"from lm.tokens import load_tokenizer; from rewards.task_registry import _import_task; print(_import_task({name!r}))"
    other = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Notebook" in other.stdout, "a process that never saw the notebook"


def test_the_file_of_a_task_changes_name_with_its_content(tmp_path: Path) -> None:
    first = task_name(notebook(IMPORTS, HELPERS, TASK)["Notebook"], tmp_path)
    assert task_name(notebook(IMPORTS, HELPERS, TASK)["Notebook"], tmp_path) == first
    assert task_name(notebook(IMPORTS, HELPERS.replace("-2.0", "-3.0"), TASK)["Notebook"], tmp_path) != first


def test_an_object_of_the_notebook_that_a_file_cannot_hold_is_named(tmp_path: Path) -> None:
    cells = (IMPORTS, HELPERS.replace("OFFSET = -2.0", "OFFSET = np.zeros(3)"), TASK)
    with pytest.raises(tributary.ConfigError, match="uses 'OFFSET' of the notebook, a ndarray"):
        task_name(notebook(*cells)["Notebook"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_class_without_source_is_refused(tmp_path: Path) -> None:
    code = (
        "import tributary\nfrom pathlib import Path\nfrom deploy.driver.notebook_task import task_name\n"
        "source = 'class Lost(tributary.Task):\\n    def prompts(self): return []'\n"
        "exec(compile(source, '<nowhere>', 'exec'))\n"
        f"try: task_name(Lost, Path({str(tmp_path)!r}))\nexcept tributary.ConfigError as error: print(error)"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Lost has no source here" in result.stdout


def test_a_class_of_a_module_keeps_its_name(tmp_path: Path) -> None:
    assert task_section(TinyTask, tmp_path) == {"name": "tests.support.tiny:TinyTask"}
    section = task_section({"name": TinyTask, "options": {"seed": 1}}, tmp_path)
    assert section == {"name": "tests.support.tiny:TinyTask", "options": {"seed": 1}}
    assert task_section({"name": "toy"}, tmp_path) == {"name": "toy"}


def test_a_task_file_that_is_missing_is_named(tokenizer: Tokenizer, tmp_path: Path) -> None:
    with pytest.raises(tributary.ConfigError, match=r"there is no file .*/gone\.py"):
        make_task(TaskConfig(name=f"{tmp_path}/gone.py:Task"), tokenizer, tmp_path)


def test_modules_next_to_a_recipe_are_importable_from_any_folder(
    tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "beside_offset.py").write_text("OFFSET = -2.0\n")
    (tmp_path / "beside_task.py").write_text(
        "from beside_offset import OFFSET\nfrom tests.support.tiny import TinyTask\nclass Beside(TinyTask): offset = OFFSET\n"
    )
    (tmp_path / "own.toml").write_text('[task]\nname = "beside_task:Beside"\n')
    assert Path.cwd() != tmp_path
    config = load_recipe(str(tmp_path / "own.toml"))
    assert make_task(config.task, tokenizer, tmp_path).offset == -2.0  # type: ignore[attr-defined]
    resumed = resumed_config(shown_config(config), (), "config.toml")
    assert resumed.task.folder == str(tmp_path), "a run is resumed from its own folder, not from the recipe"
    moved = resumed_config(shown_config(config), ["task.folder=/moved"], "config.toml")
    assert moved.task.folder == "/moved"
    own = load_recipe(str(tmp_path / "own.toml"), sections={"task": {"name": "toy"}})
    assert (own.task.name, own.task.folder) == ("toy", str(tmp_path))
    assert load_recipe("toy").task.folder is None and load_recipe(str(find_recipe("toy"))).task.folder is None


def test_sections_replace_settings_and_keep_the_others() -> None:
    plain = load_recipe("toy")
    config = load_recipe("toy", sections={"learner": {"steps": 7}, "seed": 3, "policy": {"allowed_tokens": ["x"]}})
    assert (config.learner.steps, config.seed, config.policy.allowed_tokens) == (7, 3, ["x"])
    assert config.learner.learning_rate == plain.learner.learning_rate and config.policy.stop == plain.policy.stop
    assert load_recipe("toy", sections={"task": {"options": {"seed": 5}}}).task.options["symbols"] == ["a", "b", "c"]
    other = load_recipe("toy", sections={"task": {"name": "own:Task"}})
    assert other.task.options == {}, "options of another task"


def test_a_wrong_section_is_an_error_and_not_an_exit() -> None:
    with pytest.raises(tributary.ConfigError, match=r"learner\.stepps = 7 is not a setting"):
        tributary.train("toy", learner={"stepps": 7})
    with pytest.raises(tributary.ConfigError, match="neither a file nor a shipped recipe"):
        tributary.train("toys")
    config = load_recipe("toy").model_dump(mode="json", exclude_none=True)
    with pytest.raises(tributary.ConfigError, match="seed can't change"):
        resumed_config(config, (), "config.toml", {"seed": 9})


def test_a_folder_without_a_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(tributary.ConfigError, match="not the folder of a run"):
        tributary.load(tmp_path)


def test_metrics_are_a_table_with_pandas_and_rows_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder.create(tmp_path / "run")
    folder.write_config({})
    for step in (1, 2):
        folder.append_metrics({"step": step, "loss": 0.5 / step})
    run = tributary.load(folder.path)
    assert repr(run) == f"Run({str(folder.path)!r})"
    monkeypatch.setitem(sys.modules, "pandas", None)
    assert run.metrics == [{"step": 1, "loss": 0.5}, {"step": 2, "loss": 0.25}]
    monkeypatch.undo()
    pandas = pytest.importorskip("pandas")
    assert isinstance(run.metrics, pandas.DataFrame) and run.metrics["loss"].tolist() == [0.5, 0.25]


def test_the_notebook_of_the_docs_has_no_outputs_and_names_its_page() -> None:
    cells = json.loads((ROOT / "docs" / "quickstart.ipynb").read_text())["cells"]
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in cells)
    assert "take-it-with-you.md" in "".join(cells[-2]["source"])
