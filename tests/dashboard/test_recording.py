"""Recorder and dashboard around a run: from its start to its last event."""

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
import tomli_w
from rich.console import Console
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from buffer.errors import ConfigError, StoreError
from deploy.artifacts.run_folder import RunFolder
from deploy.config import load_recipe
from deploy.dashboard.web import security
from deploy.dashboard.web.sockets import listen
from deploy.driver.preflight import Checked, check
from deploy.driver.recording import about_run, has_equal_rewards, recording, serve_dashboard, text_pieces
from deploy.driver.stop_signal import StopSignal
from deploy.driver.train_options import TrainOptions
from deploy.telemetry.event_detector import Event
from deploy.telemetry.history_store import HistoryStore
from deploy.telemetry.recorder import FILE, MAX_JUDGED, Recorder
from rewards.task import Sample
from tests.support import tiny
from tests.support.fixture_runs import ABOUT, PROMPTS, learner_row, make_run, view
from tests.support.processes import until


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Checked:
    """The tiny recipe."""
    folder = tmp_path_factory.mktemp("recipe")
    values = {
        "model": {"name": str(tiny.make_tiny_model(folder / "model")), "lora_targets": list(tiny.LINEAR_LAYERS)},
        "policy": {"stop": ".", "max_actions": 3, "allowed_tokens": ["a", "b", "c"]},
        "task": {"name": "tests.support.tiny:TinyTask"},
        "actors": {"max_model_len": 64},
        "learner": {"steps": 300},
    }
    (folder / "tiny.toml").write_text(tomli_w.dumps(values))
    return check(load_recipe(str(folder / "tiny.toml"), []))


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder.create(tmp_path / "run")


def kept(folder: RunFolder, sql: str) -> list:
    with sqlite3.connect(f"file:{folder.path / 'history.sqlite'}?mode=ro", uri=True) as db:
        return db.execute(sql).fetchall()


def address(console: Console) -> str:
    return console.file.getvalue().split("Dashboard: ")[1].split()[0]  # type: ignore[attr-defined]


@pytest.fixture
def console() -> Console:
    import io

    return Console(file=io.StringIO(), width=200)


def test_the_page_describes_a_run_by_its_recipe(checked: Checked):
    about = about_run(checked)
    assert about["task"] == "tests.support.tiny:TinyTask" and about["steps"] == 300
    assert about["limits"]["max_grad_norm"] == checked.config.learner.advanced.max_grad_norm
    assert about["limits"]["log_z_exact"] == pytest.approx(checked.task.log_mass()[0])
    assert about["behaviours"] == [{"name": "on_policy", "weight": 1.0}]
    assert about["limits"]["equal_rewards"] is False


@pytest.mark.parametrize(("log_rewards", "equal"), [([0.0, 0.0], True), ([0.0, 1.0], False), ([], False)])
def test_equal_rewards_are_right_where_the_task_lists_strings_of_one_reward(
    log_rewards: list[float], equal: bool
) -> None:
    task: Any = SimpleNamespace(support=lambda: {"p": [(np.zeros(1, np.int32), value) for value in log_rewards]})
    assert has_equal_rewards(task) is equal


def test_log_z_is_exact_only_at_the_temperature_that_the_task_states_it_for(checked: Checked) -> None:
    assert checked.log_z_exact == checked.task.log_mass()[0]
    learner = checked.config.learner.model_copy(update={"reward_temperature_end": 2.0})
    hot = replace(checked, config=checked.config.model_copy(update={"learner": learner}))
    assert hot.log_z_exact is None and about_run(hot)["limits"]["log_z_exact"] is None


