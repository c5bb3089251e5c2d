"""One tiny model and one Redis server for all tests of this folder."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import tomli_w

from buffer.config import BufferConfig
from buffer.replay import ReplayBuffer
from buffer.server.connect import connect
from buffer.server.redis_server import RedisServer
from buffer.types import PolicySpec
from tests.support import tiny


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the tiny base model."""
    return tiny.make_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def tiny_spec(tiny_model: Path) -> PolicySpec:
    """Policy of the tiny base model."""
    return tiny.tiny_spec(tiny_model)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real server."""
    with RedisServer.start(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def replay(redis_url: str) -> ReplayBuffer:
    """An empty buffer of its own for each test."""
    return ReplayBuffer(connect(redis_url), BufferConfig(min_size_to_sample=1), name=uuid4().hex)


@pytest.fixture(scope="session")
def recipe(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Recipe file for the 40 strings."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    path.write_text(tomli_w.dumps(tiny.tiny_recipe(tiny_model)))
    return path
