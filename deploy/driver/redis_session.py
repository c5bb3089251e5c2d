"""The Redis of a run: the server that the recipe names, or one that lives as long as the run."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from buffer.errors import ConfigError, StoreError
from buffer.replay import ReplayBuffer
from buffer.server.connect import connect
from buffer.server.redis_server import RedisServer
from buffer.server.supervisor import Supervisor
from deploy.artifacts.run_folder import RunFolder
from deploy.cluster.root_cause import root_cause
from deploy.driver.preflight import Checked


@contextmanager
def redis_session(
    checked: Checked, folder: RunFolder, keep: bool, console: Console
) -> Iterator[tuple[str, ReplayBuffer]]:
    """(URL of the server, the run's buffer there); the buffer is emptied unless `keep`.

    Call it in the main thread: the run's own server dies with the thread that started it.
    """
    config = checked.config.buffer
    server = None if config.url else RedisServer.start(folder.buffer, config.advanced.port)
    try:
        url = server.url if server else str(config.url)
        buffer = ReplayBuffer(connect(url), config, folder.name, checked.config.rewards.term_weights)
        buffer.load_scripts()
        if keep:
            buffer.adopt()
            _require_same_policy(checked, buffer)
        else:
            buffer.clear()
        buffer.note_policy(checked.stored_policy)
        buffer.end_draws()  # demonstrations are inserted while no learner draws yet: don't rate-limit them
        if server is None:
            yield url, buffer
            return
        with Supervisor(server, folder.buffer) as supervisor:
            try:
                yield url, buffer
            except Exception as error:  # of any process of the run
                if supervisor.failure is None or not isinstance(root_cause(error), StoreError):
                    raise
                raise StoreError(
                    f"the run's own Redis server ended and can't start again: {supervisor.failure}. Remove the cause; "
                    f"then `tributary train --resume {folder.path}` goes on."
                ) from error
        if supervisor.restarts:
            console.print(f"The run's Redis server died and was restarted {supervisor.restarts} times.")
    finally:
        if server:
            server.stop()


def _require_same_policy(checked: Checked, buffer: ReplayBuffer) -> None:
    """ConfigError where the buffer's strings are of another policy or reward: one string would have two rewards."""
    if buffer.policy and (differences := checked.stored_policy.differences(buffer.policy)):
        raise ConfigError(
            f"the run's buffer holds strings of another policy or reward ({'; '.join(differences)}; there is the "
            "buffer). A file that the recipe names was changed since: restore it, or start a new run."
        )
