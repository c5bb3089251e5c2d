"""The arguments of `tributary scale`, and how a run reads its requests."""

from pathlib import Path

import pytest

from buffer.errors import ConfigError
from deploy.artifacts.json_files import write_json
from deploy.artifacts.scale_file import ScaleFile, ScaleRequest


@pytest.mark.parametrize(
    "words",
    [[], ["actors"], ["actors=0"], ["actors=-1"], ["actors=two"], ["learner=2"], ["actors=1e9"], ["actors=99999999"]],
)
def test_invalid_numbers_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError, match=r"actors=(N|4)"):
        ScaleRequest.parse(words)


def test_a_request_is_read_once_and_one_of_an_earlier_run_never(tmp_path: Path) -> None:
    write_json(tmp_path / "wanted.json", {"actors": 7})
    file = ScaleFile(tmp_path)
    assert file.new_request() == {}
    write_json(tmp_path / "wanted.json", ScaleRequest.parse(["actors=3", "rewards=2"]).model_dump())
    assert file.new_request() == {"actors": 3, "rewards": 2}
    assert file.new_request() == {}


def test_an_invalid_request_changes_nothing(tmp_path: Path) -> None:
    file = ScaleFile(tmp_path)
    for text in ("{", "[]", '{"actors": -1}', '{"actors": "3"}', '{"learners": 2}'):
        (tmp_path / "wanted.json").write_text(text)
        assert file.new_request() == {}
