"""The address of a dashboard: a socket that listens before the server is there, so that it can be told at once."""

import socket

from buffer.errors import ConfigError

LOOPBACK = "127.0.0.1"
USUAL_PORT = 8710
"""Tried first where no port is named, so that the address stays the same from run to run."""


def listen(host: str, port: int | None) -> socket.socket:
    """A bound socket. Raise ConfigError where the port is taken or the address is not this machine's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for wanted in (USUAL_PORT, 0) if port is None else (port,):
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, wanted))
            listening.listen(128)
            return listening
        except OSError as error:
            listening.close()
            if port is None and wanted:
                continue
            raise ConfigError(
                f"the dashboard can't listen on {host} port {wanted} ({error.strerror}). Give another with --port, or "
                "0 for any free one; --host must be an address of this machine."
            ) from error
    raise AssertionError("the last try returns or raises")


def address(listening: socket.socket) -> str:
    """What to type into a browser."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
