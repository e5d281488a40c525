from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image
from torch import nn

from xaikit import GradientXInput, IntegratedGradients, Report, VarGrad, explain_dataset
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.report import Names, Picture, Table, pictures
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
    picture = Picture("History", figure, description='rises from 1 to 2, "quoted"')
    with pytest.raises(InvalidTypeError, match=r"Picture\(\) has no argument 'words' any more; it is called 'descr"):
        Picture("History", figure, words="rises")
    with pytest.raises(AttributeError, match="Picture has no 'words' any more; it is called 'description' now"):
        picture.words  # noqa: B018
    sections = [table, picture]
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
    assert f"{100 * right:.1f} % of 12 samples with a label" in page
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
        torch.stack([sample.inputs for sample in runs[0]])[:3],
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
    with pytest.raises(OSError, match=r"No space.*report\.html"):
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
    assert not any(t["glued"] for t in card["tokens"])
    assert [(t["word"], t["value"], t["share"], t["sign"]) for t in card["tokens"]] == [
        ("w7", 1.0, 0.5, "for"),
        ("w8", -2.0, 1.0, "against"),
        ("w9", 0.25, 0.125, "for"),
    ]
    assert card["words"] == "strongest: w8 (-2), w7 (+1), w9 (+0.25)"
    with pytest.raises(InvalidInputError, match="must give 3 tokens"):
        drawn("text", values, np.array([7, 8, 9]), Names(tokens=lambda ids: ["one"]))


def test_pieces_of_a_word_stand_together_and_padding_is_told_once():
    words = ["[CLS]", "move", "##ment", "##", "[PAD]", "[PAD]"]
    names = Names(tokens=lambda ids: [words[i] for i in ids], padding="[PAD]")

    def shown(values):
        return [(t["word"], t["glued"], t["value"]) for t in drawn("text", values, np.arange(6), names)["tokens"]]

    start = [("[CLS]", False, 1.0), ("move", False, 2.0), ("ment", True, -1.0), ("##", False, 0.5)]
    assert shown(np.array([1, 2, -1, 0.5, 0, 0])) == start
    assert shown(np.array([1, 2, -1, 0.5, 0.25, 0.5])) == [*start, ("2\u00a0×\u00a0[PAD]", False, 0.75)]
    one = drawn("text", np.array([1.0, 0]), np.array([1, 5]), names)["tokens"]
    assert [t["word"] for t in one] == ["move"]  # also a single one


def test_large_numbers_shares_and_long_cells_are_readable():
    rows = [{"what": "parameters", "n": 1_234_567, "share": 0.5, "why": "a" * 50}, {"what": "a_b", "n": 12, "why": ""}]
    page = Report(sections=[Table("numbers", rows, shares=True)]).html()
    for cell in ("1,234,567</td>", ">12</td>", ">50.0 %</td>", 'data-column="why" class="long"', "a_<wbr>b"):
        assert cell in page
    assert 'class="sortable stacked"' in page
    assert 'class="sortable stacked"' not in Report(sections=[Table("numbers", [{"n": 1, "m": 2, "k": 3}])]).html()


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
    curves = np.random.default_rng(0).normal(size=(2, 10))
    card = drawn("series", values, curves, Names())
    bands = [greys(channel["bands"])[0].tolist() for channel in card["channels"]]
    assert bands == [[128] * 10, [128] * 4 + [0] + [128] * 5]
    assert len(card["channels"][0]["points"].split()) == 10
    assert card["channels"][1]["low"] == curves[1].min()


def test_a_long_curve_keeps_its_peaks():
    curve = np.random.default_rng(0).normal(size=20_000)
    curve[[777, 12_345]] = -9, 9
    card = drawn("series", curve[None], curve[None], Names())
    points = [tuple(map(int, point.split(","))) for point in card["channels"][0]["points"].split()]
    assert len(points) <= 400
    assert [x for x, y in points if y == max(y for _, y in points)] == [round(777.5 * 600 / 20_000)]
    assert [x for x, y in points if y == min(y for _, y in points)] == [round(12_345.5 * 600 / 20_000)]


def greys(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def test_greys_and_their_colours_give_the_colour_map():
    values = np.linspace(-1, 1, 64)[None]
    tables = {k: [np.array(t.split(), float) for t in v] for k, v in pictures.colouring().items()}

    def shown(picture, filter_):  # what SVG defines: linear between the entries of a table
        place = greys(picture)[0] / 255
        return np.stack([np.interp(place, np.linspace(0, 1, len(t)), t) for t in tables[filter_]], 1)

    signed = pictures.heatmap(values, 1.0, signed=True)
    assert np.abs(shown(signed, "signed") - colormaps["RdBu_r"]((values[0] + 1) / 2)[:, :3]).max() < 0.03
    assert np.abs(shown(signed, "folded") - colormaps["inferno"](np.abs(values[0]))[:, :3]).max() < 0.03
    size = pictures.heatmap(np.abs(values), 1.0, signed=False)
    assert np.abs(shown(size, "unsigned") - colormaps["inferno"](np.abs(values[0]))[:, :3]).max() < 0.02


def test_the_pictures_of_a_page_share_its_pixels():
    assert [pictures.side_of(n) for n in (1, 3_000, 6_000)] == [1024, 223, 158]
    large = drawn("image", np.random.default_rng(0).normal(size=(3, 300, 200)), None, Names(), side=100)
    assert greys(large["picture"]).shape[:2] == (100, 67)
    assert "of 300, column" in large["words"]


def test_a_notebook_shows_the_page_in_a_frame():
    shown = Report(title=EVIL)._repr_html_()
    assert shown.startswith('<iframe srcdoc="&lt;!doctype html&gt;')
    assert shown.count("<") == 2


def test_text_series_and_tables_make_pages(tmp_path, text_net):
    series = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(24, 2))
    cases = {
        "text": (GradientXInput(text_net, layer="embedding"), torch.randint(9, (4, 6))),
        "series": (GradientXInput(series), torch.rand(4, 2, 10)),
        "tabular": (GradientXInput(nn.Linear(5, 2)), torch.rand(4, 5)),
    }
    for kind, (explainer, x) in cases.items():
        run = explain_dataset(explainer, x, out=tmp_path / kind, keep_inputs=True, progress=False)
        assert f'<li class="card {kind}"' in Report([run]).html()
