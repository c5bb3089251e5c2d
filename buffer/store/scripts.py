"""The buffer's Lua scripts, and the protocol of calling them: a lost reply, another epoch, other settings.

The contract of each script stands at the top of its file in lua/.
"""

import hashlib
import json
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, cast

import msgpack
import redis

from buffer.errors import StoreError
from buffer.store.keys import Keys
from buffer.store.settings import LAYOUT

_FOLDER = Path(__file__).parent / "lua"
NAMES = ("add", "draw", "reprioritize", "remove", "clear", "publish")
LOAD_LIMIT_S = 30.0
"""A client without the right to load scripts waits as long for the driver, which loads them again after a restart of
the server, s."""
_POLL_S = 0.1


class Scripts:
    """The scripts of one store under one set of rules. One object is for one process; its threads may share it.

    Every call names the epoch that the last one saw: a store that was cleared or emptied meanwhile raises StoreError.
    """

    def __init__(self, client: redis.Redis, keys: Keys, settings_json: str) -> None:
        self._client = client
        self._keys = keys
        self._settings_json = settings_json
        self._epoch = ""
        self._add_replies, self._draw_replies = (_ReplyKeys(keys, kind) for kind in ("add", "draw"))

    def add(self, records: list[bytes], args: list[Any]) -> list[Any] | None:
        """Put `records` (digest, record, digest, ...) into the store and admit their items; None for 'wait'.

        The records go into their hash by themselves, in one transaction with the script that admits their items.
        """
        with self._add_replies.call() as (key, nonce):
            keys = [self._keys.payload, key]
            args = [nonce, self._epoch, _new_epoch(), self._settings_json, *args]
            load = _Loader(self._client)
            while True:
                with self._client.pipeline(transaction=True) as pipe:
                    if records:
                        pipe.hset(self._keys.payload, items=records)
                    pipe.evalsha(_sha("add"), len(keys), *keys, *args)
                    try:
                        return self._unpack(bytes(pipe.execute()[-1]))
                    except redis.exceptions.ExecAbortError as error:
                        if "OOM" in str(error):  # detected at EXEC, not when the command was queued
                            raise redis.OutOfMemoryError(str(error)) from error
                        raise
                    except redis.exceptions.NoScriptError:  # a restarted server; the same call may be sent again
                        load("add")

    def draw(self, seed: int, args: list[Any]) -> list[Any] | None:
        """The fields of draw's reply; None for 'wait'."""
        with self._draw_replies.call() as (key, nonce):
            args = [nonce, self._epoch, self._settings_json, seed, *args]
            return self._unpack(self._run("draw", [self._keys.payload, key], args))

    def reprioritize(self, updates: bytes) -> int:
        """The number of items updated."""
        return self._count("reprioritize", [updates])

    def remove(self, args: list[Any]) -> int:
        """The number of items removed."""
        return self._count("remove", args)

    def clear(self) -> None:
        """Delete the store and begin a new epoch."""
        args = [_new_epoch(), self._settings_json]
        self._epoch = self._run("clear", [self._keys.payload], args).decode()

    def publish(self, lease: str, version: int) -> bool:
        """Note a version; False, and nothing is changed, where the lease is another's."""
        return bool(self._run("publish", [self._keys.payload], [lease, version]))

    def load(self) -> bool:
        """Load the scripts that the server lacks; True if it lacked one. Clients that may load any load those that they
        call, never all of them."""
        present: Any = self._client.script_exists(*map(_sha, NAMES))
        for name, exists in zip(NAMES, present, strict=True):
            if not exists:
                self._client.script_load(_source(name))
        return not all(present)

    def _run(self, name: str, keys: list[str], args: list[Any]) -> Any:
        load = _Loader(self._client)
        while True:
            try:
                return self._client.evalsha(_sha(name), len(keys), *keys, *args)
            except redis.exceptions.NoScriptError:
                load(name)

    def _count(self, name: str, args: list[Any]) -> int:
        reply = self._unpack(self._run(name, [self._keys.payload], [self._epoch, self._settings_json, *args]))
        return 0 if reply is None else int(reply[0])

    def _unpack(self, packed: bytes) -> list[Any] | None:
        """A reply without its status and epoch; None for 'wait'."""
        status, *reply = cast(list[Any], msgpack.unpackb(packed, raw=True))
        if status == b"lost":
            raise StoreError(
                f"the buffer that this process used is gone (epoch {self._epoch}, now {reply[0].decode() or 'none'}): "
                "someone cleared it or emptied the server, or the server's maxmemory-policy evicts keys: set it to "
                "noeviction. Start the run again, or resume it from its checkpoint."
            )
        if status == b"settings":
            if json.loads(reply[0]).get("layout", 1) != LAYOUT:
                raise StoreError(
                    f"another release of Tributary wrote the buffer, in another layout ({reply[0].decode()}); this one "
                    f"reads layout {LAYOUT}. Use that release, or clear the buffer."
                )
            raise StoreError(
                f"the buffer is kept under {reply[0].decode()}, this process has {self._settings_json}: all processes "
                "that share a buffer need the same [buffer] settings. Use another name, or clear the buffer."
            )
        if status == b"wait":
            return None
        self._epoch = reply[0].decode()
        return reply[1:]


class _Loader:
    """Loads a script, or waits for a client that may. NoPermissionError after LOAD_LIMIT_S."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._deadline = time.monotonic() + LOAD_LIMIT_S

    def __call__(self, name: str) -> None:
        """Return once the script is loaded, or may have been."""
        try:
            self._client.script_load(_source(name))
        except redis.exceptions.NoPermissionError:
            if time.monotonic() > self._deadline:
                raise
            time.sleep(_POLL_S)


class _ReplyKeys:
    """The keys where calls of one kind leave their replies: as many as there are calls under way at once."""

    def __init__(self, keys: Keys, kind: str) -> None:
        self._keys = keys
        self._kind = kind
        self._free: list[str] = []
        """Appending and popping are atomic."""

    @contextmanager
    def call(self) -> Iterator[tuple[str, str]]:
        """The key and the nonce of one call; no other call uses the key until this one is over."""
        try:
            key = self._free.pop()
        except IndexError:
            key = self._keys.reply(f"{self._kind}:{secrets.token_hex(8)}")
        yield key, secrets.token_hex(8)
        self._free.append(key)  # not after an error: the call may still be on its way


def _new_epoch() -> str:
    """A name that no other life of a store has."""
    return secrets.token_hex(8)


@cache
def _source(name: str) -> str:
    return "\n".join((_FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in ("shared", name))


@cache
def _sha(name: str) -> str:
    """What EVALSHA calls the script by."""
    return hashlib.sha1(_source(name).encode(), usedforsecurity=False).hexdigest()
