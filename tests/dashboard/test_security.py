"""Access control: token, Host, Origin; and the security headers of every response."""

import os
import re
from http.cookies import SimpleCookie
from pathlib import Path
from types import SimpleNamespace

import pytest

from buffer.errors import ConfigError
from deploy.dashboard.web import security
from deploy.dashboard.web.security import HEADERS, TOKEN_VARIABLE, access, is_loopback, token_for_loopback

TOKEN = "a-token-of-enough-characters"
ROUTES = (
    *(
        "runs",
        "overview",
        "catalog",
        "curves",
        "curves.csv",
        "buffer",
        "rewards",
        "posterior",
        "actors",
        "prompts",
        "samples",
        "samples/1",
    ),
    *("before-after", "events", "compare", "stream", "nothing-of-this-name", "../api/runs"),
)
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("route", ROUTES)
def test_no_route_answers_without_the_token(client, finished, route, method):
    with client(finished, token=TOKEN) as page:
        answer = page.request(method, f"/api/{route}")
        assert answer.status_code == 401
        assert "run" not in (answer.json() if method != "HEAD" else {})


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": "Bearer wrong-token-of-enough-characters"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"cookie": f"tributary_dashboard_8710={TOKEN}"},
        {"cookie": "tributary_dashboard_8710="},
        {"cookie": "tributary_dashboard_8710=\xff; a"},
        {"cookie": "; ; =; tributary_dashboard_8710"},
    ],
)
def test_a_wrong_token_or_cookie_is_refused(client, finished, headers):
    with client(finished, token=TOKEN) as page:
        raw = {name: value.encode("latin-1") for name, value in headers.items()}
        assert page.get("/api/runs", headers=raw).status_code == 401


def test_the_token_opens_as_a_header_and_as_a_cookie_given_for_it(client, finished):
    with client(finished, token=TOKEN) as page:
        assert page.get("/api/runs", headers={"authorization": f"Bearer {TOKEN}"}).status_code == 200
        answer = page.post("/api/login", json={"token": TOKEN})
        assert answer.status_code == 204
        cookie = SimpleCookie(answer.headers["set-cookie"])["tributary_dashboard_8710"]
        assert cookie["httponly"] and cookie["samesite"].lower() == "strict" and cookie["path"] == "/"
        assert TOKEN not in answer.headers["set-cookie"]
        assert page.get("/api/runs").json()["token_required"] is True
        assert page.post("/api/logout").status_code == 204
        assert page.get("/api/runs").status_code == 401


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b'{"token": "wrong"}', "application/json", 401),
        (b'{"token": "a-token-of-enough-characters"}', "text/plain", 400),
        (b'{"token": "a-token-of-enough-characters", "more": 1}', "application/json", 400),
        (b'{"token": 7}', "application/json", 400),
        (b"[]", "application/json", 400),
        (b"", "application/json", 400),
        (b"x" * 2000, "application/json", 400),
    ],
)
def test_login_takes_a_token_and_nothing_else(client, finished, body, kind, status):
    with client(finished, token=TOKEN) as page:
        answer = page.post("/api/login", content=body, headers={"content-type": kind})
        assert answer.status_code == status and "set-cookie" not in answer.headers


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8710",
        "127.0.0.1.evil.example",
        "localhost.evil.example:8710",
        "",
        "[::2]:8710",
        "127.0.0.1@evil.example",
    ],
)
def test_a_host_that_is_not_ours_is_refused_so_that_no_name_can_be_rebound_to_us(client, finished, host):
    with client(finished) as page:
        for path in ("/", "/api/runs", "/static/nothing.js"):
            assert page.get(path, headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["127.0.0.1:8710", "localhost:8710", "LOCALHOST:1", "[::1]:8710", "localhost"])
def test_loopback_names_are_ours_whatever_the_port_of_a_tunnel(client, finished, host):
    with client(finished) as page:
        assert page.get("/api/runs", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:9999",
        "http://127.0.0.1",
        "file://",
        "http://127.0.0.1:8710.evil.example",
    ],
)
def test_a_page_of_another_origin_gets_nothing(client, finished, origin):
    with client(finished) as page:
        assert page.get("/api/runs", headers={"origin": origin}).status_code == 403
        assert page.post("/api/login", json={"token": TOKEN}, headers={"origin": origin}).status_code == 403


def test_our_own_origin_may_ask(client, finished):
    with client(finished) as page:
        assert page.get("/api/runs", headers={"origin": "http://127.0.0.1:8710"}).status_code == 200


