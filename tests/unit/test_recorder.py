"""The recorder: its tables, their limits, and that it never disturbs the run."""

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from deploy.dashboard.data.run_reader import HistoryUnreadable, RunReader
from deploy.dashboard.views.runs import run_entry
from deploy.telemetry import history_store
from deploy.telemetry import recorder as recorder_module
from deploy.telemetry.history_store import HistoryStore
from deploy.telemetry.recorder import FILE, Recorder
from deploy.telemetry.sinks import GuardedSink, open_sink, scalars
from tests.support.fixture_runs import ABOUT, PROMPTS, learner_row, notes, summary, view

RNG = np.random.default_rng(0)


def recorder(folder: Path, after_step: int = 0, began_at: float = 1.0, **more) -> Recorder:
    about = ABOUT | {"began_at": began_at}
    return Recorder(folder / FILE, about, PROMPTS, lambda ids: [chr(97 + i % 26) for i in ids], after_step, **more)


def record(to: Recorder, first: int, last: int, phase: str = "training") -> None:
    for step in range(first, last + 1):
        to.step(learner_row(step, 160, RNG), {"rows": notes(step, 160, RNG), **summary(step, 160, RNG)})
    to._last_snapshot_s = float("-inf")  # as if a second had passed
    to.snapshot(view(last, 160, float(last), RNG, phase))


def rows(folder: Path, sql: str) -> list:
    with sqlite3.connect(f"file:{folder / FILE}?mode=ro", uri=True) as db:
        return db.execute(sql).fetchall()


def test_rows_can_be_read_while_the_run_goes_on(tmp_path):
    writer = recorder(tmp_path)
    record(writer, 1, 20)
    reader = RunReader(tmp_path, "run", primary=True)
    reader.refresh()
    assert reader.curve("learner.loss").step.tolist() == list(range(1, 21))
    record(writer, 21, 30)
    reader.refresh()
    assert reader.newest_step == 30 and len(reader.snapshots.curve("buffer.size").y) == 2
    assert rows(tmp_path, "SELECT COUNT(*) FROM samples") == [(30 * 16,)]
    assert rows(tmp_path, "SELECT text FROM samples LIMIT 1")[0][0], "pieces were made of the token ids"
    writer.close(None)
    reader.refresh()
    assert reader.meta["end"]["step"] == 30
    reader.close()


def test_a_snapshot_is_kept_once_a_second_and_whenever_the_phase_changes(tmp_path):
    writer = recorder(tmp_path)
    for phase in ("starting the engines", "training", "training", "training", "done"):
        writer.snapshot(view(1, 160, 1.0, RNG, phase))
    assert rows(tmp_path, "SELECT COUNT(*) FROM snapshots") == [(3,)]
    writer.close(None)


def test_a_finished_history_is_one_file_even_while_it_is_looked_at(tmp_path):
    writer = recorder(tmp_path)
    record(writer, 1, 5)
    reader = RunReader(tmp_path, "run", primary=True)
    reader.refresh()
    writer.close(None)
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / FILE).write_bytes((tmp_path / FILE).read_bytes())
    alone = RunReader(tmp_path / "alone", "alone", primary=True)
    alone.refresh()
    assert alone.newest_step == 5 and alone.meta["end"]["stopped_by"] is None
    for one in (reader, alone):
        one.close()


def test_a_history_whose_writer_was_killed_is_read_up_to_its_last_snapshot(tmp_path):
    writer = recorder(tmp_path)
    record(writer, 1, 5)
    writer.step(learner_row(6, 160, RNG), None)  # never committed
    assert writer._store is not None
    writer._store.abandon()  # what a kill leaves: no COMMIT, no checkpoint
    reader = RunReader(tmp_path, "run", primary=True)
    reader.refresh()
    assert reader.newest_step == 5 and reader.meta.get("end") is None
    reader.close()


