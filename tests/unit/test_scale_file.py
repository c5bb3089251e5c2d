"""What `tributary scale` takes, and how a run hears of it."""

from pathlib import Path

import pytest

from buffer.errors import ConfigError
from deploy.artifacts.json_files import write_json
from deploy.artifacts.scale_file import ScaleFile, Wanted


@pytest.mark.parametrize(
    "words",
    [[], ["actors"], ["actors=0"], ["actors=-1"], ["actors=two"], ["learner=2"], ["actors=1e9"], ["actors=99999999"]],
)
def test_numbers_that_mean_nothing_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"actors=(N|4)"):
        Wanted.parse(words)


def test_a_wish_is_heard_once_and_one_of_an_earlier_run_never(tmp_path: Path) -> None:
    write_json(tmp_path / "wanted.json", {"actors": 7})
    file = ScaleFile(tmp_path)
    assert file.wanted() == {}
    write_json(tmp_path / "wanted.json", Wanted.parse(["actors=3", "rewards=2"]).model_dump())
    assert file.wanted() == {"actors": 3, "rewards": 2}
    assert file.wanted() == {}


def test_a_file_that_is_no_wish_changes_nothing(tmp_path: Path) -> None:
    file = ScaleFile(tmp_path)
    for text in ("{", "[]", '{"actors": -1}', '{"actors": "3"}', '{"learners": 2}'):
        (tmp_path / "wanted.json").write_text(text)
        assert file.wanted() == {}
