"""Start the buffer's Redis in a container: users from deploy/redis/users.acl, their passwords from secret files.

usage: serve_redis.py MAXMEMORY      such as 512mb. This process becomes the server, so signals reach it.
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
"""The user of the container's health check: it may send PING and nothing else."""
MIN_PASSWORD_LENGTH = 16
"""Characters. The server answers a hundred thousand guesses per second, so a short password is not enough."""


def users(template: str, secrets: Path) -> str:
    """The users' file: those users of the template whose password is in `secrets` as redis_NAME.

    Only hashes are written. Raises ConfigError for a password that is too short, or if no user has one.
    """
    lines, users_with_password = [HEALTH], 0
    for line in template.splitlines():
        if NO_PASSWORD not in line:
            lines.append(line)
            continue
        secret = secrets / f"redis_{line.split()[1]}"
        if secret.is_file():
            lines.append(line.replace(NO_PASSWORD, "#" + hashlib.sha256(_password(secret)).hexdigest()))
            users_with_password += 1
    if not users_with_password:
        raise ConfigError(f"{secrets} has no file redis_NAME for any user of {TEMPLATE.name}. Create them: {_FIX}")
    return "\n".join(lines) + "\n"


_FIX = "sh deploy/docker/secrets.sh"


def _password(secret: Path) -> bytes:
    try:
        password = secret.read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"{secret} can't be read ({error.strerror}): it must be readable by user {os.getuid()}. Create it: {_FIX}"
        ) from error
    if len(password) < MIN_PASSWORD_LENGTH:
        raise ConfigError(
            f"{secret} has {len(password)} characters; a password needs {MIN_PASSWORD_LENGTH} or more. "
            f"Create it: {_FIX}"
        )
    return password


def main() -> None:
    """Write the users' file, then become the server."""
    if len(sys.argv) != 2:
        raise ConfigError(f"serve_redis.py needs one argument, MAXMEMORY, such as 512mb; got {sys.argv[1:]}")
    USERS.touch(mode=0o600)
    USERS.write_text(users(TEMPLATE.read_text(), SECRETS))
    binary = str(find_server()[0])
    os.execv(binary, [binary, str(HERE / "redis.conf"), "--maxmemory", sys.argv[1]])


if __name__ == "__main__":
    try:
        main()
    except TributaryError as error:
        sys.exit(f"Redis does not start: {error}")
