"""deploy/redis/users.acl gives each role what it needs in a run, and no more."""

import re
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
import redis
from redis.backoff import NoBackoff
from redis.exceptions import NoPermissionError
from redis.retry import Retry

import buffer
from buffer.actor_counters import ActorCounters
from buffer.config import BufferConfig
from buffer.errors import StoreError
from buffer.heartbeat import Heartbeats
from buffer.replay import ReplayBuffer
from buffer.server.connect import PASSWORD_VARIABLE, connect
from buffer.server.redis_server import RedisServer
from buffer.store import scripts
from buffer.store.keys import Keys
from buffer.types import Trajectory
from tests.support.servers import server_params

ROOT = Path(buffer.__file__).parents[1]
FOLDER = ROOT / "deploy" / "redis"
LUA = ROOT / "buffer" / "store" / "lua"
USERS = {line.split()[1]: line.split()[2:] for line in (FOLDER / "users.acl").read_text().splitlines()}
ROLES = [user for user in USERS if user != "default"]
NO_PASSWORD = "#" + 64 * "0"
PASSWORD = "only-for-this-test"

As: TypeAlias = Callable[[str], redis.Redis]


@pytest.fixture
def as_user(client: redis.Redis, server: RedisServer) -> Iterator[As]:
    """A client of the server under test for each user of the file, which has it for the time of the test."""
    for role in ROLES:
        rules = [f">{PASSWORD}" if rule == NO_PASSWORD else rule for rule in USERS[role]]
        client.execute_command("ACL", "SETUSER", role, "reset", *rules)
    clients = list[redis.Redis]()

    def make(role: str) -> redis.Redis:
        clients.append(connect(f"redis://{role}:{PASSWORD}@{address(server)}"))
        return clients[-1]

    yield make
    for made in clients:
        made.close()
    client.execute_command("ACL", "DELUSER", *ROLES)


def address(server: RedisServer) -> str:
    return server.url.rsplit("@", 1)[1]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"advanced": {"evict": "lowest_priority", "max_times_sampled": 2, "replacement": False}},
        {"rows_per_prompt": 2, "advanced": {"evict": "most_sampled", "max_staleness": 1}},
        {"advanced": {"sampler": "highest_reward", "per_prompt_quota": 2, "near_duplicate_distance": 6}},
        {"samples_per_insert": 4.0, "advanced": {"sampler": "newest", "newest_fraction": 0.5}},
    ],
    ids=lambda fields: "-".join(fields | fields.get("advanced", {})) or "default",
)
def test_each_role_can_do_what_it_does_in_a_run(
    as_user: As,
    client: redis.Redis,
    name: str,
    make_trajectory: Callable[..., Trajectory],
    fields: dict[str, Any],
) -> None:
    config = BufferConfig.model_validate({"capacity": 10, "min_size_to_sample": 1, **fields})
    roles = ("driver", "reward", "learner", "dashboard")
    driver, reward, learner, dashboard = (ReplayBuffer(as_user(role), config, name) for role in roles)
    client.script_flush()
    driver.load_scripts()
    driver.clear()
    other = ReplayBuffer(as_user("driver"), config.model_copy(update={"capacity": 12}), name)
    other.adopt()
    assert other.add([make_trajectory(99, adapter_digest="")]).added == 1
    driver.adopt()  # under other settings, as a resume may
    driver.clear()
    given = [make_trajectory(100 + k, adapter_digest="") for k in range(2)]
    assert driver.add(given).added == 2

    for version in range(4):
        learner.note_version(version)
        batch = [make_trajectory(k, prompt_id=f"p{k % 3}", policy_version=version) for k in range(version, version + 9)]
        result = reward.add([*batch, batch[0]])
        assert result.added + result.duplicates + sum(result.refused.values()) == 10
        client.script_flush()  # as after a restart; only the driver may load scripts
        driver.load_scripts()
        rows = learner.draw(2, 6, np.random.default_rng(version))
        learner.reprioritize([row.id for row in rows], [float(k) for k in range(len(rows))])
        assert rows
        learner.quarantine(rows[-1:], "it does harm")
    assert learner.newest_version() == dashboard.newest_version() == 3

    Heartbeats(as_user("actor"), name).beat("actor", "actor-0")
    counters = ActorCounters(as_user("actor"), name)
    assert [counters.claim_turns(4), counters.claim_turns(4), counters.count_start("actor-0")] == [0, 4, 0]
    for role in ("learner", "dashboard", "driver"):
        assert Heartbeats(as_user(role), name).alive("actor") == ["actor-0"]
    assert dashboard.stats().size == learner.stats().size == reward.stats().size == driver.stats().size > 0
    assert dashboard.quarantined() == learner.quarantined() != []
    events: Any = as_user("dashboard").xrevrange(Keys(name).events, count=100)
    assert {fields[b"kind"] for _, fields in events} >= {b"add", b"draw", b"clear"}


