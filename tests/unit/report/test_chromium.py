"""The report in a real headless Chromium: every section and kind of sample; mouse, keyboard, paper, phone."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import Dataset

from xaikit import GradientXInput, Report, SmoothGrad, SpRAy, VarGrad, evaluate, explain_dataset, recommend, tune
from xaikit.explainers import AgglomerativeDecomposition
from xaikit.mitigation import Comparison, assess
from xaikit.report import (
    Names,
    Picture,
    Table,
    evaluation_sections,
    mitigation_sections,
    profile_sections,
    tuning_sections,
)
from xaikit.report.clusters import clusters_figure
from xaikit.report.packing import packed

pytestmark = pytest.mark.nightly

EVIL = "<script>alert(1)</script>"
EVIL_FILE = "<img src=x onerror=alert(1)>.png"  # a file's name may hold everything but a slash
SAMPLES = 12


class Digits(Dataset):
    """Digits under names that a file may have."""

    def __init__(self):
        data = load_digits()
        self.names = [EVIL_FILE, *(f"digit {i}.png" for i in range(1, SAMPLES))]
        self.x, self.y = torch.tensor(data.images / 16, dtype=torch.float32)[:, None], data.target % 3

    def __len__(self):
        return SAMPLES

    def __getitem__(self, i):
        return self.x[i], int(self.y[i])


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3))


def until(page, condition):
    """Wait until JavaScript is true. Playwright's own way evaluates a text in the page, which its policy forbids."""
    for _ in range(400):
        if page.evaluate(f"!!({condition})"):
            return
        page.wait_for_timeout(50)
    pytest.fail(f"never true: {condition}")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder, model = tmp_path_factory.mktemp("runs"), small()
    # The same settings twice: these runs are told apart by their folders.
    explainers = {"a": VarGrad(model, n_iter=4), EVIL_FILE: VarGrad(model, n_iter=4), "b": GradientXInput(model)}
    return [
        explain_dataset(e, Digits(), out=folder / k, keep_inputs=True, progress=False) for k, e in explainers.items()
    ]


def sections():
    """One section of each kind."""
    model, data = small(), Digits()
    x, y = data.x[:16], torch.as_tensor(data.y[:16])
    heat = GradientXInput(model).explain(x, y)
    mask = torch.zeros(8, 8)
    mask[:2] = 1
    rows = [assess(m, (x, y), shortcut_masks=mask, progress=False).row() for m in (model, small())]
    clusters = clusters_figure(SpRAy(n_clusters=2, n_neighbors=4)(heat), x, attributions=heat.values)
    patches = AgglomerativeDecomposition(model, feature_mask="grid:n_patches=2")
    table = evaluate(
        {EVIL: GradientXInput(model), "vargrad": VarGrad(model)}, ["abpc", "sparseness"], (x, y), progress=False
    )
    return [
        *profile_sections(recommend(model, "image")),
        *evaluation_sections(table),
        *tuning_sections(tune(SmoothGrad(model), ["sparseness", "abpc"], (x[:4], y[:4]), n_trials=4, progress=False)),
        *mitigation_sections(Comparison({"before": rows[:1], EVIL: rows[1:]})),
        Picture("SpRAy", clusters, "two clusters of explanations"),
        Picture("Hierarchy", patches.hierarchy(x[:1], 0).plot(x[:1]), "four patches, joined to one"),
        Table("Plain", [{EVIL: EVIL, "number": 10.0}, {EVIL: "b", "number": 9.5}, {EVIL: "c", "number": -1.0}]),
    ]


def opened(browser, path):
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(path.as_uri())
    return page


@pytest.fixture(scope="module")
def file(runs, tmp_path_factory):
    names = Names(classes=["cat", EVIL, "cow"])
    path = tmp_path_factory.mktemp("page") / "report.html"
    return Report(runs, title=f"Report {EVIL}", names=names, sections=sections()).save(path)


@pytest.fixture
def page(browser, file):
    page = opened(browser, file)
    yield page
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:")] == [file.as_uri()]
    page.close()


def visible(page):
    return page.locator("li.card:visible").count()


