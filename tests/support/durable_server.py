"""A Redis server that loses nothing when it is killed, so that a loss is one of the buffer's."""

from pathlib import Path

from buffer.server.connect import connect
from buffer.server.redis_server import RedisServer


def start_durable(folder: Path, port: int | None = None) -> RedisServer:
    """With appendfsync everysec a server puts off its writes while the disk is busy, and replies before them."""
    server = RedisServer.start(folder) if port is None else RedisServer.start(folder, port)
    with connect(server.url) as client:
        client.config_set("appendfsync", "always")
    return server
