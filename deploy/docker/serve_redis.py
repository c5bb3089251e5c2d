"""Start the buffer's Redis in a container: users from deploy/redis/users.acl, their passwords from secret files.

usage: serve_redis.py MAXMEMORY      such as 512mb. Becomes the server, so signals reach it.
"""

import hashlib
import os
import sys
from pathlib import Path

from buffer.errors import ConfigError, TributaryError
from buffer.server.binaries import find_server

HERE = Path(__file__).parent
TEMPLATE = HERE.parent / "redis" / "users.acl"
SECRETS = Path("/run/secrets")
USERS = Path("/run/redis/users.acl")
NO_PASSWORD = "#" + 64 * "0"
HEALTH = "user health on nopass resetchannels -@all +ping"
"""Whom the container's health check comes as: it may ask whether the server is there, and nothing else."""
MIN_PASSWORD = 16
"""Characters. A server that answers a hundred thousand guesses a second needs more than a word."""


def users(template: str, secrets: Path) -> str:
    """The users' file: of the template's users those whose password is in `secrets` as redis_NAME.

    Only hashes are written. Raise ConfigError for a password that is too short, or where no user has one.
    """
    lines, found = [HEALTH], 0
    for line in template.splitlines():
        if NO_PASSWORD not in line:
            lines.append(line)
            continue
        secret = secrets / f"redis_{line.split()[1]}"
        if secret.is_file():
            lines.append(line.replace(NO_PASSWORD, "#" + hashlib.sha256(_password(secret)).hexdigest()))
            found += 1
    if not found:
        raise ConfigError(f"{secrets} has no redis_NAME for any user of {TEMPLATE.name}; make them: {_REMEDY}")
    return "\n".join(lines) + "\n"


_REMEDY = "sh deploy/docker/secrets.sh"


def _password(secret: Path) -> bytes:
    try:
        password = secret.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"{secret} can't be read ({error.strerror}); user {os.getuid()} must be able to. Make it: {_REMEDY}"
        ) from error
    if len(password) < MIN_PASSWORD:
        raise ConfigError(
            f"{secret} has {len(password)} characters, a password needs {MIN_PASSWORD} or more. Make one: {_REMEDY}"
        )
    return password


def main() -> None:
    """Write the users' file, then become the server."""
    if len(sys.argv) != 2:
        raise ConfigError(f"serve_redis.py takes one argument, MAXMEMORY, not {sys.argv[1:]}; such as 512mb")
    USERS.touch(mode=0o600)
    USERS.write_text(users(TEMPLATE.read_text(), SECRETS))
    binary = str(find_server()[0])
    os.execv(binary, [binary, str(HERE / "redis.conf"), "--maxmemory", sys.argv[1]])


if __name__ == "__main__":
    try:
        main()
    except TributaryError as error:
        sys.exit(f"Redis does not start: {error}")
