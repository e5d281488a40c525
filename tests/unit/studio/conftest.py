"""What the tests of the studio share: small runs, and a caller of the application in this process."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from xaikit.core.intervals import share_interval
from xaikit.explainers import Gradient, GradientXInput
from xaikit.factors import Corner, Hue
from xaikit.runs import explain_dataset
from xaikit.shortcuts import Scan
from xaikit.shortcuts.effects import Effect
from xaikit.studio import Studio

PORT = 8431
HOST = f"127.0.0.1:{PORT}"
N, SIDE = 40, 6


class Pictures:
    """Random pictures of two classes with names as files have them."""

    def __init__(self, n: int = N) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.rand(n, 1, SIDE, SIDE, generator=generator)
        self.names = [f"{'train' if i % 4 else 'test'}/{i}.png" for i in range(n)]
        self.names[1] = "<script>alert(1)</script>.png"
        self.classes = ["cat", "dog"]

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.x[index], index % 2

    def fingerprint(self, index: int) -> str:
        return f"content {index}"


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(3 * (SIDE - 2) ** 2, 2))


@pytest.fixture(scope="session")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two runs over the same pictures, in shards of 16, which no test changes."""
    folder = tmp_path_factory.mktemp("explained")
    explainers = {"run": GradientXInput(small_model()), "other": Gradient(small_model())}
    for name, explainer in explainers.items():
        explain_dataset(explainer, Pictures(), out=folder / name, keep_inputs=True, shard_size=16, progress=False)
    return folder


@pytest.fixture
def runs(explained: Path, tmp_path: Path) -> list[Path]:
    """Copies of the two runs."""
    return [shutil.copytree(explained / name, tmp_path / name) for name in ("run", "other")]


class Caller:
    """Calls an ASGI application without a server, so that every byte of a request can be chosen."""

    def __init__(self, app: Any, secret: str) -> None:
        self.app, self.secret = app, secret

    def raw(self, method: str, path: str, headers: Mapping[str, str] | list[tuple[str, str]], body: bytes = b"") -> Any:
        """Status, headers and body of the answer."""
        return asyncio.run(self._raw(method, path, headers, body))

    async def _raw(self, method: str, path: str, headers: Any, body: bytes) -> tuple[int, dict[str, str], bytes]:
        bare, _, query = path.partition("?")
        pairs = list(headers.items()) if isinstance(headers, Mapping) else headers
        if not any(key == "content-length" for key, _ in pairs):
            pairs.append(("content-length", str(len(body))))
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": bare, "raw_path": bare.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(k.lower().encode(), v.encode()) for k, v in pairs],
            "client": ("127.0.0.1", 50000), "server": ("127.0.0.1", PORT),
        }  # fmt: skip
        sent: list[dict[str, Any]] = []
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            return messages.pop() if messages else {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self.app(scope, receive, send)
        start = next(m for m in sent if m["type"] == "http.response.start")
        content = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
        return start["status"], {k.decode(): v.decode() for k, v in start["headers"]}, content

    @property
    def cookie(self) -> str:
        return f"xaikit-studio-{PORT}={self.secret}"

    def get(self, path: str, status: int = 200) -> Any:
        """What the page gets."""
        code, _, content = self.raw("GET", path, {"host": HOST, "cookie": self.cookie, "sec-fetch-site": "same-origin"})
        assert code == status, content
        return json.loads(content)

    def post(self, path: str, content: Any, status: int = 200) -> Any:
        """What the page gets for a change."""
        headers = {"host": HOST, "cookie": self.cookie, "origin": f"http://{HOST}", "sec-fetch-site": "same-origin"}
        code, _, answer = self.raw("POST", path, headers, json.dumps(content).encode())
        assert code == status, answer
        return json.loads(answer)


@pytest.fixture
def called(tmp_path: Path) -> Callable[..., Caller]:
    """Opens a studio and indexes its runs; a caller of it."""

    def opened(*folders: Path, **options: Any) -> Caller:
        studio = Studio(list(folders), **options)
        session = studio.session()
        for catalogue in session.catalogues:
            catalogue.fill()
        caller = Caller(studio.app(session, PORT), studio.secret())
        caller.session = session  # type: ignore[attr-defined]
        return caller

    return opened


def flags_of(runs: list[int], size: int) -> np.ndarray:
    """Runs as booleans."""
    flags = np.zeros(size, bool)
    for start, length in zip(runs[::2], runs[1::2], strict=True):
        flags[start : start + length] = True
    return flags


CLUSTERS = {0: [0, 2, 5, 39], 1: [1, 3]}
CHANGED = {"top left corner": [4, 5, 6], "hue": []}


def write_jobs(run: Path) -> None:
    """A job that clustered and a job that scanned."""
    jobs = run / "studio" / "jobs"
    for number, verb in ((1, "shortcuts"), (2, "scan")):
        (jobs / str(number) / "found").mkdir(parents=True)
        (jobs / str(number) / "job.json").write_text(json.dumps({"verb": verb, "settings": {}, "begun": 0}))
        for name, content in (("exit.json", {"code": 0}), ("step-00.done", {"code": 0})):
            (jobs / str(number) / name).write_text(json.dumps(content))
    clusters = [{"cluster": k, "samples": [{"index": i} for i in members]} for k, members in CLUSTERS.items()]
    (jobs / "1" / "found" / "shortcuts.json").write_text(json.dumps({"clusters": clusters}))
    specs = [Corner(size=2).spec(), Hue().spec()]
    share = share_interval(torch.tensor([True, False, False, False]), 0.95)
    effects = [
        Effect(title, spec, "nuisance", share, share, 0, share, 1.0, 0.0, 0, 1.0, 0.1, tuple(samples))
        for (title, samples), spec in zip(CHANGED.items(), specs, strict=True)
    ]
    Scan(tuple(effects), "image", 1.0, 40).save(jobs / "2" / "scan.json")
