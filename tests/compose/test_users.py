"""Users of a container's Redis are made from the template and the secret files; passwords are written only as hashes."""

import subprocess
from pathlib import Path

import pytest
import redis

from buffer.errors import ConfigError
from buffer.server.binaries import find_server
from buffer.server.connect import connect
from deploy.docker.serve_redis import HEALTH, MIN_PASSWORD_LENGTH, TEMPLATE, users
from tests.compose.engine import ROOT

PASSWORD = "only-for-this-test"


def give(secrets: Path, name: str, password: str = PASSWORD) -> None:
    (secrets / f"redis_{name}").write_text(f"{password}\n")


def test_users_without_a_secret_are_left_out_and_no_password_is_written(tmp_path: Path) -> None:
    give(tmp_path, "driver")
    written = users(TEMPLATE.read_text(), tmp_path)
    assert [line.split()[1] for line in written.splitlines()] == ["health", "default", "driver"]
    assert PASSWORD not in written and written.splitlines()[0] == HEALTH


def test_a_server_accepts_its_users_with_their_passwords_and_nobody_else(tmp_path: Path) -> None:
    give(tmp_path, "driver")
    (tmp_path / "users.acl").write_text(users(TEMPLATE.read_text(), tmp_path))
    socket = tmp_path / "socket"
    config = ["--port", "0", "--unixsocket", str(socket), "--aclfile", str(tmp_path / "users.acl"), "--save", ""]
    with subprocess.Popen([find_server()[0], *config], cwd=tmp_path, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout
        try:
            assert any("Ready to accept" in line for line in server.stdout)
            connect(f"unix://driver:{PASSWORD}@{socket}").set("{tributary:x}:counters", "1")
            health = connect(f"unix://health:anything@{socket}")
            with pytest.raises(redis.exceptions.NoPermissionError):
                health.get("{tributary:x}:counters")
            for stranger in ("", f"admin:{PASSWORD}@", "driver:wrong@"):
                with pytest.raises(redis.AuthenticationError):
                    redis.Redis.from_url(f"unix://{stranger}{socket}").ping()
        finally:
            server.terminate()


def test_a_short_password_is_refused_with_the_constraint_and_not_shown(tmp_path: Path) -> None:
    short = "s3cret"
    give(tmp_path, "driver", short)
    with pytest.raises(ConfigError, match=f"has 6 characters; a password needs {MIN_PASSWORD_LENGTH}") as error:
        users(TEMPLATE.read_text(), tmp_path)
    assert short not in str(error.value)


def test_no_secret_at_all_is_an_error_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"sh deploy/docker/secrets\.sh"):
        users(TEMPLATE.read_text(), tmp_path)


def test_secrets_are_made_once_for_their_owner_alone(tmp_path: Path) -> None:
    folder = tmp_path / "secrets"
    subprocess.run(["sh", ROOT / "deploy" / "docker" / "secrets.sh", folder], check=True)
    made = {file.name: file.read_text() for file in folder.iterdir()}
    subprocess.run(["sh", ROOT / "deploy" / "docker" / "secrets.sh", folder], check=True)
    assert {file.name: file.read_text() for file in folder.iterdir()} == made
    assert len(set(made.values())) == len(made) == 6 and {len(text) for text in made.values()} == {64}
    assert folder.stat().st_mode & 0o777 == 0o700
