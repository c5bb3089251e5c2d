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
    return ReplayBuffer(connect(redis_url), BufferConfig(min_size_to_sample=1), name=uuid4().hex)


@pytest.fixture(scope="session")
def recipe(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for the 40 strings."""
    path = tmp_path_factory.mktemp("recipe") / "tiny.toml"
    values = {
        "model": {"name": str(tiny_model), "lora_rank": 16, "lora_alpha": 16, "lora_targets": list(tiny.LINEAR_LAYERS)},
        "policy": {"stop": ".", "max_actions": 3, "allowed_tokens": ["a", "b", "c"]},
        "task": {"name": "tests.support.tiny:TinyTask"},
        "actors": {
            "max_model_len": 64, "max_in_flight": 64, "push_size": 16, "advanced": {"max_staleness": 100},
            "behaviours": [
                {"name": "on_policy", "weight": 1.0},
                {"name": "suppressed", "weight": 1.0, "suppress_stop": True},
                {"name": "tempered", "weight": 1.0, "temperature_low": 1.0, "temperature_high": 2.0},
            ],
        },
        "buffer": {"capacity": 1000, "min_size_to_sample": 20},
        "learner": {"steps": 300, "batch_size": 64, "learning_rate": 5e-3, "decay_fraction": 0.7, "publish_every": 2},
        "evaluation": {"samples": 20000},
    }  # fmt: skip
    path.write_text(tomli_w.dumps(values))
    return path
