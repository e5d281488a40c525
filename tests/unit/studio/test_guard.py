"""Who may ask the studio: 40 requests of foreign pages, hosts and paths are refused; the page's own are answered."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from tests.unit.studio.conftest import HOST, PORT
from xaikit.studio.guard import RequestGuard, read_secret

ORIGIN = f"http://{HOST}"
HOSTS = ["evil.example", f"evil.example:{PORT}", "127.0.0.1", "127.0.0.1:1", "127.0.0.1.evil.example:8431",
         f"{HOST}@evil.example", "", f"10.0.0.5:{PORT}", "[::1", f"127.0.0.1:{PORT}/x"]  # fmt: skip
ORIGINS = ["http://evil.example", "null", "https://127.0.0.1:8431", "http://127.0.0.1:1", "http://localhost:8431",
           "", f"{ORIGIN}.evil.example", "file://"]  # fmt: skip
PATHS = ["/static/../guard.py", "/static/%2e%2e/guard.py", "/static/..%2fguard.py", "/api/jobs/../../secret/result",
         "/static/..\\guard.py", "/static/%5c..%5cguard.py", "/static/index.html%00.js", "/../../../etc/passwd",
         "/api/jobs/%2E%2E/report.html", "//etc/../passwd"]  # fmt: skip
SECRETS = ["", "xaikit-studio-8431=wrong", "xaikit-studio-1=SECRET", "other=SECRET", "xaikit-studio-8431=",
           "xaikit-studio-8431=secret"]  # fmt: skip
CHANGES = ["cross-site", "same-site", "none", "cross-origin"]


@pytest.fixture
def caller(called, runs):
    return called(runs[0])


def foreign(secret):
    """40 requests; each lacks exactly one thing."""
    own = {"host": HOST, "cookie": f"xaikit-studio-{PORT}={secret}", "sec-fetch-site": "same-origin"}
    yield from (("GET", "/api/state", {**own, "host": host}) for host in HOSTS)
    yield from (("POST", "/api/marks", {**own, "origin": origin}) for origin in ORIGINS)
    yield from (("GET", path, own) for path in PATHS)
    yield from (("GET", "/api/state", {**own, "cookie": c.replace("SECRET", secret)}) for c in SECRETS)
    yield from (("POST", "/api/jobs", {**own, "sec-fetch-site": site}) for site in CHANGES)
    yield "GET", "/?key=wrong", {"host": HOST}
    yield "POST", f"/?key={secret}", {"host": HOST, "origin": ORIGIN}


def test_forty_foreign_requests_are_refused(caller):
    requests = list(foreign(caller.secret))
    assert len(requests) == 40
    answers = [(caller.raw(*request, b"{}")[0], request) for request in requests]
    assert [a for a in answers if a[0] != 403] == []


def test_two_hosts_or_origins_at_once_are_refused(caller):
    own = [("host", HOST), ("cookie", caller.cookie)]
    assert caller.raw("GET", "/api/state", [*own, ("host", HOST)])[0] == 403
    assert caller.raw("GET", "/api/state", [*own, ("origin", ORIGIN), ("origin", ORIGIN)])[0] == 403


def test_the_link_gives_the_cookie_and_the_page(caller):
    status, headers, content = caller.raw("GET", f"/?key={caller.secret}", {"host": HOST})
    assert status == 200
    assert b"xaikit <b>studio</b>" in content
    assert headers["set-cookie"].startswith(f"{caller.cookie}; HttpOnly; SameSite=Strict")
    assert "script-src 'self'" in headers["content-security-policy"]
    # The page itself asks with the cookie, from each of the server's own names.
    for host in (HOST, f"localhost:{PORT}", f"[::1]:{PORT}"):
        assert caller.raw("GET", "/api/state", {"host": host, "cookie": caller.cookie})[0] == 200


def test_static_files_are_a_table(caller):
    own = {"host": HOST, "cookie": caller.cookie}
    assert caller.raw("GET", "/static/main.js", own)[1]["content-type"].startswith("text/javascript")
    for name in ("guard.py", "", "page/index.html", "__init__.py"):
        assert caller.raw("GET", f"/static/{name}", own)[0] == 404


def test_long_and_endless_bodies_are_refused(caller):
    own = {"host": HOST, "cookie": caller.cookie, "origin": ORIGIN}
    assert caller.raw("POST", "/api/marks", {**own, "content-length": str(10**12)})[0] == 413
    assert caller.raw("POST", "/api/marks", {**own, "transfer-encoding": "chunked"})[0] == 413
    assert caller.raw("POST", "/api/marks", own, b"[1]")[0] == 400
    assert json.loads(caller.raw("POST", "/api/marks", own, b"no")[2]) == {"error": "the request is no JSON"}


def test_an_open_server_takes_addresses_and_no_foreign_names(caller):
    open_guard = RequestGuard(caller.app._app, caller.secret, "0.0.0.0", PORT)
    caller.app = open_guard
    assert caller.raw("GET", "/api/state", {"host": f"10.0.0.5:{PORT}", "cookie": caller.cookie})[0] == 200
    assert caller.raw("GET", "/api/state", {"host": f"evil.example:{PORT}", "cookie": caller.cookie})[0] == 403


def test_the_secret_stays_and_is_its_owners(tmp_path: Path):
    path = tmp_path / "studio" / "secret"
    secret = read_secret(path)
    assert len(secret) >= 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_secret(path) == secret
    path.chmod(0o644)  # others may have read it
    assert read_secret(path) != secret
