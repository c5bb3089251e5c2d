"""One JSON request to an HTTP endpoint, repeated while the endpoint is down: an error is never a reward.

Connection errors, time-outs and the codes 408, 425, 429 and 5xx are repeated with growing pauses, for `patience_s` in
all. Anything else that is not the expected JSON is an error at once.
"""

import json
import os
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from buffer.errors import RewardError

FIRST_PAUSE_S = 0.5
MAX_PAUSE_S = 15.0
IMPATIENT_S = 5.0
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Codes of an endpoint that may answer later."""


_impatient = False


@contextmanager
def impatient() -> Iterator[None]:
    """Within it an endpoint that is down is an error after IMPATIENT_S: for checks before a run."""
    global _impatient
    _impatient = True
    try:
        yield
    finally:
        _impatient = False


class Endpoint:
    """A client of one address. Several threads may use it."""

    def __init__(self, url: str, token_env: str | None, limit_s: float, patience_s: float) -> None:
        """`token_env`: the environment variable with the bearer token, read at each request."""
        self._url = url
        self._token_env = token_env
        self._patience_s = patience_s
        self._client = httpx.Client(timeout=limit_s, follow_redirects=False)

    def deadline(self) -> float:
        """The moment of the monotonic clock at which patience ends that begins now: one for all requests of a call."""
        return time.monotonic() + (min(self._patience_s, IMPATIENT_S) if _impatient else self._patience_s)

    def post(self, body: Mapping[str, object], deadline: float) -> Any:
        """The JSON value of the answer. RewardError, with the last reason, if there is none by `deadline`."""
        pause_s, content = FIRST_PAUSE_S, json.dumps(body, default=str).encode()
        while True:
            try:
                answer = self._client.post(self._url, content=content, headers=self._headers())
                if answer.status_code not in PASSING:
                    return self._json(answer)
                reason, wait_s = f"answered {answer.status_code}", _retry_after(answer)
            except httpx.TransportError as error:
                reason, wait_s = f"can't be reached ({str(error) or type(error).__name__})", 0.0
            pause = max(wait_s, pause_s * random.uniform(0.5, 1.0))
            if time.monotonic() + pause > deadline:
                raise RewardError(f"{self._url} {reason} for longer than its patience_s allows")
            time.sleep(pause)
            pause_s = min(2.0 * pause_s, MAX_PAUSE_S)

    def _headers(self) -> dict[str, str]:
        kind = {"Content-Type": "application/json"}
        if self._token_env is None:
            return kind
        if not (token := os.environ.get(self._token_env)):
            raise RewardError(f"the environment variable {self._token_env} (token_env) is not set for {self._url}")
        return {**kind, "Authorization": f"Bearer {token}"}

    def _json(self, answer: httpx.Response) -> Any:
        if answer.status_code != 200:
            raise RewardError(f"{self._url} answered {answer.status_code}: {' '.join(answer.text.split())[:200]!r}")
        try:
            return answer.json()
        except ValueError:
            kind = answer.headers.get("content-type", "no content type")
            raise RewardError(f"{self._url} answered {kind} instead of JSON: {answer.text[:80]!r}") from None


def _retry_after(answer: httpx.Response) -> float:
    """Seconds that the endpoint wants to be left alone; 0 if it does not say."""
    value = answer.headers.get("retry-after", "")
    return min(float(value), MAX_PAUSE_S) if value.isdecimal() else 0.0