def test_the_conclusion_comes_first_and_names_are_searched(page, runs):
    assert page.locator("h2").first.inner_text() == "In short"
    assert page.locator(".conclusion li").count() >= 3
    page.get_by_label("Name").fill(EVIL_FILE[:8].upper())
    assert visible(page) == page.locator("li.card h3", has_text=EVIL_FILE[:8]).count() > 0
    page.get_by_label("Name").fill("no such sample")
    assert visible(page) == 0
    page.get_by_label("Name").fill("")
    page.get_by_label("Order").select_option("wrong")
    rights = [card.get_attribute("data-right") for card in page.locator("li.card").all()]
    assert rights == sorted(rights, reverse=True)
    page.get_by_label("Order").select_option("disagreement")
    values = [float(card.get_attribute("data-disagreement")) for card in page.locator("li.card").all()]
    assert values == sorted(values, reverse=True)
    assert len(runs) > 1


def test_maps_lie_on_the_pictures(page):
    heat = page.locator(".card .heat").first
    behind = "(map) => getComputedStyle(map.parentElement).backgroundImage.slice(0, 20)"
    assert heat.evaluate(behind) == "none"
    page.get_by_label("maps on the pictures").check()
    assert heat.evaluate(behind).startswith('url("data:image')
    assert heat.evaluate("(map) => getComputedStyle(map).opacity") == "0.6"
    page.get_by_label("maps on the pictures").uncheck()
    assert heat.evaluate("(map) => getComputedStyle(map).opacity") == "1"


def test_every_section_is_there_and_nothing_that_data_say_is_code(page):
    titles = page.locator("h2").all_inner_texts()
    kinds = ["Summary", "Model profile", "Explainers that suit it", "Metrics", "Tuning", "Tuning: history"]
    kinds += ["Tuning: front", "Mitigation", "Mitigation: accuracy", "SpRAy", "Hierarchy", "Plain", "Samples"]
    assert [t for t in titles if t in kinds] == kinds
    assert page.title() == page.locator("h1").inner_text() == f"Report {EVIL}"
    assert page.locator("script").count() == 1
    assert page.locator("img[src=x]").count() == 0
    assert page.locator("th", has_text=EVIL).count() == 2
    assert page.locator("td", has_text=EVIL).count() >= 2
    assert page.locator("li.card h3").first.text_content() == EVIL_FILE
    assert page.locator("figcaption", has_text=EVIL_FILE).count() == SAMPLES
    page.get_by_label("Class").select_option(EVIL)
    assert visible(page) > 0


def test_pictures_have_words_and_are_drawn(page):
    assert page.evaluate("Array.from(document.images).every(i => i.closest('dialog') || i.alt.length > 5)")
    assert page.evaluate(
        "Array.from(document.querySelectorAll('button')).every(b => b.textContent.trim() || b.ariaLabel)"
    )
    page.evaluate(
        "Promise.all(Array.from(document.images).filter(i => i.src).map(i => (i.loading = 'eager', i.decode())))"
    )
    levels = page.evaluate("Array.from(document.querySelectorAll('h1, h2, h3, h4')).map(h => Number(h.tagName[1]))")
    assert all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert page.locator("html").get_attribute("lang") == "en"


def test_filters_sorts_and_counts(page, runs):
    samples = list(runs[0])
    page.get_by_label("Class").select_option(EVIL)
    assert visible(page) == sum(s.label == 1 for s in samples)
    page.get_by_label("Prediction").select_option("wrong")
    wanted = sum(s.label == 1 and s.predicted != 1 for s in samples)
    assert visible(page) == wanted
    assert page.locator("#count").inner_text() == f"{wanted} of {SAMPLES} samples"
    page.get_by_label("Class").select_option("")
    page.get_by_label("Prediction").select_option("")
    page.get_by_label("Order").select_option("score")
    scores = [float(c.get_attribute("data-score")) for c in page.locator("li.card").all()]
    assert scores == sorted(scores, reverse=True)
    table = page.get_by_role("region", name="Plain", exact=True)
    head = table.get_by_role("button", name="number")
    for press, wanted in ((head.click, ["-1", "9.5", "10"]), (lambda: head.press("Enter"), ["10", "9.5", "-1"])):
        press()
        assert table.locator("tbody td:nth-child(2)").all_inner_texts() == wanted
    assert table.locator("th[aria-sort=descending]").inner_text() == "number"


