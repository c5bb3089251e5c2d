"""Access control (Host, Origin, token), and the security headers of every response.

A token is required on any address but loopback, and on loopback where the machine has other users. The Host header
must be an address of this server, or another site could point its name at it (DNS rebinding). An Origin header must be
our own.
"""

import hashlib
import hmac
import ipaddress
import os
import pwd
import secrets
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from buffer.errors import ConfigError

TOKEN_VARIABLE = "TRIBUTARY_DASHBOARD_TOKEN"
"""Environment variable with the token. If it is unset and a token is required, a random one is created and printed. An
empty one means that loopback needs none."""
FIRST_USER = 1000
"""The first user id of a person on Linux."""
SERVICES = range(60_000, 65_536)
"""Ids of services and containers. Those above are of a directory, such as LDAP, whose users a machine does not list."""
MIN_TOKEN_LENGTH = 16
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
OPEN_PATHS = ("/api/login", "/api/logout")
"""API paths that need no token. The page and its files need none either: they contain no data of a run."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}


@dataclass(frozen=True, slots=True)
class Access:
    """The access rules of one server."""

    token: str | None
    """None: no token is required."""
    hosts: frozenset[str]
    """Allowed Host names, without port, in lower case."""
    cookie: str
    """Name of the cookie. It contains the port, since browsers share cookies between the ports of a host."""

    @property
    def session(self) -> str:
        """The value of the cookie: it proves that the client had the token, which cannot be derived from it."""
        return hmac.new((self.token or "").encode(), b"tributary dashboard session", hashlib.sha256).hexdigest()

    def is_token(self, candidate: str) -> bool:
        """True if `candidate` is the token, compared in constant time."""
        digests = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (candidate, self.token or "")]
        return self.token is not None and hmac.compare_digest(*digests)

    def admits(self, headers: Headers) -> bool:
        """True if a request carries the token, or the cookie that login set."""
        if self.token is None:
            return True
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(credentials.strip()):
            return True
        return hmac.compare_digest(_cookie(headers, self.cookie).encode("utf-8", "replace"), self.session.encode())


def token_for_loopback() -> str | None:
    """The token of TOKEN_VARIABLE; without that a random one where the machine has other users, else None."""
    chosen = os.environ.get(TOKEN_VARIABLE)
    return (chosen or None) if chosen is not None or not has_other_users() else secrets.token_urlsafe(24)


def shown_token(token: str | None) -> str | None:
    """The token to print: a random one; None where the user chose it, or none is needed."""
    return None if os.environ.get(TOKEN_VARIABLE) else token


def has_other_users() -> bool:
    """True if somebody else may log in to this machine, as far as its list of users and our own id tell."""
    return os.getuid() >= SERVICES.stop or any(
        user.pw_uid >= FIRST_USER
        and user.pw_uid not in SERVICES
        and user.pw_uid != os.getuid()
        and not user.pw_shell.endswith(("nologin", "false"))
        for user in pwd.getpwall()
    )


def access(host: str, port: int, token: str | None, public_hosts: tuple[str, ...] = ()) -> Access:
    """Access rules for a server that listens on `host`; beyond loopback there is a token even without `token`. Raise
    ConfigError for one that is too short."""
    if token is not None and len(token) < MIN_TOKEN_LENGTH:
        raise ConfigError(
            f"{TOKEN_VARIABLE} has {len(token)} characters and needs at least {MIN_TOKEN_LENGTH}, or it can be "
            "guessed. Choose a longer one, or unset it to get a random one."
        )
    names = {*LOOPBACK_NAMES, *(name.lower() for name in public_hosts)}
    if not is_loopback(host):
        token = token or secrets.token_urlsafe(24)
        names |= {_bracketed(host), socket.gethostname().lower(), socket.getfqdn().lower()}
    return Access(token, frozenset(names), f"tributary_dashboard_{port}")


def is_loopback(host: str) -> bool:
    """True if only this machine can reach `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware: rejects forbidden requests before any route sees them, and adds HEADERS to every response."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = str(scope["path"])

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers["cache-control"] = "no-store" if path.startswith("/api/") else "no-cache"
            await send(message)

        rejection = self._rejection(path, Headers(scope=scope))
        await (rejection or self._app)(scope, receive, with_headers)

    def _rejection(self, path: str, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or _name(host) not in self._access.hosts:
            return _error(
                421,
                "this Host is not a name of this server. Use the address that it printed, or --public-host NAME.",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return _error(403, "a page of another site may not call this server. Open the address that it printed.")
        if path.startswith("/api/") and path not in OPEN_PATHS and not self._access.admits(headers):
            return _error(401, "the token is missing or wrong. The server printed it when it started.")
        return None


def _error(status: int, sentence: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status)


def _name(host: str) -> str:
    """A Host header without its port."""
    name, colon, port = host.lower().rpartition(":")
    return name if colon and port.isdigit() else host.lower()


def _bracketed(host: str) -> str:
    return f"[{host.lower()}]" if ":" in host else host.lower()


def _cookie(headers: Headers, name: str) -> str:
    """The value of one cookie; malformed cookies of other servers on this host are ignored."""
    pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
    return next((value for key, _, value in pairs if key == name), "")
