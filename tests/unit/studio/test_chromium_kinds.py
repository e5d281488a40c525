"""Series, tables and texts in a real headless Chromium: what the mouse marks is in the file."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from tests.unit.studio.screen import opened, saved, until
from tests.unit.studio.test_session import Words
from xaikit.explainers import Gradient, GradientXInput
from xaikit.report import Names
from xaikit.runs import explain_dataset
from xaikit.studio import Studio

pytestmark = pytest.mark.nightly


def spans(run, name):
    return json.loads((run / "marks" / name).read_text())["spans"]


@pytest.fixture
def screen(browser):
    """Opens the first sample of a run for marking."""
    started = []

    def opened_at(run, **options):
        studio = Studio(run, **options).start()
        page = opened(browser, studio.link, shown=".card:not(.waiting)")
        started.append((studio, page))
        page.goto(f"{page.url.split('#')[0]}#mark/0")
        until(page, "studio.mark.card && studio.mark.layer")
        return page

    yield opened_at
    for studio, page in started:
        assert page.said == []
        page.context.close()
        studio.stop()


def test_spans_of_a_series_are_marked_in_all_its_channels(screen, tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(6 * 500, 2))
    names = [f"lead {i}" for i in range(6)]
    x = torch.rand(3, 6, 500)
    explain_dataset(GradientXInput(model), x, out=tmp_path / "run", keep_inputs=True, progress=False)
    page = screen(tmp_path / "run", names=Names(features=names))
    assert page.locator(".sheet .channel-name").all_inner_texts() == names  # all of them, not only the strongest
    for _ in range(6):
        page.keyboard.press("+")
    box, stage = (page.locator(s).bounding_box() for s in ("canvas.marks", ".stage"))
    assert box["width"] > 3 * stage["width"]
    steps = [(stage["x"] + x - box["x"]) / box["width"] * 500 for x in (100, 300)]
    page.mouse.move(stage["x"] + 100, stage["y"] + 60)
    page.mouse.down()
    page.mouse.move(stage["x"] + 300, stage["y"] + 90, steps=3)
    page.mouse.up()
    saved(page)
    assert spans(tmp_path / "run", "must-not-matter/sample/sample 0.json") == [[int(steps[0]), int(steps[1]) + 1]]
    page.keyboard.press("1")
    page.wait_for_selector(".card .channel-name")
    first = page.locator(".card").first
    assert len(first.locator(".channel-name").all()) == 4
    assert "2 weaker channels are not drawn" in first.inner_text()


def test_columns_and_words_are_marked(screen, tmp_path):
    table = nn.Linear(5, 2)
    x = torch.rand(3, 5)
    explain_dataset(GradientXInput(table), x, out=tmp_path / "table", keep_inputs=True, progress=False)
    page = screen(tmp_path / "table", names=Names(features=["age", "<b>sex</b>", 'quo"te', "c", "d"]))
    page.get_by_text("all samples", exact=True).click()
    page.get_by_role("button", name="<b>sex</b>").click()
    page.locator(".part-list .part").last.click(modifiers=["Shift"])
    saved(page)
    assert spans(tmp_path / "table", "must-not-matter/all.json") == [[1, 5]]
    ids = torch.randint(1, 9, (3, 6))
    explain_dataset(Gradient(Words(), layer="embedding"), ids, out=tmp_path / "text", keep_inputs=True, progress=False)
    page = screen(tmp_path / "text", names=Names(tokens=lambda tokens: [f"w{i}" for i in tokens]))
    words = page.locator(".part-list .part")
    words.nth(2).click()
    words.nth(4).click(modifiers=["Shift"])
    saved(page)
    assert spans(tmp_path / "text", "must-not-matter/sample/sample 0.json") == [[2, 5]]
    page.get_by_text("all samples", exact=True).click()
    words.nth(0).click()
    saved(page)
    word = int(ids[0, 0])  # of all texts, the word and not its place
    assert spans(tmp_path / "text", "must-not-matter/all.json") == [[word, word + 1]]
    pressed = [button.get_attribute("aria-pressed") for button in words.all()]
    assert pressed == ["true" if i == word else "false" for i in ids[0].tolist()]