@pytest.mark.parametrize(
    ("role", "names"),
    [
        ("reward", ("add", "remove")),
        ("learner", ("draw", "reprioritize", "remove", "publish")),
        ("driver", ("add", "draw", "reprioritize", "remove", "clear")),
    ],
)
def test_each_role_has_every_command_of_its_scripts(role: str, names: tuple[str, ...]) -> None:
    sources = [(LUA / f"{script}.lua").read_text() for script in ("shared", *names)]
    commands = {command.lower() for source in sources for command in re.findall(r"call\('([A-Z]+)'", source)}
    if role == "reward":
        commands -= {"lpush", "ltrim"}  # it removes without a note
    assert commands <= {rule.removeprefix("+") for rule in USERS[role]}


@pytest.mark.parametrize("role", ROLES)
def test_nobody_reaches_keys_outside_the_buffers(as_user: As, role: str, client: redis.Redis, name: str) -> None:
    user, outside = as_user(role), [f"other-{name}", f"{{other:{name}}}:counters", f"x{{tributary:{name}}}:counters"]
    calls: list[Callable[[str], Any]] = [user.get, lambda key: user.set(key, 1), user.delete, user.hgetall]
    for key in outside:
        for call in [*calls, lambda key: user.zadd(key, {"a": 1})]:
            with pytest.raises(NoPermissionError):
                call(key)
    assert client.exists(*outside) == 0


@pytest.mark.parametrize("role", [role for role in ROLES if role != "admin"])
def test_only_admin_has_a_command_that_touches_the_server_or_others(as_user: As, role: str) -> None:
    user = as_user(role)
    for command in (
        *(
            "FLUSHALL",
            "FLUSHDB",
            "CONFIG GET maxmemory",
            "CONFIG SET maxmemory 1",
            "KEYS *",
            "SCAN 0",
            *(["INFO"] if role != "driver" else []),  # it checks the eviction policy
            "MONITOR",
        ),
        *("SHUTDOWN NOSAVE", "ACL LIST", "ACL SETUSER x on", "CLIENT LIST", "CLIENT KILL TYPE normal", "SLOWLOG GET"),
        *("SCRIPT FLUSH", "SCRIPT KILL", "EVAL return 0", "SAVE", "REPLICAOF localhost 1", "PUBLISH a b", "SWAPDB 0 0"),
        *("MODULE LIST", "RENAME a b", "DUMP a", "MIGRATE localhost 1 a 0 1"),
    ):
        with pytest.raises(NoPermissionError):
            user.execute_command(*command.split())
    assert "+debug" not in USERS[role], "servers that have it switched off say so before they look at rights"


def test_admin_looks_after_the_server(as_user: As) -> None:
    admin = as_user("admin")
    assert admin.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
    assert admin.info("server")
    assert admin.script_flush()


@pytest.mark.parametrize("role", ["actor", "reward", "learner", "dashboard"])
def test_no_role_but_driver_and_admin_can_run_lua_of_its_own(as_user: As, role: str) -> None:
    loop = "while true do end"
    for command in (
        *(["EVAL", loop, "0"], ["EVAL_RO", loop, "0"], ["SCRIPT", "LOAD", loop], ["FUNCTION", "LOAD", loop]),
        *(["FCALL", "f", "0"], ["SCRIPT", "FLUSH"], ["SCRIPT", "DEBUG", "YES"]),
    ):
        with pytest.raises(redis.ResponseError, match=r"(?i)no permissions|unknown command"):  # some servers lack one
            as_user(role).execute_command(*command)


