"""The studio: 100,000 samples in the browser, marks under kills, the demo's story by mouse alone.

    python -m benchmarks.studio [--samples 100000] [--kills 20] [--story] [FOLDER]

FOLDER keeps the runs; a second call reads what is there. Needs Chromium and playwright.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import torch
from torch import nn

from xaikit.explainers import Gradient
from xaikit.files.marks import MarkFolder, MarkKey
from xaikit.runs import explain_dataset

SIDE, FEW, SCROLLED_SECONDS, JUMPS = 32, 1000, 10, 20
SERVE = "import sys\nfrom xaikit.studio import Studio\nStudio(sys.argv[1]).serve(lambda link: print(link, flush=True))"
# Scroll by so many pixels each frame for some seconds, then jump about; the time between frames, and blank cards.
SCROLL = """async ([seconds, jumps]) => {
  const box = studio.look.scroller, frames = [];
  const next = () => new Promise(requestAnimationFrame);
  let last = await next(), begin = last, blank = 0, shown = 0;
  while (last - begin < 1000 * seconds) {
    box.scrollTop += 60;
    const now = await next();
    frames.push(now - last); last = now;
  }
  const waits = [];
  for (let i = 0; i < jumps; i += 1) {
    box.scrollTop = (i * 0.618 % 1) * box.scrollHeight;
    const from = performance.now();
    let now = await next(); frames.push(now - last); last = now;
    do { now = await next(); frames.push(now - last); last = now; }
    while (document.querySelector(".card.waiting") && now - from < 10000);
    waits.push(performance.now() - from);
  }
  return { frames, waits };
}"""


class Pictures:
    """Random pictures of ten classes, made when they are read."""

    def __init__(self, n: int) -> None:
        self.n, self.names = n, [f"scans/{i:06d}.png" for i in range(n)]
        self.base = torch.rand(64, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.base[index % 64].roll(index // 64 % SIDE, 1), index % 10


def run_of(folder: Path, n: int) -> Path:
    """A run over n pictures."""
    path = folder / f"run-{n}"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 10))
    explain_dataset(Gradient(model), Pictures(n), out=path, batch_size=128, keep_inputs=True)
    return path


class Server:
    """A server in a process of its own."""

    def __init__(self, run: Path) -> None:
        self.log = tempfile.NamedTemporaryFile("r", suffix=".txt")  # noqa: SIM115
        begun = time.perf_counter()
        with open(self.log.name, "w") as out:
            self.process = subprocess.Popen([sys.executable, "-c", SERVE, str(run)], stdout=out, stderr=out)
        while not (found := re.search(r"(http://[\w.:]+)/\?key=(\S+)", Path(self.log.name).read_text())):
            if self.process.poll() is not None or time.perf_counter() - begun > 120:
                raise RuntimeError(Path(self.log.name).read_text())
            time.sleep(0.05)
        self.seconds = time.perf_counter() - begun
        self.link, self.origin, self.key = found[0], found[1], found[2]

    def megabytes(self) -> float:
        """The memory that the process holds."""
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def post(self, path: str, content: Any) -> Any:
        """What the page would get."""
        port = self.origin.rpartition(":")[2]
        headers = {
            "cookie": f"xaikit-studio-{port}={self.key}",
            "origin": self.origin,
            "content-type": "application/json",
        }
        request = urllib.request.Request(self.origin + path, json.dumps(content).encode(), headers)
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)

    def kill(self) -> None:
        """End it at once."""
        os.kill(self.process.pid, signal.SIGKILL)
        self.process.wait()


def opened(driver: Any) -> Any:
    """A headless Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    return driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])


