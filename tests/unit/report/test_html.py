from __future__ import annotations

import re
import shutil

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from torch import nn

from xaikit import GradientXInput, IntegratedGradients, Names, Picture, Report, Table, VarGrad, explain_dataset
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.report.cards import drawn, kind_of

EVIL = "<script>alert(1)</script>"


def image_runs(folder, n=12):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(144, 3))
    data = torch.rand(n, 1, 8, 8), torch.arange(n) % 3
    explainers = {"a": IntegratedGradients(model), "b": VarGrad(model, n_iter=4)}
    return [explain_dataset(e, data, out=folder / k, keep_inputs=True, progress=False) for k, e in explainers.items()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return image_runs(tmp_path_factory.mktemp("runs"))


def report(runs, **fields):
    table = Table("Metrics", [{"explainer": EVIL, "AbPC": 0.25}, {"explainer": "b", "AbPC": 0.125}], "95 % interval")
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    sections = [table, Picture("History", figure, 'rises from 1 to 2, "quoted"')]
    return Report(runs, title=f"Report {EVIL}", names=Names(classes=["cat", EVIL, "cow"]), sections=sections, **fields)


def test_the_page_holds_everything_and_asks_for_nothing(runs):
    page = report(runs).html()
    assert EVIL not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 3
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert len(re.findall(r'<li class="card image"', page)) == 12
    for expected in ("integrated_gradients", "vargrad", "accuracy", "0.125", "95 % interval", "12 of 12"):
        assert expected in page
    alts = re.findall(r'<img[^>]*alt="([^"]*)"', page)
    assert sum(bool(alt) for alt in alts) >= 12 * 3 + 1


def test_the_summary_counts_what_is_right(runs):
    samples = list(runs[0])
    right = sum(s.label == s.predicted for s in samples) / len(samples)
    page = report(runs).html()
    assert f"{right:.1%} of 12 samples with a label" in page
    assert page.count('data-right="right"') == round(right * 12)


def test_a_limit_spreads_over_the_data(runs):
    page = report(runs, limit=4).html()
    assert re.findall(r'data-index="(\d+)"', page) == ["0", "3", "6", "9"]
    assert "12 of 12, 4 shown" in page


def test_two_settings_of_one_explainer_are_told_apart(tmp_path):
    model, x = nn.Linear(4, 2), torch.rand(3, 4)
    runs = [
        explain_dataset(VarGrad(model, n_iter=n), x, out=tmp_path / str(n), progress=False, keep_inputs=True)
        for n in (2, 3)
    ]
    page = Report(runs).html()
    assert "vargrad (n_iter=2)" in page
    assert "vargrad (n_iter=3)" in page


def test_only_samples_that_every_run_has_are_shown(tmp_path):
    runs = image_runs(tmp_path, n=5)
    other = explain_dataset(
        VarGrad(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), n_iter=2),
        torch.rand(3, 1, 8, 8),
        out=tmp_path / "c",
        progress=False,
    )
    assert re.findall(r'data-index="(\d+)"', Report([*runs, other]).html()) == ["0", "1", "2"]


def test_saving_is_whole_or_nothing(runs, tmp_path, monkeypatch):
    path = report(runs).save(tmp_path / "report.html")
    content = path.read_text(encoding="utf-8")
    assert content.startswith("<!doctype html>")
    with pytest.raises(InvalidInputError, match=r"saved as \.html, got 'report\.pdf'"):
        report(runs).save(tmp_path / "report.pdf")
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        Report(title="other").save(path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8") == content


def test_what_is_no_run_or_section_is_refused(runs):
    with pytest.raises(InvalidTypeError, match="shows runs"):
        Report(["folder"])
    with pytest.raises(InvalidTypeError, match="a Table or a Picture"):
        Report(runs, sections=["text"])


def test_kinds_follow_the_form():
    ids = np.arange(4)
    assert kind_of(np.zeros((4, 8)), ids) == "text"
    assert kind_of(np.zeros((3, 8, 8)), None) == "image"
    assert kind_of(np.zeros((2, 8)), None) == "series"
    assert kind_of(np.zeros(5), None) == "tabular"
    with pytest.raises(InvalidInputError, match="has no picture"):
        kind_of(np.zeros((1, 2, 3, 4)), None)


def test_a_text_card_sums_the_embedding_and_names_the_strongest():
    values = np.array([[0.5, 0.5], [-2.0, 0.0], [0.0, 0.25]])
    card = drawn("text", values, np.array([7, 8, 9]), Names(tokens=lambda ids: [f"w{i}" for i in ids]))
    assert [(t["word"], t["value"], t["share"], t["sign"]) for t in card["tokens"]] == [
        ("w7", 1.0, 0.5, "for"),
        ("w8", -2.0, 1.0, "against"),
        ("w9", 0.25, 0.125, "for"),
    ]
    assert card["words"] == "strongest: w8 (-2), w7 (+1), w9 (+0.25)"
    with pytest.raises(InvalidInputError, match="must give 3 tokens"):
        drawn("text", values, np.array([7, 8, 9]), Names(tokens=lambda ids: ["one"]))


def test_a_table_card_orders_the_columns_by_size():
    card = drawn(
        "tabular", np.array([0.1, -3.0, 2.0]), np.array([4.0, 5.0, 6.0]), Names(features=["age", "sex", "race"])
    )
    assert [b["word"] for b in card["bars"]] == ["sex = 5", "race = 6", "age = 4"]
    with pytest.raises(InvalidInputError, match="must name 3"):
        drawn("tabular", np.zeros(3), None, Names(features=["age"]))


def test_a_series_card_bands_where_the_attribution_is():
    values = np.zeros((2, 10))
    values[1, 4] = -2.0
    card = drawn("series", values, np.random.default_rng(0).normal(size=(2, 10)), Names())
    bands = card["channels"][1]["bands"]
    assert [(b["x"], b["sign"], b["opacity"]) for b in bands] == [("240.00", "against", "1.00")]
    assert card["channels"][0]["bands"] == []


def test_text_series_and_tables_make_pages(tmp_path):
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.out = nn.Embedding(9, 4), nn.Linear(4, 2)

        def forward(self, tokens):
            return self.out(self.embedding(tokens).mean(1))

    series = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(24, 2))
    cases = {
        "text": (GradientXInput(Text(), layer="embedding"), torch.randint(9, (4, 6))),
        "series": (GradientXInput(series), torch.rand(4, 2, 10)),
        "tabular": (GradientXInput(nn.Linear(5, 2)), torch.rand(4, 5)),
    }
    for kind, (explainer, x) in cases.items():
        run = explain_dataset(explainer, x, out=tmp_path / kind, keep_inputs=True, progress=False)
        assert f'<li class="card {kind}"' in Report([run]).html()


