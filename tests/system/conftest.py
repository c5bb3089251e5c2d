"""One tiny model and one Redis server for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from buffer.config import BufferConfig
from buffer.connect import connect
from buffer.replay import ReplayBuffer
from buffer.server import RedisServer
from buffer.types import PolicySpec
from tests import tiny


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny base model."""
    return tiny.make_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def tiny_spec(tiny_model: Path) -> PolicySpec:
    """Its policy."""
    return tiny.tiny_spec(tiny_model)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real server."""
    with RedisServer.start(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def replay(redis_url: str) -> ReplayBuffer:
    """An empty buffer of its own for each test."""
    return ReplayBuffer(connect(redis_url), BufferConfig(), name=uuid4().hex)