def colours(page, locator):
    """How many colours of the screen are clearly red or blue, and how many yellow or violet as inferno's."""
    pixels = np.asarray(Image.open(io.BytesIO(locator.screenshot())).convert("RGB")).astype(int).reshape(-1, 3)
    red, green, blue = pixels.T
    return int(((red - blue > 80) & (green < 120)).sum() + ((blue - red > 60) & (green > 60)).sum())


def test_zooms_and_changes_colours_by_keyboard(page):
    page.locator("#samples").evaluate("e => e.scrollIntoView()")
    map_of = page.locator("img.heat.signed").first
    map_of.wait_for()
    first = page.locator("button.zoom", has=page.locator("img.heat.signed")).first
    small = map_of.bounding_box()["width"]
    in_colour = colours(page, map_of)
    assert in_colour > 0.05 * small**2
    first.focus()
    page.keyboard.press("Enter")
    large = page.locator("dialog[open] img")
    assert large.bounding_box()["width"] > 2 * small
    assert colours(page, large) > 2 * in_colour
    assert f"gradient_x_input of {EVIL_FILE}" in page.locator("dialog figcaption").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    assert first.evaluate("e => e === document.activeElement")
    before = map_of.screenshot()
    page.get_by_label("unsigned", exact=True).check()
    assert map_of.screenshot() != before
    page.get_by_label("signed", exact=True).check()
    assert map_of.screenshot() == before


def test_the_keyboard_reaches_tables_controls_and_pictures(page):
    def focused(what):
        return page.evaluate("what => document.activeElement.matches(what)", what)

    page.keyboard.press("Tab")
    assert focused("a.skip")
    page.keyboard.press("Tab")
    assert focused(".scroll[role=region]")
    page.keyboard.press("Tab")
    assert focused("th button")
    page.get_by_label("Class").focus()
    controls = "[name=right]", "[name=order]", "[name=name]", "[name=overlay]", "[name=colours]"
    for what in (*controls, "button.zoom", "button.zoom"):
        page.keyboard.press("Tab")
        assert focused(what), what
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.keyboard.press("Space")
    assert page.locator("dialog[open]").count() == 1


