"""The buffer's Lua scripts, one attribute each; the contract of each stands at the top of its file in lua/."""

from functools import cache
from pathlib import Path

import redis

_FOLDER = Path(__file__).parent / "lua"


@cache
def _source(name: str) -> str:
    return "\n".join((_FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in ("shared", name))


class Scripts:
    """Bound to one client. A server that restarted and forgot them gets them again by itself."""

    def __init__(self, client: redis.Redis) -> None:
        self.add = client.register_script(_source("add"))
        self.draw = client.register_script(_source("draw"))
        self.reprioritize = client.register_script(_source("reprioritize"))
        self.remove = client.register_script(_source("remove"))
        self.clear = client.register_script(_source("clear"))