def test_after_a_restart_the_other_roles_wait_until_the_driver_has_loaded_the_scripts(
    as_user: As,
    client: redis.Redis,
    name: str,
    make_trajectory: Callable[..., Trajectory],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = BufferConfig(min_size_to_sample=1)
    driver, reward, learner = (ReplayBuffer(as_user(role), config, name) for role in ("driver", "reward", "learner"))
    driver.load_scripts()
    reward.add([make_trajectory(0)])
    client.script_flush()
    with ThreadPoolExecutor() as threads:
        adding = threads.submit(reward.add, [make_trajectory(1)])
        drawing = threads.submit(learner.draw, 1, 0, np.random.default_rng(0))
        with pytest.raises(TimeoutError):
            adding.result(0.3)
        driver.load_scripts()
        assert adding.result(10).added == 1 and len(drawing.result(10)) == 1
    client.script_flush()
    monkeypatch.setattr(scripts, "LOAD_LIMIT_S", 0.2)
    with pytest.raises(StoreError, match=r"does not let the user .*script\|load|does not let the user .*users\.acl"):
        reward.add([make_trajectory(2)])


WITHOUT_ACL = {"auth", "quit", "reset", "debug"}
"""Every client may send the first three. A server that has DEBUG switched off says so before it looks at rights."""
WITH_SUBCOMMANDS = {
    "acl", "client", "cluster", "command", "config", "function", "latency", "memory", "module", "object", "pubsub", "script", "slowlog",
    "xgroup", "xinfo", "commandlog",
}  # fmt: skip
"""Tested one by one above."""


@pytest.mark.parametrize("role", [role for role in ROLES if role != "admin"])
def test_of_all_commands_of_the_server_each_role_may_send_those_of_its_line_and_no_other(
    as_user: As, client: redis.Redis, role: str, name: str
) -> None:
    """Each command with a key that the role may use, and as many arguments as it needs: it fails for no other reason."""
    user, keys = as_user(role), Keys(name)
    key = keys.alive("actor") if role == "actor" else keys.counters
    commands: Any = client.execute_command("COMMAND")
    entries = {entry[0].decode().lower(): entry[1] for entry in _entries(commands)}
    arity = {command: n for command, n in entries.items() if command not in WITHOUT_ACL | WITH_SUBCOMMANDS}
    user.set_retry(Retry(NoBackoff(), 0))
    allowed = {command for command, needed in arity.items() if _may_send(user, command, abs(needed), key)}
    line = {rule[1:] for rule in USERS[role] if rule.startswith("+")}
    assert allowed == {command for command in line if "|" not in command}


def _entries(commands: Any) -> list[Any]:
    """The reply of COMMAND: a list, or what redis-py makes of it."""
    values = commands.values() if isinstance(commands, dict) else commands
    return [entry if isinstance(entry, list) else [str(entry["name"]).encode(), entry["arity"]] for entry in values]


def _may_send(user: redis.Redis, command: str, length: int, key: str) -> bool:
    with user.client() as connection:
        try:
            connection.execute_command(command, *[key] * (length - 1))
        except NoPermissionError:
            return False
        except redis.RedisError:
            return True
        finally:
            if command in ("multi", "hello", "select", "discard", "exec", "watch"):
                connection.connection.disconnect()
        return True


@pytest.mark.parametrize(
    ("role", "forbidden"),
    [
        *(("actor", lambda user, keys: user.hget(keys.payload, "a")), ("actor", lambda user, keys: user.time() and user.hgetall(keys.counters))),
        *(("dashboard", lambda user, keys: user.hget(keys.payload, "a")), ("dashboard", lambda user, keys: user.hgetall(keys.payload))),
        *(("dashboard", lambda user, keys: user.hset(keys.counters, "size", 0)), ("dashboard", lambda user, keys: user.zadd(keys.alive("actor"), {"ghost": 1}))),
        *(("dashboard", lambda user, keys: user.delete(keys.events)), ("dashboard", lambda user, keys: user.xadd(keys.events, {"kind": "made up"}))),
        *(("reward", lambda user, keys: user.unlink(keys.payload)), ("reward", lambda user, keys: user.lrange(keys.quarantine, 0, -1))),
        *(("learner", lambda user, keys: user.unlink(keys.payload)), ("learner", lambda user, keys: user.zadd(keys.alive("actor"), {"ghost": 1}))),
    ],
)  # fmt: skip
def test_a_role_can_not_do_what_another_one_does(
    as_user: As, name: str, role: str, forbidden: Callable[[redis.Redis, Keys], Any]
) -> None:
    with pytest.raises(NoPermissionError):
        forbidden(as_user(role), Keys(name))


def test_who_lacks_a_right_is_told_which_and_where_it_stands(
    as_user: As, client: redis.Redis, name: str, make_trajectory: Callable[..., Trajectory]
) -> None:
    buffer = ReplayBuffer(as_user("dashboard"), BufferConfig(), name)
    with pytest.raises(StoreError, match=r"adding trajectories: Redis does not let the user .*users\.acl.*hset"):
        buffer.add([make_trajectory(1)])
    with pytest.raises(StoreError, match=r"taking the lease: .*buffer\.url.*hset"):
        buffer.note_version(1)
    client.execute_command("ACL", "SETUSER", "reward", "-xadd")
    reward = ReplayBuffer(as_user("reward"), BufferConfig(), name)
    ReplayBuffer(as_user("driver"), BufferConfig(), name).load_scripts()
    with pytest.raises(StoreError, match=r"adding trajectories: Redis does not let the user .*users\.acl.*script"):
        reward.add([make_trajectory(1)])


def test_a_user_in_the_url_goes_with_the_password_in_the_environment(
    as_user: As, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PASSWORD_VARIABLE, PASSWORD)
    assert connect(f"redis://driver@{address(server)}").ping()
    with pytest.raises(StoreError, match="refuses the password"):
        connect(f"redis://stranger@{address(server)}")


@pytest.mark.parametrize("binary", server_params())
def test_the_file_lets_nobody_in_until_the_command_of_its_readme_has_made_passwords(
    tmp_path: Path, binary: Path
) -> None:
    """Each server reads the file itself; the passwords are made as the README says."""
    file = tmp_path / "users.acl"
    file.write_bytes((FOLDER / "users.acl").read_bytes())

    def tries(passwords: dict[str, str]) -> dict[str, bool]:
        """Which users can log in to a server that starts with the file."""
        socket = tmp_path / "redis.sock"
        command = [binary, "--port", "0", "--unixsocket", socket, "--aclfile", file, "--save", "", "--dir", tmp_path]
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            return {user: gets_in(socket, user, password) for user, password in passwords.items()}
        finally:
            running.terminate()
            running.wait(10)

    assert not any(tries({**dict.fromkeys(ROLES, 64 * "0"), "default": ""}).values())
    (commands,) = re.findall(r"```sh\n(.*?)```", (FOLDER / "README.md").read_text(), re.DOTALL)
    subprocess.run(["sh", "-euc", commands], cwd=tmp_path, check=True)
    passwords = dict(line.split() for line in (tmp_path / "passwords.txt").read_text().splitlines())
    assert set(passwords) == set(ROLES)
    assert all(tries(passwords).values())
    assert (tmp_path / "passwords.txt").stat().st_mode & 0o077 == 0


def gets_in(socket: Path, user: str, password: str) -> bool:
    """Tries until the server listens, 10 s at most."""
    deadline = time.monotonic() + 10
    once = Retry(NoBackoff(), 0)
    while True:
        with redis.Redis(unix_socket_path=str(socket), username=user, password=password, retry=once) as client:
            try:
                return bool(client.ping())
            except redis.AuthenticationError:
                return False
            except redis.ConnectionError:
                assert time.monotonic() < deadline