CONTRAST = """() => {
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const over = (top, below) => [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, weight, i) => {
    const v = c[i] / 255; return sum + weight * (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); }, 0);
  const page = matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18, 1] : [255, 255, 255, 1];
  const poor = [];
  for (const element of document.querySelectorAll("body *")) {
    const words = Array.from(element.childNodes).some(n => n.nodeType === 3 && n.textContent.trim());
    if (!words || !element.checkVisibility() || ["SCRIPT", "OPTION", "SELECT"].includes(element.tagName)) continue;
    const chain = []; let opacity = 1;
    for (let e = element; e; e = e.parentElement) { chain.unshift(e); opacity *= Number(getComputedStyle(e).opacity); }
    if (getComputedStyle(element).position === "absolute") continue;
    const behind = chain.reduce((below, e) => over(parse(getComputedStyle(e).backgroundColor), below), page);
    const ink = parse(getComputedStyle(element).color); ink[3] *= opacity;
    const [a, b] = [light(over(ink, behind)), light(behind)].sort((x, y) => y - x);
    if ((a + 0.05) / (b + 0.05) < 4.5) poor.push([element.textContent.slice(0, 30), (a + 0.05) / (b + 0.05)]);
  }
  return poor;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_word_has_contrast(page, scheme):
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []


def test_fits_a_phone_and_paper(page):
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.emulate_media(media="print")
    assert not page.locator("#controls").is_visible()
    assert visible(page) == SAMPLES
    assert page.pdf().startswith(b"%PDF")


def other_kinds(folder, text_net):
    """Text, series and table, each a page with evil names of its parts."""
    series = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(1194, 2))
    cases = {
        "text": (GradientXInput(text_net, layer="embedding"), torch.randint(9, (6, 40))),
        "series": (GradientXInput(series), torch.rand(6, 2, 400)),
        "tabular": (GradientXInput(nn.Linear(2, 2)), torch.rand(6, 2)),
    }
    names = Names(features=[EVIL, "age"], tokens=lambda ids: [EVIL if i == 0 else f"word{i}" for i in ids])
    for kind, (explainer, x) in cases.items():
        run = explain_dataset(explainer, x, out=folder / kind, keep_inputs=True, progress=False)
        yield kind, Report([run], names=names).save(folder / f"{kind}.html")


def test_texts_series_and_tables(browser, tmp_path, text_net):
    for kind, path in other_kinds(tmp_path, text_net):
        page = opened(browser, path)
        assert page.locator(f"li.card.{kind}").count() == 6
        assert page.locator("script").count() == 1
        if kind == "series":
            assert page.locator("svg.curve[role=img]").count() == 12
            assert EVIL in page.locator("svg.curve").first.get_attribute("aria-label")
            assert colours(page, page.locator("svg.curve").first) > 1000
        else:
            assert EVIL in page.locator(".token, .bars th").filter(has_text=EVIL).first.inner_text()
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            assert page.evaluate(CONTRAST) == [], (kind, scheme)
        page.set_viewport_size({"width": 360, "height": 740})
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert page.said == []
        page.close()


@pytest.fixture
def long_page(browser, tmp_path, monkeypatch):
    """200 rows of a table, of which a browser draws 10 at once."""
    monkeypatch.setattr("xaikit.report.html.DRAWN_AT_ONCE", 10)
    torch.manual_seed(0)
    x = torch.rand(200, 2)
    run = explain_dataset(GradientXInput(nn.Linear(2, 2)), x, out=tmp_path / "run", keep_inputs=True, progress=False)
    page = opened(browser, Report([run], names=Names(features=[EVIL, "age"])).save(tmp_path / "long.html"))
    yield page
    assert page.said == []
    page.close()


def drawn(page):
    """The places in the list of the cards that are drawn."""
    return page.evaluate("Array.from(document.querySelectorAll('li.card'), (c, i) => c.querySelector('h3') ? i : -1)")


def test_a_long_page_draws_what_is_near(long_page):
    page = long_page
    until(page, "document.querySelectorAll('li.card').length > 10")
    assert page.locator("li.card").count() < 180  # the others are made when the reader comes near
    until(page, "document.querySelectorAll('li.card h3').length > 11")
    assert drawn(page)[:12] == list(range(12))
    for _ in range(60):
        page.evaluate("scrollTo(0, document.body.scrollHeight)")
        if drawn(page)[-1] == 199:
            break
        page.wait_for_timeout(50)
    until(page, "document.querySelector('li.card:last-child h3')")
    assert page.locator("li.card").last.locator(".bars th").first.inner_text()
    until(page, "!document.querySelectorAll('li.card')[20].querySelector('h3')")
    page.get_by_label("Order").select_option("score")
    scores = [float(card.get_attribute("data-score")) for card in page.locator("li.card").all()]
    assert scores == sorted(scores, reverse=True)
    page.get_by_label("Name").fill("sample 150")
    assert visible(page) == 1
    assert page.locator("li.card:visible h3").inner_text() == "sample 150"
    assert page.locator("#count").inner_text() == "1 of 200 samples"


def test_the_page_unpacks_what_was_packed(long_page):
    random = np.random.default_rng(0)
    texts = ["", "a", "<p>ä€😀</p>\n" * 300, "".join(map(chr, range(1, 3000))), "x" * 200_000, "ab" * 7 + "c"]
    texts += [random.bytes(40_000).hex(), "".join(map(chr, random.integers(1, 0xD7FF, 50_000)))]  # long codes; stored
    texts += ["".join(random.choice(list("abcdefgh"), 90_000, p=[0.6, 0.2, 0.1, 0.04, 0.03, 0.01, 0.01, 0.01]))]
    for text in texts:
        assert long_page.evaluate("text => unpacked(text)", packed(text)) == text


def test_a_long_page_is_printed_whole(long_page):
    long_page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert visible(long_page) == 200
    long_page.wait_for_timeout(300)  # nothing is put back while it prints
    assert drawn(long_page) == list(range(200))
    assert long_page.locator("li.card h3").all_text_contents() == [f"sample {i}" for i in range(200)]
    assert long_page.locator("script").count() == 11  # the page's own, ten texts of 190 cards
    long_page.evaluate("dispatchEvent(new Event('afterprint'))")
    until(long_page, "document.querySelectorAll('li.card h3').length < 100")