@pytest.mark.parametrize("path", ["/", "/api/runs", "/api/nothing", "/static/nothing.js", "/nothing"])
def test_every_answer_forbids_what_a_page_of_ours_never_does(client, finished, path):
    with client(finished) as page:
        headers = page.get(path).headers
        for name, value in HEADERS.items():
            assert headers[name] == value
        assert "access-control-allow-origin" not in headers and "server" not in headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "*" not in policy and "http" not in policy


def test_a_refusal_carries_the_same_headers(client, finished):
    with client(finished, token=TOKEN) as page:
        answer = page.get("/api/runs")
        assert (
            answer.status_code == 401
            and answer.headers["content-security-policy"] == HEADERS["content-security-policy"]
        )
        assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py", "/static/%2e%2e/server.py", "/static/..%2fserver.py", "/static/%2e%2e%2f%2e%2e%2fcli.py", "/static//etc/passwd", "/static/....//server.py",
        "/static/..%5cserver.py", "/api/overview?run=../finished", "/api/overview?run=/etc", "/api/overview?run=finished/..", "/api/overview?run=%00", "/%2e%2e/pyproject.toml",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_static_files_and_the_named_runs(client, finished, path):
    with client(finished) as page:
        answer = page.get(path)
        assert answer.status_code == 404
        assert "import" not in answer.text and "root:" not in answer.text


@pytest.mark.parametrize(
    ("method", "path"),
    [
        (method, path)
        for method in ("POST", "PUT", "DELETE", "PATCH")
        for path in ("/", "/api/runs", "/api/curves", "/api/samples/1", "/static/x.js")
    ],
)
def test_nothing_can_be_written(client, finished, method, path):
    with client(finished) as page:
        assert page.request(method, path).status_code == 405


def test_a_token_is_needed_beyond_loopback_and_made_where_none_is_given():
    rules = access("0.0.0.0", 8710, None)
    assert rules.token is not None and len(rules.token) >= 24
    assert access("0.0.0.0", 8710, None).token != rules.token
    assert access("127.0.0.1", 8710, None).token is None
    assert access("127.0.0.1", 8710, TOKEN).token == TOKEN


@pytest.mark.parametrize(
    ("others", "chosen", "needs"),
    [
        ([(1000, "/bin/bash")], None, True),
        ([(1000, "/usr/sbin/nologin"), (999, "/bin/bash"), (65534, "/bin/sh")], None, False),
        ([(1000, "/bin/bash")], "", False),
        ([], TOKEN, True),
        ([], None, False),
    ],
    ids=["a person", "services", "opened to all", "a token of one's own", "nobody else"],
)
def test_loopback_needs_a_token_where_the_machine_has_other_users(monkeypatch, others, chosen, needs):
    own = SimpleNamespace(pw_uid=os.getuid(), pw_shell="/bin/bash")
    users = [own, *(SimpleNamespace(pw_uid=uid, pw_shell=shell) for uid, shell in others)]
    monkeypatch.setattr(security.pwd, "getpwall", lambda: users)
    if chosen is None:
        monkeypatch.delenv(TOKEN_VARIABLE)
    else:
        monkeypatch.setenv(TOKEN_VARIABLE, chosen)
    token = token_for_loopback()
    assert (token is not None) is needs and (chosen is None or token == (chosen or None))
    assert token != token_for_loopback() or chosen is not None or not needs, "a new one each time"


def test_a_short_token_is_refused_with_its_length():
    with pytest.raises(ConfigError, match=re.escape("has 5 characters and needs at least 16")):
        access("127.0.0.1", 8710, "short")


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.1.5", False),
        ("a.example", False),
    ],
)
def test_loopback_is_recognised_by_its_address(host, loopback):
    assert is_loopback(host) is loopback


def test_a_public_name_is_ours_only_when_it_was_given():
    assert "box.example" in access("0.0.0.0", 8710, TOKEN, ("Box.example",)).hosts
    assert "box.example" not in access("0.0.0.0", 8710, TOKEN).hosts


def test_looking_leaves_the_run_folder_as_it_was(client, finished: Path):
    def contents() -> dict[str, bytes]:
        return {str(path.relative_to(finished)): path.read_bytes() for path in finished.rglob("*") if path.is_file()}

    before = contents()
    with client(finished) as page:
        for route in (
            "runs",
            "overview",
            "catalog",
            "buffer",
            "rewards",
            "posterior",
            "actors",
            "prompts",
            "samples",
            "events",
            "curves?names=learner.loss",
        ):
            assert page.get(f"/api/{route}").status_code == 200
        assert contents() == before


def test_the_history_is_opened_so_that_not_even_a_mistake_could_write(finished: Path):
    import sqlite3

    from deploy.dashboard.data.run_reader import RunReader

    reader = RunReader(finished, "finished", primary=True)
    reader.refresh()
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader._open().execute("DELETE FROM learner")
    reader.close()
