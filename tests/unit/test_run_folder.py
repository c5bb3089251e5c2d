"""RunFolder: nothing is lost, no foreign file is deleted, every reader gets what was written."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from buffer.errors import ConfigError
from buffer.types import AdapterFiles, AdapterVersion, Canary
from deploy.artifacts.run_folder import RunFolder, check_disk


def a_run(path: Path) -> RunFolder:
    run = RunFolder.create(path)
    run.write_config({"seed": 1})
    return run


def test_a_folder_in_use_is_refused_with_both_fixes(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    run.append_metrics({"step": 1})
    with pytest.raises(ConfigError, match=r"--run.*--replace"):
        RunFolder.create(tmp_path / "run")
    assert run.metrics() == [{"step": 1}]


def test_a_run_that_failed_before_its_first_step_is_in_nobodys_way(tmp_path: Path) -> None:
    first = a_run(tmp_path / "run")
    (first.path / "log.jsonl").write_text("the engines did not start")
    name = first.name
    assert RunFolder.create(first.path).name == name and not (first.path / "config.toml").exists()
    a_run(tmp_path / "other")
    with RunFolder(tmp_path / "other").lock(), pytest.raises(ConfigError, match="another process trains"):
        RunFolder.create(tmp_path / "other")
    (tmp_path / "mine").mkdir()
    for file in ("config.toml", "metrics.jsonl"):
        (tmp_path / "mine" / file).touch()
    with pytest.raises(ConfigError, match=r"--run.*--replace"):
        RunFolder.create(tmp_path / "mine")


def test_replace_starts_with_an_empty_run(tmp_path: Path) -> None:
    a_run(tmp_path / "run").append_metrics({"step": 1})
    assert RunFolder.create(tmp_path / "run", replace=True).metrics() == []


def test_replace_accepts_a_run_that_crashed_before_its_config(tmp_path: Path) -> None:
    RunFolder.create(tmp_path / "run")
    assert RunFolder.create(tmp_path / "run", replace=True).plots.is_dir()


def test_replace_leaves_a_project_with_a_config_toml_alone(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("title = 'a website'")
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        RunFolder.create(tmp_path, replace=True)
    assert (tmp_path / "config.toml").exists()


def test_replace_does_not_follow_a_link(tmp_path: Path) -> None:
    a_run(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with pytest.raises(ConfigError, match="link"):
        RunFolder.create(tmp_path / "link", replace=True)
    assert (tmp_path / "run" / "config.toml").exists()


def test_an_empty_folder_can_become_a_run(tmp_path: Path) -> None:
    assert RunFolder.create(tmp_path).plots.is_dir()


def test_opening_a_folder_without_a_run_names_the_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml"):
        RunFolder.open(tmp_path)


def test_the_config_is_read_back_without_its_nones(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    run.write_config(
        {"seed": 3, "buffer": {"url": None, "capacity": 5}, "actors": {"behaviours": [{"a": None, "b": 1.5}]}}
    )
    assert RunFolder.open(run.path).read_config() == {
        "seed": 3,
        "buffer": {"capacity": 5},
        "actors": {"behaviours": [{"b": 1.5}]},
    }


def test_a_broken_config_is_reported(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    (run.path / "config.toml").write_text("seed = = 3")
    with pytest.raises(ConfigError, match="can't be read"):
        run.read_config()


def test_a_metrics_line_is_strict_json_and_nan_survives_the_round_trip(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    run.append_metrics({"step": 1, "loss": np.float32(0.5), "var_u": math.nan, "labels": {"valid": math.inf}})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not valid JSON")

    line = json.loads((run.path / "metrics.jsonl").read_text(), parse_constant=refuse)
    assert line == {"step": 1, "loss": 0.5, "var_u": None, "labels": {"valid": None}}
    (row,) = run.metrics()
    assert math.isnan(row["var_u"]) and row["loss"] == 0.5


def test_an_incomplete_last_line_is_skipped(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    run.append_metrics({"step": 1})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    assert run.metrics() == [{"step": 1}]


def test_the_adapter_is_read_back_byte_for_byte_and_can_be_replaced(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="no adapter yet"):
        run.adapter()
    run.write_adapter(AdapterFiles(b"\x00old", "{}"))
    run.write_adapter(AdapterFiles(b"\x00new\xff", '{"r": 16}'))
    assert run.adapter() == AdapterFiles(b"\x00new\xff", '{"r": 16}')
    assert sorted(p.name for p in run.adapter_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_version_is_read_back_with_its_exact_canary(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    run.write_adapter(AdapterFiles(b"w", "{}"))
    log_probs = np.array([-0.1, -1e-7, -33.3], np.float32)
    canary = Canary(np.array([5, 6], np.int32), np.array([1, 2, 3], np.int32), log_probs, tolerance=0.05)
    run.write_version(AdapterVersion(7, "ab" * 32, 70, canary))
    version = run.version()
    assert (version.number, version.digest, version.learner_step) == (7, "ab" * 32, 70)
    assert version.canary.log_probs.dtype == np.float32 and np.array_equal(version.canary.log_probs, log_probs)
    assert version.canary.token_ids.tolist() == [1, 2, 3] and version.canary.tolerance == 0.05


def test_a_summary_is_read_back_with_null_for_nan(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="has not finished"):
        run.read_summary()
    run.write_summary({"kl": math.nan, "stopped_by": None, "steps": 80})
    assert run.read_summary() == {"kl": None, "stopped_by": None, "steps": 80}


def test_too_little_disk_space_is_reported_with_both_numbers(tmp_path: Path) -> None:
    check_disk(tmp_path / "not" / "there" / "yet", 1)
    with pytest.raises(ConfigError, match=r"GB free and 1000000000\.0 GB are needed"):
        check_disk(tmp_path / "not" / "there" / "yet", 10**18)


def test_a_runs_buffer_keeps_its_name_when_the_folder_moves(tmp_path: Path) -> None:
    name = a_run(tmp_path / "a").name
    (tmp_path / "a").rename(tmp_path / "b")
    assert RunFolder.open(tmp_path / "b").name == name != a_run(tmp_path / "a").name
    assert RunFolder.create(tmp_path / "b", replace=True).name == name, "so that its old buffer is found and emptied"


def test_two_cannot_train_in_one_folder(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    with run.lock():
        with pytest.raises(ConfigError, match="another process trains"), RunFolder.open(run.path).lock():
            pass
        with pytest.raises(ConfigError, match="another process trains"):
            RunFolder.create(run.path, replace=True)
    with run.lock():
        pass


def test_rows_after_a_step_are_deleted(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run")
    for step in (1, 2, 3):
        run.append_metrics({"step": step, "loss": math.nan})
    run.cut_metrics(2)
    assert [row["step"] for row in run.metrics()] == [1, 2] and math.isnan(run.metrics()[0]["loss"])
