"""`tributary buffer`, as a person types it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from typer.testing import CliRunner

from buffer.config import BufferConfig
from buffer.errors import ConfigError, StoreError
from buffer.replay import ReplayBuffer
from buffer.server.connect import connect
from buffer.server.redis_server import RedisServer
from buffer.types import Trajectory
from deploy.artifacts.run_folder import RunFolder
from deploy.cli import app
from deploy.config import RunConfig, shown_config

Make = Callable[..., Trajectory]


def tributary(*args: str, exit_code: int = 0) -> str:
    done = CliRunner().invoke(app, ["buffer", *args])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == exit_code, done.output
    return done.output


@pytest.fixture
def place(server: RedisServer, name: str) -> list[str]:
    return ["--redis", server.url, "--name", name]


@pytest.fixture
def buffer(client: redis.Redis, name: str, make_trajectory: Make) -> ReplayBuffer:
    made = ReplayBuffer(client, BufferConfig(capacity=50, min_size_to_sample=1), name)
    made.add([make_trajectory(k) for k in (0, 1, 1, 2)])
    return made


def test_stats_show_what_is_in_it_to_people_and_programs(buffer: ReplayBuffer, place: list[str]) -> None:
    shown = tributary("stats", *place)
    assert "3 of 50" in shown and "duplicates" in shown and "█" in shown
    values = json.loads(tributary("stats", "--json", *place))
    assert (values["size"], values["arrivals"], values["unique_ratio"]) == (3, 4, 0.75)


def test_check_finds_disorder_and_repairs_it(buffer: ReplayBuffer, place: list[str], client: redis.Redis) -> None:
    assert "consistent: 3 trajectories" in tributary("check", *place)
    client.delete(buffer.store.keys.slots)
    assert "digests and slots do not match" in tributary("check", *place, exit_code=1)
    assert "consistent: 3 trajectories" in tributary("check", "--repair", *place)


def test_a_record_that_lost_its_item_is_added_again_by_a_repair(
    buffer: ReplayBuffer, place: list[str], client: redis.Redis
) -> None:
    client.delete(buffer.store.keys.items)
    shown = tributary("check", "--repair", *place)
    assert "of 3 records without an item 3 were added again" in shown and "consistent: 3 trajectories" in shown


def test_export_clear_and_import_bring_all_back(
    buffer: ReplayBuffer, place: list[str], tmp_path: Path, make_trajectory: Make
) -> None:
    file = tmp_path / "kept.trib"
    assert "3 trajectories written" in tributary("export", str(file), *place)
    assert "3 trajectories deleted" in tributary("clear", "--yes", *place)
    assert "3 added, 0 duplicates, refused: none" in tributary("import", str(file), *place)
    with pytest.raises(StoreError, match="someone cleared it"):
        buffer.add([make_trajectory(9)])


def test_the_buffer_of_a_run_is_reached_by_its_folder(tmp_path: Path, make_trajectory: Make) -> None:
    folder = RunFolder.create(tmp_path / "run")
    config = RunConfig()
    folder.write_config(shown_config(config))
    with RedisServer.start(folder.buffer) as server, connect(server.url) as client:
        ReplayBuffer(client, config.buffer, folder.name).add([make_trajectory(k) for k in range(5)])
    assert "consistent: 5 trajectories" in tributary("check", "--run", str(folder.path))


def test_commands_that_read_use_the_server_of_a_run_that_trains__others_are_refused(
    tmp_path: Path, make_trajectory: Make
) -> None:
    folder, file = RunFolder.create(tmp_path / "run"), tmp_path / "kept.trib"
    config, run = RunConfig(), ["--run", str(folder.path)]
    folder.write_config(shown_config(config))
    with folder.lock():
        with pytest.raises(StoreError, match=r"redis\.conf: No such file or directory\)\. It may just be starting"):
            tributary("stats", *run)
        with RedisServer.start(folder.buffer) as server, connect(server.url) as client:
            ReplayBuffer(client, config.buffer, folder.name).add([make_trajectory(k) for k in range(5)])
            assert json.loads(tributary("stats", "--json", *run))["size"] == 5
            assert "consistent: 5 trajectories" in tributary("check", *run)
            assert "5 trajectories written" in tributary("export", str(file), *run)
            for changing in (["import", str(file)], ["clear", "--yes"], ["check", "--repair"]):
                with pytest.raises(ConfigError, match="another process trains in"):
                    tributary(*changing, *run)
        with pytest.raises(StoreError, match="on the loopback of that machine only: run this command there"):
            tributary("stats", *run)
    assert "consistent: 5 trajectories" in tributary("check", *run)


def test_a_runs_damaged_file_is_mended_by_a_repair(tmp_path: Path, make_trajectory: Make) -> None:
    folder = RunFolder.create(tmp_path / "run")
    config = RunConfig()
    folder.write_config(shown_config(config))
    with RedisServer.start(folder.buffer) as server, connect(server.url) as client:
        ReplayBuffer(client, config.buffer, folder.name).add([make_trajectory(k) for k in range(5)])
    file = next(folder.buffer.rglob("*.incr.aof"), folder.buffer / "appendonly.aof")
    with file.open("ab") as end:
        end.write(bytes(512))
    with pytest.raises(StoreError, match="tributary buffer check --repair"):
        tributary("check", "--run", str(folder.path))
    shown = " ".join(tributary("check", "--repair", "--run", str(folder.path)).split())
    assert "removed the last 512 bytes of" in shown and "consistent: 5 trajectories" in shown
    assert "consistent: 5 trajectories" in tributary("check", "--run", str(folder.path))


def test_a_command_without_a_buffer_is_refused(place: list[str], server: RedisServer) -> None:
    with pytest.raises(
        ConfigError, match=r"the buffer is not specified\. Give --run DIR, or --redis URL and --name NAME"
    ):
        tributary("stats", "--redis", server.url)
    with pytest.raises(ConfigError, match="there is no buffer called 'nobody' on this server"):
        tributary("stats", "--redis", server.url, "--name", "nobody")
