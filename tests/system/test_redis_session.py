"""The Redis of a run: a resumed run only adopts a buffer of its own policy and reward."""

from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from buffer.errors import ConfigError
from deploy.artifacts.run_folder import RunFolder
from deploy.config import load_recipe
from deploy.driver.preflight import check
from deploy.driver.redis_session import redis_session


def test_a_resumed_run_refuses_a_buffer_whose_reward_was_changed_behind_its_back(recipe: Path, tmp_path: Path) -> None:
    checked, folder, console = check(load_recipe(str(recipe), [])), RunFolder.create(tmp_path / "run"), Console()
    with redis_session(checked, folder, keep=False, console=console) as (_, buffer):
        assert buffer.policy is not None
    with redis_session(checked, folder, keep=True, console=console) as (_, buffer):
        assert buffer.policy == checked.stored_policy
    trained_on = checked.stored_policy.model_copy(update={"reward_adapter": "another"})
    changed = replace(checked, stored_policy=trained_on)
    with (
        pytest.raises(ConfigError, match=r"reward_adapter: 'another' here, None there.*start a new run"),
        redis_session(changed, folder, keep=True, console=console),
    ):
        pass