def byte_level() -> Tokenizer:
    """Every byte is a token, so that most characters of other alphabets are several."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(["a"], trainers.BpeTrainer(vocab_size=256, initial_alphabet=alphabet))
    return tokenizer


@pytest.mark.parametrize(
    "words", ["plain", "naïve café", "漢字 and 👩‍👧", "\u202eבדיקה", " leading and trailing ", "\n\t"]
)
def test_pieces_are_as_many_as_tokens_and_join_to_the_text(words: str):
    tokenizer = byte_level()
    ids = tokenizer.encode(words).ids
    pieces = text_pieces(tokenizer)(ids)
    assert len(pieces) == len(ids) and "".join(pieces) == words


def test_half_a_character_does_not_break_the_pieces():
    tokenizer = byte_level()
    ids = tokenizer.encode("é").ids[:1]
    assert len(text_pieces(tokenizer)(ids)) == 1
    assert text_pieces(tokenizer)([]) == []


@pytest.mark.parametrize(
    ("end", "last"),
    [
        (lambda: None, "Finished."),
        (KeyboardInterrupt, "Stopped by SIGINT."),
        (lambda: StoreError("Redis does not answer"), "The run failed: StoreError: Redis does not answer"),
    ],
)
def test_the_end_of_a_run_is_the_last_event_of_its_history(
    checked: Checked, folder: RunFolder, console: Console, end: Callable[[], BaseException | None], last: str
):
    def run() -> None:
        with recording(checked, folder, 0, TrainOptions(dashboard=False), console, StopSignal()) as recorder:
            recorder.step(learner_row(1, 300, np.random.default_rng(0)), None)
            error = end()
            if error is not None:
                raise error

    if end() is None:
        run()
    else:
        with pytest.raises((KeyboardInterrupt, StoreError)):
            run()
    assert kept(folder, "SELECT data FROM events ORDER BY id DESC LIMIT 1") == [(last,)]
    assert kept(folder, "SELECT step FROM learner") == [(1,)]


def test_a_run_has_a_page_whose_address_is_printed_before_anything_else(
    checked: Checked, folder: RunFolder, console: Console
):
    folder.write_config({"task": {"name": "tiny"}})
    with recording(checked, folder, 0, TrainOptions(port=0), console, StopSignal()) as recorder:
        recorder.snapshot(view(5, 300, 1.0, np.random.default_rng(0)))
        url = address(console)
        assert httpx.get(f"{url}api/overview", timeout=60).json()["state"] == "running"
    with pytest.raises(httpx.ConnectError):
        httpx.get(url, timeout=5)


def test_a_page_receives_the_last_event_of_a_run_before_its_server_ends(tmp_path: Path, console: Console):
    run = make_run(tmp_path / "run", "live")
    heard: list[str] = []

    def listen_to(url: str) -> None:
        with httpx.stream("GET", f"{url}api/stream", timeout=60) as answer:
            for line in answer.iter_lines():
                heard.append(line)

    with serve_dashboard(run, 0, console):
        url = address(console)
        assert httpx.get(f"{url}api/overview", timeout=60).json()["state"] == "running"
        page = threading.Thread(target=listen_to, args=(url,))
        page.start()
        until(lambda: any(line.startswith("data: ") for line in heard), 60, "a first tick")
        store = HistoryStore(run / FILE)
        store.meta("end", {"at": 0.0, "stopped_by": "SIGTERM", "error": None, "step": 7})
        store.event(0.0, 7, Event("end", "warning", "run", "Stopped by SIGTERM."))
        store.close()
    page.join(20)
    assert any("Stopped by SIGTERM after step 7" in line for line in heard)


def test_on_a_machine_with_other_users_the_address_holds_the_token_that_the_page_needs(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(security, "has_other_users", lambda: True)
    monkeypatch.delenv(security.TOKEN_VARIABLE)
    run = make_run(tmp_path / "run", "finished")
    with serve_dashboard(run, 0, console):
        url, token = address(console).split("#token=")
        until(lambda: httpx.get(f"{url}api/runs", timeout=60).status_code == 401, 60, "a refusal")
        admitted = httpx.get(f"{url}api/runs", headers={"Authorization": f"Bearer {token}"}, timeout=60)
    assert admitted.status_code == 200 and token not in (run / "dashboard.log").read_text()


def test_a_dashboard_that_fails_is_reported_in_its_own_words(tmp_path: Path, console: Console) -> None:
    with serve_dashboard(tmp_path, 0, console):
        until(lambda: "Error" in (tmp_path / "dashboard.log").read_text(), 60, "the error of a folder without a run")
    told = console.file.getvalue().splitlines()[-1]  # type: ignore[attr-defined]
    assert told.startswith("The dashboard failed: ConfigError: ") and str(tmp_path) in told, told


def test_a_port_that_is_taken_is_refused_before_the_run_starts_anything(
    checked: Checked, folder: RunFolder, console: Console
):
    with listen("127.0.0.1", 0) as taken:
        watching = TrainOptions(port=taken.getsockname()[1])
        with (
            pytest.raises(ConfigError, match="can't listen"),
            recording(checked, folder, 0, watching, console, StopSignal()),
        ):
            raise AssertionError("it began")


def test_an_unknown_sink_is_refused_likewise(checked: Checked, folder: RunFolder, console: Console):
    watching = TrainOptions(dashboard=False, sinks=("nowhere",))
    with (
        pytest.raises(ConfigError, match="--sink nowhere"),
        recording(checked, folder, 0, watching, console, StopSignal()),
    ):
        raise AssertionError("it began")


def test_the_samples_that_are_kept_for_before_and_after_are_not_the_first_that_were_finished(tmp_path):
    """An engine finishes short strings first: here the first 200 of 2,000 have one token, the others two."""
    samples = [Sample(np.full(1 if k < 200 else 2, 65 + k % 10, np.int32), -1.0, 0.0, {}) for k in range(2000)]
    kept = []
    for name in ("one", "two"):
        recorder = Recorder(tmp_path / f"{name}.sqlite", ABOUT, PROMPTS, lambda ids: [chr(i) for i in ids], 0)
        recorder.judged("after", {"integer": samples})
        recorder.close(None)
        with contextlib.closing(sqlite3.connect(tmp_path / f"{name}.sqlite")) as db:
            kept.append([text for (text,) in db.execute("SELECT text FROM samples ORDER BY id")])
    assert kept[0] == kept[1] and len(kept[0]) == MAX_JUDGED, "the choice is fixed"
    short = [len(text) == 1 for text in kept[0]]
    assert sum(short) <= 8, "3.2 are expected; the first 32 would all be"
