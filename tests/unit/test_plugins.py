"""An installed package's tasks, objectives and rewards have names in recipes."""

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, models

from buffer.errors import ConfigError
from learner.config import LearnerConfig
from learner.objectives import find_objective
from learner.objectives.vargrad import vargrad
from rewards.config import TaskConfig
from rewards.task_registry import make_task
from rewards.verifiers import read_rewards
from rewards.verifiers.verifier import Answers

MODULE = """
import numpy as np
from buffer.types import Prompt
from learner.objectives.vargrad import vargrad as my_loss
from rewards.task import Task

class Haiku(Task):
    needs_base_model = False

    def __init__(self, tokenizer, syllables=17):
        self.syllables = syllables

    def prompts(self, split="train"):
        return [Prompt("haiku", "An old pond", np.array([1], np.int32))]

    def log_reward(self, prompt, token_ids, base_scores):
        return {"zero": np.zeros(len(token_ids) + 1)}

def polite(prompts, completions, **columns):
    return [float("please" in text) for text in completions]
"""
NAMES = """
[tributary.tasks]
haiku = brought_package:Haiku

[tributary.objectives]
my_loss = brought_package:my_loss

[tributary.rewards]
polite = brought_package:polite
exact = brought_package:polite
"""


@pytest.fixture(autouse=True)
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package as pip leaves it."""
    (tmp_path / "brought_package.py").write_text(MODULE)
    about = tmp_path / "brought_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: brought-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(NAMES)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_task_is_built_with_its_options_and_unknown_names_show_it(tmp_path: Path) -> None:
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    task = make_task(TaskConfig(name="haiku", options={"syllables": 5}), tokenizer, tmp_path)
    assert task.syllables == 5 and task.prompts()[0].text == "An old pond"  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"'haiko' is unknown\. Choose one of .*haiku"):
        make_task(TaskConfig(name="haiko"), tokenizer, tmp_path)


def test_an_objective_is_found_and_taken_to_compare_strings() -> None:
    assert find_objective(LearnerConfig(objective="my_loss").objective) == (vargrad, True)
    with pytest.raises(ValidationError, match="my_loss, or module:function of your own"):
        LearnerConfig(objective="my_lose")


@pytest.mark.parametrize(
    ("entry", "name"), [("polite", "polite"), ({"kind": "polite", "name": "manners"}, "manners")], ids=["name", "table"]
)
def test_a_reward_grades_in_its_own_process(
    entry: object, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    [reward] = read_rewards([entry])
    assert reward.name == name
    grades = list(reward.verify(Answers(["q", "q"], ["yes please", "no"], ["yes please", "no"], {})))
    assert np.array_equal([float(grade) for grade in grades], [1.0, 0.0])  # type: ignore[arg-type]


def test_a_name_that_tributary_has_keeps_its_meaning() -> None:
    [reward] = read_rewards(["exact"])
    assert reward.columns, "the answer's column, which the function of that name does not need"
