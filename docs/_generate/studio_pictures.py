"""The pictures of docs/guides/studio.md: `python docs/_generate/studio_pictures.py` takes them in the demo's story.

    python docs/_generate/studio_pictures.py [FOLDER]

Needs Chromium and playwright; takes two to four minutes. FOLDER keeps the demo, and a second call does not mend again.
"""

from __future__ import annotations

import io
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from xaikit.cli.studio_demo import prepare
from xaikit.studio import Studio

OUT = Path(__file__).parents[1] / "guides" / "studio"
PATIENCE = 900_000  # ms for a training


def save(page: Any, name: str, quality: int = 60) -> None:
    """A picture of the page, as small as it stays readable."""
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        picture.convert("RGB").save(OUT / f"{name}.webp", quality=quality, method=6)


def main() -> None:
    """The story: look, mark, mend, prove; then the same on a phone, dark."""
    from playwright.sync_api import sync_playwright

    OUT.mkdir(exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with tempfile.TemporaryDirectory() as name, sync_playwright() as driver:
        fields = prepare(Path(sys.argv[1] if len(sys.argv) > 1 else name).absolute(), progress=False)
        folders, data = list(fields["runs"]), str(Path(fields["data"]).absolute())
        studio = Studio(folders, model=fields["model"], weights=fields["weights"].absolute(), data=data).start()
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.goto(studio.link)
        page.wait_for_selector(".card .tile img")
        page.wait_for_timeout(800)
        save(page, "look")
        page.locator(".card").first.click()
        page.get_by_text("all samples", exact=True).click()
        page.wait_for_timeout(800)
        box = page.locator("canvas.marks").bounding_box()
        page.mouse.move(box["x"] + 0.02 * box["width"], box["y"] + 0.02 * box["height"])
        page.mouse.down()
        page.mouse.move(box["x"] + 0.23 * box["width"], box["y"] + 0.23 * box["height"], steps=5)
        page.mouse.up()
        page.wait_for_timeout(800)
        save(page, "mark")
        page.locator("header a[data-view=mend]").click()
        if not studio.session.jobs.list():
            page.get_by_role("button", name="Mend the model").click()
            page.wait_for_timeout(15_000)
            save(page, "mend")
        page.get_by_role("link", name="See the result").click(timeout=PATIENCE)
        page.get_by_role("link", name="Save the report page").wait_for(timeout=PATIENCE)
        page.wait_for_timeout(500)
        save(page, "prove")
        page.get_by_role("button", name="All samples, before and after").click()
        page.wait_for_timeout(1500)
        save(page, "after")
        phone = browser.new_context(viewport={"width": 390, "height": 800}, color_scheme="dark").new_page()
        phone.goto(studio.link)
        phone.wait_for_selector(".card .tile img")
        phone.wait_for_timeout(800)
        save(phone, "phone")
        browser.close()
        studio.stop()
    sys.stdout.write(f"wrote {OUT}\n")


if __name__ == "__main__":
    main()