# ---------------------------------------------------------------------- in a real browser


@pytest.fixture(scope="module")
def browser():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no chromium here; on Debian: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright; pip install playwright")
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser, runs, tmp_path):
    path = report(runs).save(tmp_path / "report.html")
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(message.text))
    page.on("pageerror", lambda error: page.said.append(str(error)))
    page.on("dialog", lambda dialog: (page.said.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(path.as_uri())
    yield page
    page.close()


def visible(page):
    return page.locator("li.card:visible").count()


@pytest.mark.slow
def test_chromium_opens_it_without_an_error_or_a_request(page, runs):
    assert page.said == []
    assert [url for url in page.asked if not url.startswith("data:")] == [page.url]
    assert page.title() == f"Report {EVIL}"
    assert page.locator("h1").inner_text() == f"Report {EVIL}"
    assert page.locator("main script").count() == 0
    page.wait_for_function("Array.from(document.images).slice(0, 3).every(i => i.complete && i.naturalWidth > 0)")


@pytest.mark.slow
def test_chromium_filters_sorts_and_counts(page, runs):
    samples = list(runs[0])
    page.get_by_label("Class").select_option(EVIL)
    assert visible(page) == sum(s.label == 1 for s in samples)
    page.get_by_label("Prediction").select_option("wrong")
    wanted = sum(s.label == 1 and s.predicted != 1 for s in samples)
    assert visible(page) == wanted
    assert page.locator("#count").inner_text() == f"{wanted} of 12 samples"
    page.get_by_label("Class").select_option("")
    page.get_by_label("Prediction").select_option("")
    page.get_by_label("Order").select_option("score")
    scores = [float(c.get_attribute("data-score")) for c in page.locator("li.card").all()]
    assert scores == sorted(scores, reverse=True)
    page.get_by_role("button", name="AbPC").click()
    cells = page.locator("table.sortable tbody tr td:nth-child(2)").all_inner_texts()
    assert cells == ["0.125", "0.25"]
    page.get_by_role("button", name="AbPC").press("Enter")
    assert page.locator("table.sortable tbody tr td:nth-child(2)").all_inner_texts() == ["0.25", "0.125"]
    assert page.said == []


@pytest.mark.slow
def test_chromium_zooms_and_changes_colours_by_keyboard(page):
    first = page.locator("button.zoom").nth(1)
    small = first.locator("img").bounding_box()["width"]
    first.focus()
    page.keyboard.press("Enter")
    large = page.locator("dialog[open] img")
    assert large.bounding_box()["width"] > 2 * small
    assert "integrated_gradients of sample 0" in page.locator("dialog figcaption").inner_text()
    page.keyboard.press("Escape")
    assert page.locator("dialog[open]").count() == 0
    before = first.locator("img").get_attribute("src")
    page.get_by_label("unsigned", exact=True).check()
    after = first.locator("img").get_attribute("src")
    assert after != before
    page.get_by_label("signed", exact=True).check()
    assert first.locator("img").get_attribute("src") == before
    assert page.said == []


@pytest.mark.slow
def test_chromium_fits_a_phone_and_paper(page):
    page.set_viewport_size({"width": 360, "height": 740})
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.emulate_media(media="print")
    assert not page.locator("#controls").is_visible()
    assert visible(page) == 12
