"""A dashboard's socket, bound before the server starts, so that its address can be printed at once."""

import socket

from buffer.errors import ConfigError

LOOPBACK = "127.0.0.1"
DEFAULT_PORT = 8710
"""Tried first if no port is given, so that the address stays the same from run to run."""


def listen(host: str, port: int | None) -> socket.socket:
    """A listener socket. Raise ConfigError if the port is taken or the address is not one of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in (DEFAULT_PORT, 0) if port is None else (port,):
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(128)
            return listener
        except OSError as error:
            listener.close()
            if port is None and candidate:
                continue
            raise ConfigError(
                f"the dashboard can't listen on {host} port {candidate} ({error.strerror}). Choose another "
                "with --port, or 0 for any free one; --host must be an address of this machine."
            ) from error
    raise AssertionError("the last try returns or raises")


def address(listener: socket.socket, token: str | None = None) -> str:
    """The URL to open in a browser. A `token` is in its fragment, which browsers keep to themselves: the page sends it
    once and removes it."""
    host, port = listener.getsockname()[:2]
    fragment = f"#token={token}" if token else ""
    return f"http://[{host}]:{port}/{fragment}" if ":" in host else f"http://{host}:{port}/{fragment}"