def test_a_resumed_run_rewrites_the_rows_beyond_its_checkpoint(tmp_path):
    writer = recorder(tmp_path)
    record(writer, 1, 20)
    writer.process("actor-0 died and is being restarted", is_trouble=True)
    writer.judged("before", {})
    writer.close("SIGINT")
    snapshots = rows(tmp_path, "SELECT COUNT(*) FROM snapshots")
    again = recorder(tmp_path, after_step=10, began_at=99.0)
    assert rows(tmp_path, "SELECT step FROM events WHERE data LIKE 'actor-0 died%'") == [(10,)], "it happened"
    assert rows(tmp_path, "SELECT COUNT(*) FROM snapshots") == snapshots
    record(again, 11, 15)
    again.close(None)
    steps = [step for (step,) in rows(tmp_path, "SELECT step FROM learner ORDER BY id")]
    assert steps == list(range(1, 16))
    ids = [i for (i,) in rows(tmp_path, "SELECT id FROM learner ORDER BY step")]
    assert ids == sorted(ids), "ids go on growing, so a reader's place stays a place"
    texts = [text for (text,) in rows(tmp_path, "SELECT data FROM events WHERE kind = 'start' ORDER BY id")]
    assert texts == ["The run began.", "Resumed after step 10."]
    assert rows(tmp_path, "SELECT value FROM meta WHERE key = 'generation'") == [("2",)]
    about = json.loads(rows(tmp_path, "SELECT value FROM meta WHERE key = 'about'")[0][0])
    assert about["began_at"] == 1.0, "time goes on from the first life's beginning"


