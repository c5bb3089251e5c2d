"""The base model's draws are read by the next run, if it would draw from the same distribution."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from actors.segments import Sampled
from buffer.stored_policy import StoredPolicy
from buffer.types import Prompt
from deploy.config import parse_config
from deploy.driver import base_draws
from deploy.driver.base_draws import BaseDraws
from deploy.driver.preflight import Checked
from tests.support.tiny import tiny_spec

PROMPTS = [Prompt(name, "text", np.array([k, 7], np.int32)) for k, name in enumerate(("first", "second"))]


def checked_with(**sections: Any) -> Checked:
    spec, config = tiny_spec(Path("model")), parse_config(sections, "test")
    stored = StoredPolicy.from_run(spec, "weights", {"a": 0}, None, "toy", {}, 0.0, None)
    task: Any = type("NoTool", (), {"tool": None})()
    return Checked(config, spec, None, task, PROMPTS, [], stored)  # type: ignore[arg-type]


def draws(rng: np.random.Generator, n: int) -> list[Sampled]:
    lengths = rng.integers(0, 4, n)
    return [
        Sampled(
            "r", rng.integers(0, 9, t).astype(np.int32), rng.normal(size=t).astype(np.float32),
            rng.normal(size=t + 1).astype(np.float32), np.ones(t, np.bool_), None,
        )
        for t in lengths
    ]  # fmt: skip


@pytest.fixture
def drawn() -> dict[str, list[Sampled]]:
    rng = np.random.default_rng(0)
    return {"first": draws(rng, 20), "second": draws(rng, 20)}


def test_what_one_run_drew_the_next_one_reads_bit_for_bit(tmp_path: Path, drawn: dict[str, list[Sampled]]) -> None:
    assert BaseDraws(checked_with(), tmp_path / "one", PROMPTS).read() is None
    BaseDraws(checked_with(), tmp_path / "one", PROMPTS).write(drawn)
    read = BaseDraws(checked_with(learner={"steps": 7}), tmp_path / "two", PROMPTS).read()
    assert read is not None and list(read) == ["first", "second"]
    for name, originals in drawn.items():
        for one, original in zip(read[name], originals, strict=True):
            for field in ("token_ids", "log_pf", "log_pterm", "is_action"):
                assert np.array_equal(getattr(one, field), getattr(original, field)), field
            assert one.log_q == original.log_q


@pytest.mark.parametrize(
    "change",
    ["seed", "samples", "prompt", "weights", "mask", "length", "another folder"],
)
def test_another_distribution_seed_number_or_folder_has_its_own_draws(
    tmp_path: Path, drawn: dict[str, list[Sampled]], change: str
) -> None:
    BaseDraws(checked_with(), tmp_path / "one", PROMPTS).write(drawn)
    checked, prompts, run = checked_with(), PROMPTS, tmp_path / "two"
    stored = checked.stored_policy
    if change == "seed":
        checked = checked_with(seed=1)
    if change == "samples":
        checked = checked_with(evaluation={"samples": 21})
    if change == "prompt":
        prompts = [PROMPTS[0], replace(PROMPTS[1], token_ids=np.array([9], np.int32))]
    if change == "weights":
        checked = replace(checked, stored_policy=stored.model_copy(update={"base_model": "others"}))
    if change == "mask":
        checked = replace(checked, stored_policy=stored.model_copy(update={"allowed_token_ids": (1,)}))
    if change == "length":
        checked = replace(checked, stored_policy=stored.model_copy(update={"max_actions": 99}))
    if change == "another folder":
        run = tmp_path / "elsewhere" / "two"
    assert BaseDraws(checked, run, prompts).read() is None
    assert BaseDraws(checked_with(), tmp_path / "two", PROMPTS).read() is not None


def test_a_tool_or_a_simulated_engine_keeps_no_draws(tmp_path: Path, drawn: dict[str, list[Sampled]]) -> None:
    simulated = checked_with(actors={"engine": "simulated"})
    tool: Any = type("Tool", (), {"tool": object()})()
    for checked in (simulated, replace(checked_with(), task=tool)):
        BaseDraws(checked, tmp_path / "one", PROMPTS).write(drawn)
        assert BaseDraws(checked, tmp_path / "two", PROMPTS).read() is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"no archive at all"])
def test_a_damaged_file_is_as_none(tmp_path: Path, drawn: dict[str, list[Sampled]], content: bytes) -> None:
    store = BaseDraws(checked_with(), tmp_path / "one", PROMPTS)
    store.write(drawn)
    store.path.write_bytes(content)
    assert store.read() is None
    np.savez(store.path, something=np.zeros(3))
    assert store.read() is None


def test_the_oldest_files_are_removed_and_a_folder_that_cannot_be_written_harms_nothing(
    tmp_path: Path, drawn: dict[str, list[Sampled]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_draws, "MAX_FILES", 2)
    for seed in range(4):
        BaseDraws(checked_with(seed=seed), tmp_path / "one", PROMPTS).write(drawn)
    assert len(list((tmp_path / base_draws.FOLDER).iterdir())) == 2
    (tmp_path / "file").write_text("")
    BaseDraws(checked_with(), tmp_path / "file" / "one", PROMPTS).write(drawn)
