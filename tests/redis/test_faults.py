"""Servers that die, fill up or are emptied, replies that get lost: what was acknowledged is there, once."""

import os
import select
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import redis

from buffer.config import BufferAdvanced, BufferConfig
from buffer.errors import StoreError
from buffer.replay import ReplayBuffer
from buffer.server import supervisor as supervisor_module
from buffer.server.connect import connect
from buffer.server.redis_server import RedisServer
from buffer.server.supervisor import Supervisor
from buffer.store.check import findings, snapshot
from buffer.store.item_store import DrawRequest, ItemStore, NewItem
from buffer.store.settings import StoreSettings
from buffer.types import Trajectory
from tests.support.processes import until

Make = Callable[..., Trajectory]
MakeBuffer = Callable[..., ReplayBuffer]


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def in_order(client: redis.Redis, buffer: ReplayBuffer) -> bool:
    return findings(snapshot(client, buffer.store.keys)) == []


class LosingReplies:
    """A proxy in front of a server that forwards requests; on demand it drops one reply and the connection."""

    def __init__(self, server: RedisServer) -> None:
        self._upstream = int(server.url.rsplit(":", 1)[1].split("/")[0])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = server.url.replace(f":{self._upstream}/", f":{self._listener.getsockname()[1]}/")
        self.lose_next = threading.Event()
        self.lost = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.create_connection(("127.0.0.1", self._upstream))
            threading.Thread(target=self._carry, args=(client, server), daemon=True).start()

    def _carry(self, client: socket.socket, server: socket.socket) -> None:
        with client, server:
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = ready.recv(1 << 20)
                    if not data:
                        return
                    if ready is server and self.lose_next.is_set():
                        self.lose_next.clear()
                        self.lost += 1
                        return
                    (server if ready is client else client).sendall(data)

    def close(self) -> None:
        self._listener.close()


@contextmanager
def losing_replies(server: RedisServer) -> Iterator[LosingReplies]:
    proxy = LosingReplies(server)
    try:
        yield proxy
    finally:
        proxy.close()


def test_an_add_whose_reply_was_lost_counts_once(
    server: RedisServer, name: str, client: redis.Redis, make_trajectory: Make
) -> None:
    with losing_replies(server) as proxy, connect(proxy.url) as unlucky:
        buffer = ReplayBuffer(unlucky, BufferConfig(), name)
        buffer.add([make_trajectory(0)])
        proxy.lose_next.set()
        result = buffer.add([make_trajectory(1), make_trajectory(2), make_trajectory(1)])
    assert proxy.lost == 1 and (result.added, result.duplicates) == (2, 1)
    stats = buffer_of(client, name).stats()
    assert (stats.inserted, stats.duplicates, stats.arrivals, stats.fresh_waiting) == (3, 1, 4, 4)


def test_a_draw_whose_reply_was_lost_loses_no_fresh_row(
    server: RedisServer, name: str, client: redis.Redis, make_trajectory: Make
) -> None:
    with losing_replies(server) as proxy, connect(proxy.url) as unlucky:
        buffer = ReplayBuffer(unlucky, BufferConfig(min_size_to_sample=1), name)
        items = [make_trajectory(k) for k in range(6)]
        buffer.add(items)
        first = buffer.draw(2, 0, rng())
        proxy.lose_next.set()
        second = buffer.draw(2, 1, rng())
        third = buffer.draw(2, 0, rng())
    assert proxy.lost == 1
    fresh = [row.content_id for row in [*first, *second, *third] if row.fresh]
    assert fresh == [item.content_id for item in items]
    assert buffer_of(client, name).stats().drawn == 7


def test_a_draw_of_last_rows_whose_reply_was_lost_hands_them_over_all_the_same(
    server: RedisServer, name: str, make_trajectory: Make
) -> None:
    config = BufferConfig(min_size_to_sample=1, advanced=BufferAdvanced(max_times_sampled=1))
    with losing_replies(server) as proxy, connect(proxy.url) as unlucky:
        buffer = ReplayBuffer(unlucky, config, name)
        buffer.add([make_trajectory(k) for k in range(3)])
        proxy.lose_next.set()
        rows = buffer.draw(0, 3, rng())
    assert proxy.lost == 1 and {row.trajectory.prompt_id for row in rows} == {"prompt-0", "prompt-1", "prompt-2"}