def test_a_table_that_outgrows_its_bytes_loses_every_second_row_of_its_older_half(tmp_path, monkeypatch):
    monkeypatch.setattr(
        history_store, "MAX_BYTES", {"learner": 40_000, "snapshots": 10**6, "samples": 100_000, "events": 10**6}
    )
    writer = recorder(tmp_path)
    for first in range(1, 160, 10):
        record(writer, first, first + 9)
        kept = {
            table: rows(tmp_path, f"SELECT SUM(LENGTH(data)) FROM {table}")[0][0] for table in ("learner", "samples")
        }
        assert kept["learner"] <= 40_000 and kept["samples"] <= 100_000
    steps = [step for (step,) in rows(tmp_path, "SELECT step FROM learner ORDER BY id")]
    gaps = np.diff(steps)
    assert steps[-1] == 160 and set(gaps[-10:]) == {1} and gaps[: len(gaps) // 3].max() >= 2, "older is coarser"
    writer.close(None)


def test_judged_samples_outlive_the_thinning(tmp_path, monkeypatch):
    from tests.support.fixture_runs import judged

    monkeypatch.setattr(history_store, "MAX_BYTES", dict(history_store.MAX_BYTES, samples=50_000))
    writer = recorder(tmp_path)
    writer.judged("before", judged(RNG, trained=False))
    record(writer, 1, 100)
    assert rows(tmp_path, "SELECT COUNT(*) FROM samples WHERE phase = 'before'") == [(64,)]
    assert rows(tmp_path, "SELECT COUNT(*) FROM samples WHERE phase = 'train'")[0][0] < 1600
    writer.close(None)


def test_a_full_disk_is_reported_and_recording_continues_once_there_is_room(tmp_path, monkeypatch):
    writer = recorder(tmp_path)
    record(writer, 1, 5)
    assert writer._store is not None and writer.trouble is None
    pages = rows(tmp_path, "PRAGMA page_count")[0][0]
    writer._store._db.execute(f"PRAGMA max_page_count = {max(pages, 12)}")  # SQLite's own way to run out of room
    for first in range(6, 60, 10):
        record(writer, first, first + 9)
    assert writer.trouble is not None and "disk is full" in writer.trouble
    monkeypatch.setattr(recorder_module, "RETRY_DELAY_S", 0.0)
    record(writer, 66, 70)
    assert writer.trouble is None
    writer.close(None)
    steps = [step for (step,) in rows(tmp_path, "SELECT step FROM learner ORDER BY id")]
    assert steps[:5] == [1, 2, 3, 4, 5] and steps[-1] == 70, "earlier rows are kept"
    texts = [text for (text,) in rows(tmp_path, "SELECT data FROM events WHERE kind = 'start' ORDER BY id")]
    assert "could not be written" in texts[-1]


def test_a_missing_folder_is_reported_and_nothing_is_raised(tmp_path):
    writer = recorder(tmp_path / "gone")
    record(writer, 1, 3)
    writer.judged("after", {})
    assert writer.trouble is not None and "cannot be written" in writer.trouble
    writer.close(None)


def older_history(folder: Path) -> Path:
    """A finished history as version 1 wrote it: its table `moments` is now called `snapshots`."""
    writer = recorder(folder)
    record(writer, 1, 5)
    writer.close(None)
    with sqlite3.connect(folder / FILE) as db:
        db.execute("ALTER TABLE snapshots RENAME TO moments")
        db.execute("UPDATE meta SET value = '1' WHERE key = 'schema'")
    db.close()
    return folder / FILE


def test_a_history_of_another_release_is_refused_and_left_as_it_is(tmp_path):
    path = older_history(tmp_path)
    content = path.read_bytes()
    again = recorder(tmp_path)
    assert again.trouble is not None and "version 1 and this release writes version 2" in again.trouble
    again.close(None)
    assert path.read_bytes() == content and [p.name for p in tmp_path.iterdir()] == [FILE]


def test_a_history_that_was_moved_away_is_replaced_by_a_new_one(tmp_path, monkeypatch):
    path = older_history(tmp_path)
    writer = recorder(tmp_path, after_step=5)
    path.rename(tmp_path / "older.sqlite")
    monkeypatch.setattr(recorder_module, "RETRY_DELAY_S", 0.0)
    record(writer, 6, 8)
    assert writer.trouble is None
    writer.close(None)
    assert rows(tmp_path, "SELECT step FROM learner") == [(6,), (7,), (8,)]


def test_a_reader_names_the_version_of_an_older_history_and_still_lists_its_run(tmp_path):
    older_history(tmp_path)
    reader = RunReader(tmp_path, "run", primary=True)
    with pytest.raises(HistoryUnreadable, match=r"tables of version 1, and this release reads version 2\. Use the"):
        reader.refresh()
    reader.glance()
    assert run_entry(reader)["step"] == 5 and run_entry(reader)["state"] == "finished"
    reader.close()


def test_figures_that_are_not_finite_are_kept_as_null(tmp_path):
    store = HistoryStore(tmp_path / FILE)
    store.learner(
        1.0, 1, {"loss": float("nan"), "norm": float("inf"), "labels": {"a": float("-inf")}, "precise": 1.23456789}
    )
    store.commit()
    store.close()
    ((data,),) = rows(tmp_path, "SELECT data FROM learner")
    assert json.loads(data) == {"loss": None, "norm": None, "labels": {"a": None}, "precise": 1.23457}


def test_a_sink_gets_the_finite_figures_and_a_failing_one_is_reported_once(tmp_path):
    got: list[tuple[dict[str, float], int]] = []
    good = GuardedSink("good", lambda figures, step: got.append((figures, step)), lambda: None)

    def fail(figures: dict[str, float], step: int) -> None:
        raise OSError("no network")

    writer = recorder(tmp_path, sinks=[good, GuardedSink("bad", fail, lambda: None)])
    with pytest.warns(RuntimeWarning, match="--sink bad failed and is disabled: no network"):
        record(writer, 1, 1)
    record(writer, 2, 3)
    writer.close(None)
    assert [step for _, step in got] == [1, 2, 3] and got[0][0]["labels/valid"] > 0
    assert not any("step" in figures for figures, _ in got), "a name that trackio keeps for itself"
    assert scalars({"a": float("nan"), "b": {"c": 2}, "notes": None, "name": "x", "d": True}) == {"b/c": 2.0, "d": 1.0}


def test_a_sink_that_is_not_installed_is_refused_before_the_run_with_what_to_install(tmp_path, monkeypatch):
    import sys

    from buffer.errors import ConfigError

    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="needs the package wandb"):
        open_sink("wandb", tmp_path, {})
    with pytest.raises(ConfigError, match="--sink other; use one of tensorboard, wandb, trackio, mlflow"):
        open_sink("other", tmp_path, {})
