"""RequestGuard: who may ask the server. A secret, the server's own host names, and pages of its own origin only."""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import socket
from collections.abc import Awaitable, Callable, Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

LOCAL = ("127.0.0.1", "localhost", "::1")
LARGEST_BODY = 64 * 2**20  # of one request: far more than an edit, less than what hurts
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-store",
}
Scope = Mapping[str, Any]
Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


class RequestGuard:
    """An ASGI application around another one, which refuses what is not asked by the studio's own page.

    Args:
        app: that answers what is allowed.
        secret: of the link.
        host: the server's address.
        port: the server's port.
    """

    def __init__(self, app: Any, secret: str, host: str, port: int) -> None:
        self._app, self._secret, self._port = app, secret, port
        self._cookie = f"xaikit-studio-{port}"  # cookies are shared by all ports of a host
        self._hosts = {host.strip("[]").lower(), *LOCAL}
        self._is_open = host not in LOCAL
        if self._is_open:
            self._hosts |= {socket.gethostname().lower(), socket.getfqdn().lower()}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse with one sentence."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers: dict[str, str] = {}
        for key, value in scope.get("headers", ()):
            name = key.decode("latin-1").lower()
            if name in headers and name in ("host", "origin"):
                headers[name] = ""  # two of them: nobody's browser does that
            else:
                headers[name] = value.decode("latin-1")
        refusal = self._refusal(scope, headers)
        if refusal:
            await _refuse(send, *refusal)
            return
        cookie = self._new_cookie(scope)

        async def sent(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                more = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                more += [(b"set-cookie", cookie.encode())] if cookie else []
                message = {**message, "headers": [*message.get("headers", ()), *more]}
            await send(message)

        await self._app(scope, receive, sent)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """The status and the sentence for a request that is not allowed."""
        origin, path = headers.get("origin"), scope.get("path", "")
        foreign = "another page asked for this, and the studio answers its own page only"
        checks: tuple[tuple[Callable[[], bool], int, str], ...] = (
            (lambda: scope["type"] != "http", 403, "the studio answers plain requests only"),
            (
                lambda: not self._is_own_host(headers.get("host", "")),
                403,
                "this is no host name of the studio; open the link that xaikit studio printed",
            ),
            (lambda: origin is not None and not _is_own_origin(origin, headers["host"]), 403, foreign),
            (
                lambda: headers.get("sec-fetch-site", "none") not in ("same-origin", "none") and path != "/",
                403,
                foreign,
            ),
            (
                lambda: scope["method"] not in ("GET", "HEAD") and origin is None and "sec-fetch-site" in headers,
                403,
                "a change comes from the studio's own page only, and this has no origin",
            ),
            (lambda: _leaves(scope), 403, "there is no such path in the studio"),
            (lambda: _is_too_long(headers), 413, f"a request holds at most {LARGEST_BODY // 2**20} MiB"),
            (
                lambda: not (self._has_key(scope) or self._has_cookie(headers.get("cookie", ""))),
                403,
                "this needs the link with the secret that xaikit studio printed",
            ),
        )
        return next(((status, sentence) for wrong, status, sentence in checks if wrong()), None)

    def _is_own_host(self, host: str) -> bool:
        try:
            parts = urlsplit(f"//{host}")
            name, port = parts.hostname or "", parts.port
        except ValueError:
            return False
        if "@" in host or "/" in host or (80 if port is None else port) != self._port:
            return False
        # A foreign name that leads to this machine is refused; an address cannot be such a name.
        return name in self._hosts or (self._is_open and _is_address(name))

    def _has_key(self, scope: Scope) -> bool:
        """The secret in the link: of the page itself only."""
        if scope["path"] != "/" or scope["method"] not in ("GET", "HEAD"):
            return False
        key = parse_qs(scope.get("query_string", b"").decode("latin-1")).get("key", [""])[0]
        return hmac.compare_digest(key.encode(), self._secret.encode())

    def _has_cookie(self, text: str) -> bool:
        try:
            value = SimpleCookie(text).get(self._cookie)
        except CookieError:
            return False
        return value is not None and hmac.compare_digest(value.value.encode(), self._secret.encode())

    def _new_cookie(self, scope: Scope) -> str:
        if not self._has_key(scope):
            return ""
        return f"{self._cookie}={self._secret}; HttpOnly; SameSite=Strict; Path=/; Max-Age=2592000"


def read_secret(path: Path) -> str:
    """The secret of a run's studio: the one of the last time, so that an open page goes on; else a new one.

    Args:
        path: of its file, which only its owner may read.

    Raises:
        OSError: when the disk refuses.
    """
    try:
        if path.stat().st_mode & 0o077 == 0:
            secret = path.read_text(encoding="ascii").strip()
            if len(secret) >= 32:
                return secret
    except (OSError, ValueError):
        pass
    secret = secrets.token_urlsafe(32)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
        file.write(secret)
    return secret


def _is_own_origin(origin: str, host: str) -> bool:
    return hmac.compare_digest(origin.lower().encode(), f"http://{host}".lower().encode())


def _leaves(scope: Scope) -> bool:
    """Whether a path tries to leave its folder, or to end a name early."""
    raw: bytes = (scope.get("raw_path") or scope["path"].encode()).lower()
    return any(part in raw for part in (b"..", b"%2e", b"\\", b"%5c", b"%00"))


def _is_too_long(headers: Mapping[str, str]) -> bool:
    length = headers.get("content-length", "0")
    chunked = "chunked" in headers.get("transfer-encoding", "").lower()
    return chunked or not length.isdecimal() or int(length) > LARGEST_BODY


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _refuse(send: Send, status: int, sentence: str) -> None:
    content = sentence.encode()
    headers = {**HEADERS, "content-type": "text/plain; charset=utf-8", "content-length": str(len(content))}
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [(k.encode(), v.encode()) for k, v in headers.items()],
        }
    )
    await send({"type": "http.response.body", "body": content})
