"""Who may look: Host, Origin, token; and the headers that keep a page from doing what it should not.

Where the server listens on loopback only, being on the machine is enough, unless a token is set. Anywhere else a token
is needed. The Host header must be an address of this server's, or another site's name could be pointed at it (DNS
rebinding); an Origin must be our own.
"""

import hashlib
import hmac
import ipaddress
import secrets
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from buffer.errors import ConfigError

TOKEN_VARIABLE = "TRIBUTARY_DASHBOARD_TOKEN"
"""Environment variable with the token; where it is not set and one is needed, a random one is made and printed."""
SHORTEST_TOKEN = 16
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")
OPEN_PATHS = ("/api/login", "/api/logout")
"""What answers without a token: apart from these, the page and its files, which hold nothing of a run."""
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
    """The rules of one server."""

    token: str | None
    """None: nobody is asked."""
    hosts: frozenset[str]
    """Names it may be called by, without port, lower case."""
    cookie: str
    """Name of the cookie: it has the port in it, since browsers don't tell ports apart."""

    @property
    def session(self) -> str:
        """What the cookie holds: proof that the token was known, and no way back to it."""
        return hmac.new((self.token or "").encode(), b"tributary dashboard session", hashlib.sha256).hexdigest()

    def is_token(self, given: str) -> bool:
        """Whether `given` is the token, in a time that does not tell how much of it is right."""
        digests = [hashlib.sha256(text.encode("utf-8", "replace")).digest() for text in (given, self.token or "")]
        return self.token is not None and hmac.compare_digest(*digests)

    def admits(self, headers: Headers) -> bool:
        """Whether a request carries the token, or the cookie that was given for it."""
        if self.token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self.is_token(given.strip()):
            return True
        return hmac.compare_digest(_cookie(headers, self.cookie).encode("utf-8", "replace"), self.session.encode())


def access(host: str, port: int, token: str | None, public_hosts: tuple[str, ...] = ()) -> Access:
    """Rules for a server that listens on `host`. Raise ConfigError for a token that can be guessed."""
    if token is not None and len(token) < SHORTEST_TOKEN:
        raise ConfigError(
            f"{TOKEN_VARIABLE} has {len(token)} characters and needs at least {SHORTEST_TOKEN}, or it can be guessed. "
            "Unset it to have a random one made."
        )
    names = {*LOOPBACK_NAMES, *(name.lower() for name in public_hosts)}
    if not is_loopback(host):
        token = token or secrets.token_urlsafe(24)
        names |= {_bracketed(host), socket.gethostname().lower(), socket.getfqdn().lower()}
    return Access(token, frozenset(names), f"tributary_dashboard_{port}")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Guard:
    """ASGI middleware: refuses what the rules forbid before anything else sees it, and adds HEADERS to each answer."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
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

        refusal = self._refusal(path, Headers(scope=scope))
        await (refusal or self._app)(scope, receive, with_headers)

    def _refusal(self, path: str, headers: Headers) -> JSONResponse | None:
        host = headers.get("host", "")
        if len(headers.getlist("host")) != 1 or _name(host) not in self._access.hosts:
            return _error(
                421,
                "this server is not called by this Host. Use the address it printed, or name it with --public-host.",
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return _error(403, "a page of another site may not ask this server.")
        if path.startswith("/api/") and path not in OPEN_PATHS and not self._access.admits(headers):
            return _error(401, "the token is missing or wrong. The server printed it when it was started.")
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
    """The value of one cookie; others on this host may be as odd as they like."""
    pairs = (part.strip().partition("=") for part in headers.get("cookie", "").split(";"))
    return next((value for key, _, value in pairs if key == name), "")
