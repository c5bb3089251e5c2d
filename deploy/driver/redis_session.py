"""The Redis of a run: the one that the recipe names, or a server that lives as long as the run."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from buffer.replay import ReplayBuffer
from buffer.server.connect import connect
from buffer.server.redis_server import RedisServer
from buffer.server.supervisor import Supervisor
from deploy.artifacts.run_folder import RunFolder
from deploy.driver.preflight import Checked


@contextmanager
def run_store(checked: Checked, folder: RunFolder, keep: bool, console: Console) -> Iterator[tuple[str, ReplayBuffer]]:
    """(its URL, the run's buffer there, emptied unless its content is to be kept).

    Call it in the main thread: a server of the run's own dies with the thread that started it.
    """
    config = checked.config.buffer
    server = None if config.url else RedisServer.start(folder.buffer, config.advanced.port)
    try:
        url = server.url if server else str(config.url)
        buffer = ReplayBuffer(connect(url), config, folder.name, checked.config.rewards.weights)
        if keep:
            buffer.adopt()
        else:
            buffer.clear()
        buffer.end_draws()  # given strings come before there is a learner to wait for
        if server is None:
            yield url, buffer
            return
        with Supervisor(server, folder.buffer) as supervisor:
            yield url, buffer
        if supervisor.restarts:
            console.print(f"The run's Redis server died {supervisor.restarts} times and was started again each time.")
    finally:
        if server:
            server.stop()
