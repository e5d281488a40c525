"""The report of 500 samples and several explainers: size, time to make, time until a browser shows it.

    XAIKIT_SHARED=../shared python -m benchmarks.report [FOLDER]

FOLDER keeps the runs and the pages; a second call reads the runs that are there. `--long` shows 10,000 photographs of
112 pixels with one explainer instead, and tells the memory of the browser.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from benchmarks.measure import seconds, table
from xaikit import EXPLAINERS, Report, explain_dataset
from xaikit.report import Names
from xaikit.runs import Run

PHOTOS = Path(os.environ.get("XAIKIT_SHARED", Path(__file__).parents[2] / "shared")) / "data" / "photos"
CLASSES = ("astronaut", "chelsea", "coffee")
EXPLAINERS_SHOWN = ("lrp_epsilon_plus", "integrated_gradients:n_steps=8", "gradcam", "vargrad:n_iter=4", "gradient")
GRADIENTS = ("gradient", "gradient_x_input", "integrated_gradients")
SAMPLES, LONG, SIDE, OPENED = 500, 10_000, 224, 7


def photographs(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Crops of the photographs at any place, size and flip, (n, 3, SIDE, SIDE), and which photograph each is of."""
    chance = np.random.default_rng(seed)
    whole = [Image.open(PHOTOS / f"{name}.png").convert("RGB") for name in CLASSES]
    pixels, labels = [], chance.integers(len(whole), size=n)
    for label in labels:
        picture = whole[label]
        size = int(chance.integers(SIDE // 2, min(picture.size) + 1))
        left, top = (int(chance.integers(edge - size + 1)) for edge in picture.size)
        crop = picture.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=(left, top, left + size, top + size))
        crop = crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if chance.random() < 0.5 else crop
        pixels.append(torch.from_numpy(np.asarray(crop).copy()).permute(2, 0, 1))
    return torch.stack(pixels).float() / 255, torch.from_numpy(labels)


def trained(steps: int = 60) -> nn.Module:
    """A small network that tells the photographs apart, mostly."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 7, stride=2, padding=3), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 3),
    )  # fmt: skip
    x, y = photographs(256, seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for step in range(steps):
        rows = slice(step * 32 % 256, step * 32 % 256 + 32)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
        optimizer.step()
    return model.eval()


class Reader(nn.Module):
    """Mean of embeddings, then a line."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(1000, 16), nn.Linear(16, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.out(self.embedding(tokens).mean(1))


def explained(folder: Path) -> dict[str, list[Run]]:
    """Photographs, series of three channels and 1,000 steps, texts of 64 tokens."""
    torch.manual_seed(0)
    series = nn.Sequential(nn.Conv1d(3, 8, 9), nn.ReLU(), nn.AdaptiveAvgPool1d(8), nn.Flatten(), nn.Linear(64, 3))
    curves = torch.randn(SAMPLES, 3, 1000).cumsum(2) / 10
    words, reader = torch.randint(1000, (SAMPLES, 64)), Reader()
    return {
        f"photographs of {SIDE} pixels": _runs(
            folder / "photographs", trained(), photographs(SAMPLES), EXPLAINERS_SHOWN
        ),
        "series, 3 x 1,000": _runs(folder / "series", series, curves, GRADIENTS),
        "texts, 64 tokens": _runs(folder / "texts", reader, words, GRADIENTS, layer="embedding"),
    }


def _runs(folder: Path, model: nn.Module, data: Any, specs: Sequence[str], **settings: Any) -> list[Run]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that few steps leave a gap
        return [
            explain_dataset(
                EXPLAINERS.create(spec, **settings).bind(model),
                data,
                out=folder / spec.partition(":")[0],
                keep_inputs=place == 0,
                dtype="float16",
                progress=False,
            )
            for place, spec in enumerate(specs)
        ]


def opened(path: Path, times: int = OPENED) -> tuple[float, ...]:
    """Seconds until the page is loaded and until its first pictures are on the screen, medians; then MB (see
    `_megabytes`): all with a blank page, all with the page, the page's own process, all after a ride through it."""
    from playwright.sync_api import sync_playwright

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    loaded, shown, blank = [], [], 0.0
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(times):
            page = browser.new_page(viewport={"width": 1280, "height": 900})
            blank = blank if shown else _megabytes()[0]
            begun = time.perf_counter()
            page.goto(path.as_uri())
            loaded.append(time.perf_counter() - begun)
            page.locator("#samples").scroll_into_view_if_needed()
            page.evaluate(
                "Promise.all(Array.from(document.images).filter(i => i.src).slice(0, 12).map(i => i.decode()))"
            )
            page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
            shown.append(time.perf_counter() - begun)
            if len(shown) == times:
                memory, alone = _megabytes()
                page.evaluate(RIDE)
                ridden = _megabytes()[0]
            page.close()
        browser.close()
    return statistics.median(loaded), statistics.median(shown), blank, memory, alone, ridden


RIDE = """async () => {
  for (let y = 0; y < document.body.scrollHeight; y += 20 * innerHeight) {
    scrollTo(0, y);
    await new Promise((done) => setTimeout(done, 50));
  }
}"""


def _megabytes() -> tuple[float, float]:
    """What all processes of the browser that this process started hold, and the largest of those that show pages.

    Pages of memory that several share are divided among them (proportional set size). The program itself is in it: what
    a blank page takes is measured beside the page.
    """
    everything, pages = 0.0, [0.0]
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes()  # a process of chromium joins its words by blanks
            if os.getpid() not in _ancestors(folder) or b"/driver/node" in command:  # playwright's own
                continue
            lines = (folder / "smaps_rollup").read_text().splitlines()
            held = next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3
        except (OSError, StopIteration):  # it has ended
            continue
        everything += held
        pages += [held] if b"--type=renderer" in command else []
    return everything, max(pages)


def _ancestors(folder: Path) -> list[int]:
    """The processes that a process comes from."""
    parents = []
    while (parent := int((folder / "stat").read_text().rpartition(")")[2].split()[1])) > 1:
        parents.append(parent)
        folder = folder.parent / str(parent)
    return parents


class Tiled(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """The same 500 photographs again and again, in half the size."""

    def __init__(self, n: int) -> None:
        x, self.labels = photographs(SAMPLES)
        self.pixels, self.n = nn.functional.avg_pool2d(x, 2), n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        return self.pixels[i % SAMPLES], self.labels[i % SAMPLES]


def measure_long(folder: Path) -> None:
    """A page of 10,000 samples."""
    run = _runs(folder / "long", trained(), Tiled(LONG), ("gradient",))
    path = folder / "long.html"
    made = seconds(lambda: Report(run, names=Names(classes=CLASSES)).save(path))
    head = ["samples", "MB", "made in (s, processor)", "loaded (s)", "on the screen (s)"]
    head += ["all processes of the browser, blank page (MB)", "with the page", "the page's own process", "after a ride"]
    table("A long page", head, [[LONG, path.stat().st_size / 1e6, made, *opened(path, 3)]])


def measure(folder: Path) -> None:
    rows: list[list[object]] = []
    for what, runs in explained(folder).items():
        for count in (1, 3, 5):
            if count > len(runs):
                continue
            report = Report(runs[:count], title=what, names=Names(classes=CLASSES), limit=SAMPLES)
            path = folder / f"{what.split()[0].strip(',')}-{count}.html"
            made = seconds(lambda r=report, p=path: r.save(p))
            rows.append([what, count, path.stat().st_size / 1e6, made, *opened(path)[:2]])
    head = ["500 samples", "explainers", "MB", "made in (s, processor)", "loaded (s)", "on the screen (s)"]
    table("The report", head, rows)


if __name__ == "__main__":
    names = [word for word in sys.argv[1:] if word != "--long"]
    run = measure_long if "--long" in sys.argv else measure
    if names:
        run(Path(names[0]))
    else:
        with tempfile.TemporaryDirectory() as place:
            run(Path(place))
