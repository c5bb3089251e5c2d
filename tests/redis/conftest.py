"""All tests of this folder on each real server that can be had; every test has a buffer name of its own."""

import uuid
from collections.abc import Callable, Iterator

import pytest
import redis

from buffer.config import BufferAdvanced, BufferConfig
from buffer.replay import ReplayBuffer
from buffer.server.connect import PASSWORD_FILE_VARIABLE, PASSWORD_VARIABLE, connect
from buffer.server.redis_server import RedisServer
from tests.support.servers import server_params


@pytest.fixture(scope="session", params=server_params())
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer.start(tmp_path_factory.mktemp("redis"), binary=request.param) as running:
        yield running


@pytest.fixture(scope="session")
def client(server: RedisServer) -> Iterator[redis.Redis]:
    with connect(server.url) as connected:
        yield connected


@pytest.fixture(autouse=True)
def no_password_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PASSWORD_VARIABLE, raising=False)
    monkeypatch.delenv(PASSWORD_FILE_VARIABLE, raising=False)


@pytest.fixture
def name() -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture
def make_buffer(client: redis.Redis, name: str) -> Callable[..., ReplayBuffer]:
    """The test's buffer with a small capacity; keyword arguments go into its config, advanced ones too."""

    def make(**fields: object) -> ReplayBuffer:
        advanced = {name: fields.pop(name) for name in list(fields) if name in BufferAdvanced.model_fields}
        config = BufferConfig.model_validate(
            {"capacity": 1000, "min_size_to_sample": 1, "priority_exponent": 1.0, **fields, "advanced": advanced}
        )
        return ReplayBuffer(client, config, name)

    return make