def test_an_add_sent_again_after_its_items_have_left_brings_nothing_back(
    client: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records travel before the script: the repetition must take them out again."""
    rules = StoreSettings(capacity=2)
    slow, other = ItemStore(client, name, rules), ItemStore(client, name, rules)

    def items(*numbers: int) -> list[NewItem]:
        return [NewItem(bytes([n]) * 16, b"record", bytes(8), 0, 0.0, 0, "t") for n in numbers]

    monkeypatch.setattr("buffer.store.scripts.secrets.token_hex", lambda n: "same")
    first = slow.put(items(1, 2))
    monkeypatch.undo()
    other.put(items(3, 4))
    monkeypatch.setattr("buffer.store.scripts.secrets.token_hex", lambda n: "same")
    assert slow.put(items(1, 2)) == first
    assert findings(snapshot(client, slow.keys)) == []
    assert client.hlen(slow.keys.payload) == 2


def test_a_server_killed_under_load_comes_back_with_all_that_was_acknowledged(
    tmp_path: Path, make_trajectory: Make
) -> None:
    """Producers go on through the outage: redis-py sends again what was not answered."""
    server = RedisServer.start(tmp_path)
    port, acknowledged, stop = int(server.url.rsplit(":", 1)[1].split("/")[0]), list[str](), threading.Event()
    errors, half = list[Exception](), threading.Event()

    clients = [connect(server.url) for _ in range(3)]

    def produce(number: int) -> None:
        try:
            with clients[number] as client:
                buffer = ReplayBuffer(client, BufferConfig(), "load")
                for turn in range(10**6):
                    if stop.is_set():
                        return
                    batch = [make_trajectory(10**7 * number + 8 * turn + k) for k in range(8)]
                    buffer.add(batch)
                    acknowledged.extend(item.content_id for item in batch)
                    if turn == 20:
                        half.set()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=produce, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(3):
        half.clear()
        before = len(acknowledged)
        os.kill(server.pid, signal.SIGKILL)
        server.stop()
        server = RedisServer.start(tmp_path, port)
        while len(acknowledged) < before + 200 and not errors:
            half.wait(0.05)
    stop.set()
    for thread in threads:
        thread.join()
    with connect(server.url) as client:
        buffer = ReplayBuffer(client, BufferConfig(), "load")
        stored = snapshot(client, buffer.store.keys)
        stats = buffer.stats()
    server.stop()
    assert errors == []
    assert findings(stored) == []
    assert set(acknowledged) <= {digest.hex() for digest in stored.record_digests}
    assert stats.duplicates == 0 and stats.inserted == stats.arrivals == len(acknowledged)


def test_a_full_server_refuses_with_what_to_do_and_what_must_go_on_goes_on(
    tmp_path: Path, make_trajectory: Make
) -> None:
    with RedisServer.start(tmp_path) as server, connect(server.url) as client:
        buffer = ReplayBuffer(client, BufferConfig(min_size_to_sample=1), "full")
        buffer.add([make_trajectory(k, length=200) for k in range(100)])
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 200_000)
        with pytest.raises(StoreError, match=r"adding trajectories: .*maxmemory; raise it or lower buffer\.capacity"):
            for k in range(100, 2000):
                buffer.add([make_trajectory(k, length=200)])
        size = buffer.stats().size
        assert 100 < size < 2000 and in_order(client, buffer)
        rows = buffer.draw(2, 30, rng())
        assert len(rows) == 32
        assert buffer.reprioritize([row.id for row in rows], [3.0] * 32) == 32
        assert buffer.quarantine(rows[:1], "does harm") == 1
        assert in_order(client, buffer)


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_redis_evicts__every_error_of_a_run_that_met_it_names_the_policy(
    tmp_path: Path, make_trajectory: Make, policy: str
) -> None:
    """The policy is set after the run has connected: it is refused at the connection otherwise."""
    with RedisServer.start(tmp_path) as server, connect(server.url) as client:
        client.config_set("maxmemory-policy", policy)
        for seed in range(6):
            client.config_set("maxmemory", 0)
            client.flushall()
            buffer = ReplayBuffer(client, BufferConfig(capacity=20_000, min_size_to_sample=64), "run")
            client.config_set("maxmemory", client.info("memory")["used_memory"] + 2_000_000)
            names = r"maxmemory-policy evicts keys: set it to noeviction|is at its maxmemory"
            with pytest.raises(StoreError, match=names):
                for begin in range(0, 20_000, 64):
                    buffer.add([make_trajectory(k, length=60) for k in range(begin, begin + 64)])
                    buffer.draw(32, 32, rng(seed))


def test_a_store_at_its_capacity_goes_on_at_the_servers_maxmemory(tmp_path: Path, make_trajectory: Make) -> None:
    with RedisServer.start(tmp_path) as server, connect(server.url) as client:
        buffer = ReplayBuffer(client, BufferConfig(capacity=100, min_size_to_sample=1), "full")
        buffer.add([make_trajectory(k, length=200) for k in range(120)])
        client.config_set("maxmemory", client.info("memory")["used_memory"] - 10_000)
        for k in range(200, 300):
            assert buffer.add([make_trajectory(k, length=200)]).added == 1
        stats = buffer.stats()
        assert 90 <= stats.size <= 100 and stats.inserted == 220 and in_order(client, buffer)
        assert len(buffer.draw(3, 0, rng())) == 3


def test_an_emptied_server_is_noticed_by_everyone_and_can_be_used_again(tmp_path: Path, make_trajectory: Make) -> None:
    with RedisServer.start(tmp_path) as server, connect(server.url) as client:
        buffer = ReplayBuffer(client, BufferConfig(min_size_to_sample=1), "run")
        buffer.add([make_trajectory(k) for k in range(5)])
        rows = buffer.draw(1, 1, rng())
        client.flushall()
        gone = r"the buffer that this process used is gone .*now none\): someone cleared it or emptied the server"
        with pytest.raises(StoreError, match=gone):
            buffer.add([make_trajectory(9)])
        with pytest.raises(StoreError, match=gone):
            buffer.draw(1, 1, rng())
        with pytest.raises(StoreError, match=gone):
            buffer.reprioritize([rows[0].id], [1.0])
        assert client.hlen(buffer.store.keys.payload) == 0
        fresh_buffer = ReplayBuffer(client, BufferConfig(min_size_to_sample=1), "run")
        assert fresh_buffer.add([make_trajectory(1)]).added == 1
        with pytest.raises(StoreError, match=r"is gone \(epoch \w+, now \w+\)"):
            buffer.draw(1, 1, rng())
        assert in_order(client, fresh_buffer)


def test_a_cleared_buffer_is_noticed_by_the_others(make_buffer: MakeBuffer, make_trajectory: Make) -> None:
    mine, other = make_buffer(), make_buffer()
    mine.add([make_trajectory(1)])
    other.clear()
    with pytest.raises(StoreError, match="someone cleared it"):
        mine.add([make_trajectory(2)])
    assert other.add([make_trajectory(2)]).added == 1


def test_clients_killed_in_the_middle_of_their_calls_leave_the_store_in_order(
    server: RedisServer, client: redis.Redis, name: str, make_trajectory: Make
) -> None:
    """The server cuts every other client off, again and again, while they add and draw."""
    config, errors, stop = BufferConfig(min_size_to_sample=1), list[Exception](), threading.Event()
    acknowledged = [0, 0]

    clients = [connect(server.url) for _ in range(2)]

    def work(number: int) -> None:
        try:
            with clients[number] as own:
                buffer = ReplayBuffer(own, config, name)
                for turn in range(10**6):
                    if stop.is_set():
                        return
                    buffer.add([make_trajectory(10**6 * number + 4 * turn + k) for k in range(4)])
                    acknowledged[number] += 4
                    rows = buffer.draw(2, 2, rng(turn))
                    buffer.reprioritize([row.id for row in rows], [float(turn % 7)] * len(rows))
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    kills = 0
    while kills < 40 and not errors:
        before = list(acknowledged)
        kills += int(client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"))
        while acknowledged == before and not errors:
            stop.wait(0.002)
    stop.set()
    for thread in threads:
        thread.join()
    buffer = buffer_of(client, name)
    stats = buffer.stats()
    assert errors == [] and in_order(client, buffer)
    assert stats.arrivals == stats.inserted == sum(acknowledged) and stats.duplicates == 0


def buffer_of(client: redis.Redis, name: str) -> ReplayBuffer:
    return ReplayBuffer(client, BufferConfig(), name)


def test_a_store_draws_nothing_while_it_is_empty(client: redis.Redis, name: str) -> None:
    assert ItemStore(client, name, StoreSettings(capacity=3)).draw(DrawRequest(rows=3), 0) is None


def test_a_server_that_cannot_start_says_why_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, start, tries = RedisServer.start(tmp_path), RedisServer.start, list[Path]()
    monkeypatch.setattr(supervisor_module, "RETRY_S", 0.01)
    with Supervisor(server, tmp_path) as supervisor:

        def full(folder: Path, port: int) -> RedisServer:
            tries.append(folder)
            if len(tries) == 3:
                assert supervisor.failure == "no room on the disk"
                return start(folder, port)
            raise StoreError("no room on the disk")

        monkeypatch.setattr(RedisServer, "start", full)
        os.kill(supervisor.pid, signal.SIGKILL)
        until(lambda: supervisor.restarts == 1, 30.0, "a restart")
        assert supervisor.failure is None and len(tries) == 3
        connect(server.url).close()


def test_a_runs_own_server_that_dies_is_started_again_and_its_clients_go_on(
    tmp_path: Path, make_trajectory: Make
) -> None:
    server = RedisServer.start(tmp_path)
    with Supervisor(server, tmp_path) as supervisor, connect(server.url) as client:
        buffer = ReplayBuffer(client, BufferConfig(), "run")
        for turn in range(3):
            buffer.add([make_trajectory(turn)])
            os.kill(supervisor.pid, signal.SIGKILL)
            while supervisor.restarts == turn and supervisor.failure is None:
                buffer.stats()  # waits for the server
        assert buffer.add([make_trajectory(9)]).added == 1
        assert buffer.load_scripts() and not buffer.load_scripts(), "how the driver knows of a restart"
        assert buffer.stats().size == 4 and supervisor.restarts == 3 and supervisor.failure is None
        last = supervisor.pid
    with pytest.raises(ProcessLookupError):
        os.kill(last, 0)
