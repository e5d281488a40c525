"""What the tests do at the screen of a studio: open its page, draw, wait, look into the files."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time

import numpy as np
from PIL import Image

from tests.forks import warm
from tests.unit.studio.conftest import SIDE

TAP = 60  # ms between looks


def opened(browser, link, *, width=1280, scheme="light", shown=".card .tile img"):
    """The page of a link, ready; what it says and asks is kept."""
    page = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme).new_page()
    page.set_default_timeout(120_000)
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
    page.on("response", lambda r: page.said.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(link)
    page.wait_for_selector("body[data-ready=yes]")
    page.wait_for_selector(shown)
    return page


def until(page, expression, seconds=120):
    """Wait until an expression is true (the page's policy forbids playwright's own way)."""
    for _ in range(1000 * seconds // TAP):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(TAP)
    raise AssertionError(expression)


def mark(page, position, scope="this sample", *, side=SIDE):
    """Open a sample for marking; a function from pixels to the place on the screen."""
    page.goto(f"{page.url.split('#')[0]}#mark/{position}")
    until(page, f"studio.mark.position === {position} && studio.mark.layer")
    page.get_by_text(scope, exact=True).click()
    until(page, "document.querySelector('canvas.marks').clientWidth > 200")
    box = page.locator("canvas.marks").bounding_box()
    return lambda x, y: (box["x"] + x / side * box["width"], box["y"] + y / side * box["height"])


def drag(page, place, *points):
    """Press the mouse at the first point, move it through the others, and release it."""
    page.mouse.move(*place(*points[0]))
    page.mouse.down()
    for point in points[1:]:
        page.mouse.move(*place(*point), steps=4)
    page.mouse.up()


def saved(page):
    """Wait until every edit is on the disk."""
    until(page, "studio.mark.layerSet.queue.length === 0")


def pixels(folder, name):
    """What a mark's picture marks, (H, W)."""
    with Image.open(folder / "marks" / name) as picture:
        return np.array(picture) > 127


SCRIPT = """
import json, sys
from xaikit.studio import Studio
Studio(sys.argv[1], **json.loads(sys.argv[2])).serve(lambda link: print(link, flush=True))
"""


def serve(folder, log, **options):
    """A studio in a process of its own, which writes its link into a log."""
    with log.open("a") as file:
        call = [sys.executable, "-c", SCRIPT, str(folder), json.dumps(options)]
        with warm():
            return subprocess.Popen(call, stdout=file, stderr=file)


def link_of(log, number):
    """The link that the server of this number wrote, from 1."""
    for _ in range(600):
        links = re.findall(r"http://\S+", log.read_text()) if log.exists() else []
        if len(links) >= number:
            return links[number - 1]
        time.sleep(0.1)
    raise AssertionError(log.read_text())