def gallery(run: Path, browser: Any) -> dict[str, Any]:
    """First picture, frames while scrolling, memory."""
    shutil.rmtree(run / "studio", ignore_errors=True)
    server = Server(run)
    line: dict[str, Any] = {"samples": int(run.name.split("-")[1]), "server starts, s": server.seconds}
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    begun = time.perf_counter()
    page.goto(server.link)
    page.wait_for_selector(".card .tile img")
    line["first picture, s"] = time.perf_counter() - begun
    while page.evaluate("studio.state?.indexed ?? 0") < 1:
        page.wait_for_timeout(200)
    line["indexed after, s"] = time.perf_counter() - begun
    page.wait_for_timeout(1500)
    line["memory before, MB"] = server.megabytes()
    result = page.evaluate(SCROLL, [SCROLLED_SECONDS, JUMPS])
    frames, waits = sorted(result["frames"]), sorted(result["waits"])
    line |= {"frame median, ms": frames[len(frames) // 2], "frame longest, ms": frames[-1]}
    line |= {"jump to picture, ms": waits[len(waits) // 2], "longest jump, ms": waits[-1]}
    line["memory after, MB"] = server.megabytes()
    begun = time.perf_counter()
    page.get_by_label("Order").select_option("score")
    page.wait_for_selector(".card:not(.waiting) .tile img")
    line["order by score, s"] = time.perf_counter() - begun
    page.context.close()
    server.kill()
    return line


def kills(run: Path, times: int) -> dict[str, Any]:
    """Edits that are missing after kills at random moments, sent as the page sends them."""
    shutil.rmtree(run / "marks", ignore_errors=True)
    chance = random.Random(0)
    server, sent, stop = Server(run), [], threading.Event()
    answered = 0
    for _ in range(times):
        holder = {"server": server}

        def draw(holder: dict[str, Server] = holder) -> None:
            nonlocal answered
            while not stop.is_set():
                if not sent or sent[-1][1]:
                    sent.append([len(sent), False])
                edit = {"meaning": "must-not-matter", "scope": "all", "position": 0, "base": 0,
                        "added": [sent[-1][0] % SIDE**2, 1], "identifier": f"edit {sent[-1][0]}"}  # fmt: skip
                try:
                    holder["server"].post("/api/marks", edit)
                    sent[-1][1] = True
                    answered += 1
                except (OSError, http.client.HTTPException, ValueError):
                    return

        stop.clear()
        artist = threading.Thread(target=draw)
        artist.start()
        time.sleep(chance.uniform(0.05, 0.8))
        server.kill()
        stop.set()
        artist.join()
        server = Server(run)
    if sent and not sent[-1][1]:  # the page sends it again
        edit = {"meaning": "must-not-matter", "scope": "all", "position": 0, "base": 0,
                "added": [sent[-1][0] % SIDE**2, 1], "identifier": f"edit {sent[-1][0]}"}  # fmt: skip
        server.post("/api/marks", edit)
    server.kill()
    marked = set(MarkFolder(run / "marks").read(MarkKey("must-not-matter", "all")).positions.tolist())
    lost = {number % SIDE**2 for number, _ in sent} - marked
    return {"kills": times, "edits": len(sent), "answered": answered, "lost": len(lost)}


def story(folder: Path, browser: Any) -> dict[str, Any]:
    """From the demo's run to a mended model, by mouse."""
    with open(folder / "demo.txt", "w") as log:
        command = [sys.executable, "-m", "xaikit", "studio", "--demo", "--no-browser", "--quiet"]
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    while not (found := re.search(r"http://\S+key=\S+", (folder / "demo.txt").read_text())):
        time.sleep(0.2)
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.goto(found[0])
    page.wait_for_selector(".card .tile img")
    begun, actions = time.perf_counter(), 0

    def act(action: Any) -> None:
        nonlocal actions
        action()
        actions += 1

    def drag() -> None:
        box = page.locator("canvas.marks").bounding_box()
        at = [(box["x"] + share * box["width"], box["y"] + share * box["height"]) for share in (0.02, 0.23)]
        page.mouse.move(*at[0])
        page.mouse.down()
        page.mouse.move(*at[1], steps=5)
        page.mouse.up()

    act(page.locator(".card").first.click)
    page.wait_for_selector("canvas.marks:visible")
    act(page.get_by_text("all samples", exact=True).click)
    act(drag)
    act(page.locator("header a[data-view=mend]").click)
    act(page.get_by_role("button", name="Mend the model").click)
    act(lambda: page.get_by_role("link", name="See the result").click(timeout=600_000))
    page.wait_for_selector(".verdict")
    verdict, mended = page.locator(".verdict").inner_text(), time.perf_counter() - begun
    page.get_by_role("button", name="All samples, before and after").wait_for(timeout=600_000)
    line = {"actions": actions, "mended, s": mended, "before and after, s": time.perf_counter() - begun}
    page.context.close()
    process.terminate()
    process.wait()
    return {**line, "verdict": verdict}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--samples", type=int, default=100_000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--story", action="store_true")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = opened(driver)
        lines = [gallery(run_of(folder, n), browser) for n in (FEW, options.samples) if n]
        for name in lines[0] if lines else ():
            print(f"{name:24}" + "".join(f"{line[name]:>12.4g}" for line in lines))
        if options.kills:
            print(kills(run_of(folder, FEW), options.kills))
        if options.story:
            print(story(folder, browser))
        browser.close()


if __name__ == "__main__":
    main()
