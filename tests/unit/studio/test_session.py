"""What the page is told: cards, details, measures, suggestions; pictures, texts, series and tables."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from torch import nn

from tests.unit.studio.conftest import SIDE, Pictures, flags_of, small_model
from xaikit import load_masks, load_run
from xaikit.cli.masks import read_masks
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.explainers import Gradient, GradientXInput, VarGrad
from xaikit.report import Names
from xaikit.runs import explain_dataset
from xaikit.studio import Studio
from xaikit.studio.explainer_text import explainer_text, target_field


def test_cards_are_the_run_s_samples(called, runs):
    page, run = called(*runs), load_run(runs[0])
    answer = page.get("/api/samples?start=1&count=3&side=64")
    assert answer["total"] == 40
    for card, position in zip(answer["cards"], (1, 2, 3), strict=True):
        sample = run[position]
        assert card["name"] == sample.name
        assert card["label"] == ["cat", "dog"][sample.label]
        assert card["right"] == (sample.label == sample.predicted)
        assert [m["explainer"] for m in card["maps"]] == ["gradient_x_input", "gradient"]
        assert card["input"].startswith("data:image/png;base64,")
    assert answer["cards"][0]["name"] == "<script>alert(1)</script>.png"  # as text, for the page to show as text
    own, one = (page.get(f"/api/samples/5{q}")["maps"] for q in ("", "?scale=one"))
    assert {m["scale"] for m in one} == {max(m["scale"] for m in own)}
    state = page.get("/api/state")
    assert (state["kind"], state["shape"], state["samples"], state["jobs"]) == ("image", [SIDE, SIDE], 40, False)
    assert state["filters"]["folder"] == ["<script>alert(1)<", "test", "train"]
    for wrong in ("order=x", "start=-1", "start=1e9", "side=x", "label=a", "right=DROP", "count=5000"):
        assert "error" in page.get(f"/api/samples?{wrong}", status=400)
    assert "no sample at position 99" in page.get("/api/samples/99", status=400)["error"]


def test_another_sample_under_that_number_is_not_shown_beside(called, runs):
    page = called(*runs)
    with page.session.catalogues[1].connection() as base:
        base.execute("UPDATE samples SET fingerprint = 'other content' WHERE position = 3")
    assert len(page.get("/api/samples/3")["maps"]) == 1
    assert len(page.get("/api/samples/4")["maps"]) == 2


def measured(page, name):
    page.post("/api/measure", {"name": name})
    while page.get("/api/state")["measure"]["running"]:
        time.sleep(0.01)


def test_orders_that_are_computed(called, runs, tmp_path):
    runs.append(tmp_path / "third")
    explain_dataset(VarGrad(small_model(), n_iter=2), Pictures(), out=runs[2], progress=False)
    page = called(*runs)
    edit = {"meaning": "must-not-matter", "scope": "all", "position": 0, "base": 0, "added": [0, 9]}
    page.post("/api/marks", edit)
    maps = [np.stack([s.values[0].abs().numpy().reshape(-1) for s in load_run(r)]).astype(float) for r in runs]
    one = [m / np.linalg.norm(m, axis=1, keepdims=True) for m in maps]
    disagreement = 1 - sum((one[i] * one[j]).sum(1) for i, j in ((0, 1), (0, 2), (1, 2))) / 3
    for end in (9, 12):  # the marks of the second round are others
        for name in ("region", "disagreement"):
            measured(page, name)
        region = maps[0][:, :end].sum(1) / maps[0].sum(1)
        for order, values in (("region", -region), ("-region", region), ("disagreement", -disagreement)):
            shown = [c["position"] for c in page.get(f"/api/samples?order={order}&count=40&side=16")["cards"]]
            assert shown == np.argsort(values, kind="stable").tolist()
        page.post("/api/marks", {**edit, "base": 1, "added": [0, 12]})
    assert "no measure" in page.post("/api/measure", {"name": "x"}, status=400)["error"]


def test_suggestions(called, runs):
    page = called(*runs)
    weights = np.stack([s.values[0].abs().numpy().reshape(-1) for s in load_run(runs[0])]).astype(float)
    answer = page.post("/api/suggest", {"by": "sample", "position": 7, "threshold": 0.4})
    assert np.array_equal(flags_of(answer["runs"], SIDE**2), weights[7] >= 0.4 * weights[7].max())
    answer = page.post("/api/suggest", {"by": "common", "threshold": 0.6, "filters": {"label": "1"}})
    mean = (weights[1::2] / weights[1::2].sum(1, keepdims=True)).mean(0)
    assert np.array_equal(flags_of(answer["runs"], SIDE**2), mean >= 0.6 * mean.max())
    for wrong in ({"by": "x"}, {"by": "sample", "position": 7, "threshold": 0}, {"by": "factor", "job": "../1"},
                  {"by": "common", "filters": {"name": "nothing has this"}}):  # fmt: skip
        assert "error" in page.post("/api/suggest", wrong, status=400)


def test_marks_are_masks(called, runs):
    page = called(runs[0])
    for scope, position, added in (("all", 0, [35, 1]), ("class", 1, [6, 2]), ("sample", 2, [0, 3])):
        page.post("/api/marks", {"meaning": "must-not-matter", "scope": scope, "position": position, "base": 0,
                                 "added": added})  # fmt: skip
    folder = runs[0] / "marks" / "must-not-matter"
    expected = np.zeros((40, SIDE**2), bool)
    expected[:, 35] = True
    expected[1::2, 6:8] = True
    expected[2, 0:3] = True
    assert np.array_equal(load_masks(folder).numpy().reshape(40, -1) > 0, expected)

    class Data:
        names = [row["name"] for row in load_run(runs[0]).rows()]
        pictures = None
        fingerprint = staticmethod(lambda i: f"content {i}")

    masks = read_masks(folder, data=Data)
    chosen = torch.tensor([2, 1, 4])
    read = masks.of(chosen, torch.zeros(3, 1, SIDE, SIDE), 40, torch.tensor([0, 1, 0]))
    assert np.array_equal(read.numpy().reshape(3, -1) > 0, expected[[2, 1, 4]])
    twice = masks.of(chosen, torch.zeros(3, 1, 2 * SIDE, 2 * SIDE), 40, torch.tensor([0, 1, 0]))
    assert np.array_equal(twice.numpy()[:, ::2, ::2].reshape(3, -1) > 0, expected[[2, 1, 4]])
    with pytest.raises(InvalidInputError, match=r"was marked on samples of 6x6, and .* has 6x8"):
        masks.of(chosen, torch.zeros(3, 1, SIDE, SIDE + 2), 40, torch.tensor([0, 1, 0]))
    with pytest.raises(InvalidInputError, match="marks of classes, and the data has no labels"):
        masks.of(chosen, torch.zeros(3, 1, SIDE, SIDE), 40)
    with pytest.raises(InvalidInputError, match="two meanings; name .*must-not-matter or .*must-matter"):
        read_masks(folder.parent, data=Data)
    with pytest.raises(InvalidInputError, match="holds no mark"):
        read_masks(folder.parent / "must-matter", data=Data)
    Data.fingerprint = staticmethod(lambda i: "other content")
    with pytest.raises(InvalidInputError, match="test/.*|train/.* had other content"):
        read_masks(folder, data=Data).of(chosen, torch.zeros(3, 1, SIDE, SIDE), 40, torch.tensor([0, 1, 0]))


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.out = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, tokens):
        return self.out(self.embedding(tokens).mean(1))


def other_runs(folder):
    torch.manual_seed(0)
    ids = torch.randint(1, 9, (12, 5))
    explain_dataset(Gradient(Words(), layer="embedding"), ids, out=folder / "text", keep_inputs=True, progress=False)
    table = nn.Linear(4, 2)
    explain_dataset(GradientXInput(table), torch.rand(12, 4), out=folder / "tabular", keep_inputs=True, progress=False)
    series = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(3 * 14, 2))
    explain_dataset(Gradient(series), torch.rand(12, 2, 16), out=folder / "series", keep_inputs=True, progress=False)
    return ids


def test_texts_series_and_tables(called, tmp_path):
    ids = other_runs(tmp_path)
    words = Names(tokens=lambda tokens: [f"w{i}" for i in tokens])
    for kind, shape in (("text", [5]), ("tabular", [4]), ("series", [16])):
        page = called(tmp_path / kind, names=words)
        assert (page.get("/api/state")["kind"], page.get("/api/state")["shape"]) == (kind, shape)
        card = page.get("/api/samples/0")
        assert len(card["weights"]) == shape[0]
        edit = {"meaning": "must-not-matter", "position": 0, "base": 0}
        page.post("/api/marks", {**edit, "scope": "sample", "added": [1, 2]})
        page.post("/api/marks", {**edit, "scope": "all", "added": [int(ids[0, 4]), 1] if kind == "text" else [3, 1]})
        folder = tmp_path / kind / "marks" / "must-not-matter"
        assert {p.name for p in folder.rglob("*.json")} == {"all.json", "sample 0.json"}

        class Data:
            names = [f"sample {i}" for i in range(12)]

        x = ids if kind == "text" else torch.zeros(12, *({"tabular": (4,), "series": (2, 16)}[kind]))
        read = read_masks(folder, data=Data).of(torch.arange(12), x, 12).bool()
        expected = (ids == ids[0, 4]) if kind == "text" else torch.zeros(12, shape[0], dtype=torch.bool)
        if kind != "text":
            expected[:, 3] = True
        expected[0, 1:3] = True
        assert torch.equal(read, expected)
        if kind != "text":
            assert torch.equal(load_masks(folder).bool(), expected)
    channels = page.get("/api/samples?count=1")["cards"][0]["maps"][0]
    assert (len(channels["channels"]), channels["left_out"]) == (2, 0)
    facts = (tmp_path / "tabular/marks/must-not-matter/all.json").read_text()
    assert '"feature 3"' in facts
    assert f'"w{int(ids[0, 4])}"' in (tmp_path / "text/marks/must-not-matter/all.json").read_text()


def test_wrong_calls(tmp_path, runs):
    with pytest.raises(InvalidTypeError, match="model is named as on the command line"):
        Studio(runs[0], model=Words())
    with pytest.raises(InvalidInputError, match="needs a run"):
        Studio([])
    with pytest.raises(InvalidInputError, match="there is no folder"):
        Studio(tmp_path / "nowhere").session()
    with pytest.raises(InvalidInputError, match="holds no run"):
        Studio(tmp_path).session()
    for port in (-1, 65536, "8431"):
        with pytest.raises(InvalidInputError, match="a port is a number from 0 to 65535"):
            Studio(runs[0], port=port)
    with pytest.raises(InvalidInputError, match="it is no address of this machine; name one as --host"):
        Studio(runs[0], host="203.0.113.7").serve(print)
    others = Pictures()
    others.fingerprint = lambda i: f"other content {i}"
    explain_dataset(Gradient(small_model()), others, out=tmp_path / "others", progress=False)
    explain_dataset(Gradient(nn.Linear(4, 2)), torch.rand(40, 4), out=tmp_path / "table", progress=False)
    for run in ("others", "table"):
        with pytest.raises(
            InvalidInputError, match=f"{run} explained other samples than .*run; only runs over the same"
        ):
            Studio([runs[0], tmp_path / run]).session()
    with pytest.raises(InvalidInputError, match="name another folder with --marks"):
        Studio(runs[0], marks=other_marks(tmp_path)).session()


def test_samples_that_a_position_means_nothing_in(called, tmp_path):
    ids = torch.randint(1, 9, (3, 5))
    explain_dataset(Gradient(Words(), layer="embedding"), ids, out=tmp_path / "bare", progress=False)
    with pytest.raises(InvalidInputError, match="explains the layer embedding and holds no inputs"):
        Studio(tmp_path / "bare").session()

    class Forms:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            return torch.ones(1, *((4, 6), (6, 4))[index])

    model = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4, 2))
    explain_dataset(Gradient(model), Forms(), out=tmp_path / "forms", batch_size=1, shard_size=1, progress=False)
    page = called(tmp_path / "forms")
    edit = {"meaning": "must-not-matter", "scope": "sample", "base": 0, "added": [0, 2]}
    assert page.post("/api/marks", {**edit, "position": 0})["edit"] == 1
    for scope in ("sample", "all"):
        answer = page.post("/api/marks", {**edit, "scope": scope, "position": 1}, status=400)
        assert "has the form 6x4, and the marks of this run 4x6" in answer["error"]


def other_marks(folder):
    from xaikit.files.marks import MarkFolder

    return MarkFolder.begin(folder / "other marks", "image", (3, 3)).path


def test_a_full_disk_is_told_and_the_mark_stays(called, runs, monkeypatch):
    page = called(runs[0])
    edit = {"meaning": "must-matter", "scope": "all", "position": 0, "base": 0, "added": [0, 2], "identifier": "a"}
    full = OSError(28, "No space left on device", "all.png")
    with monkeypatch.context() as patch:
        patch.setattr("xaikit.studio.marks.write_whole", lambda *_: (_ for _ in ()).throw(full))
        answer = page.post("/api/marks", edit, status=507)
    assert answer["error"] == "all.png: No space left on device; nothing was changed; make room on the disk"
    assert page.get("/api/marks?meaning=must-matter&scope=all&position=0")["runs"] == []
    assert page.post("/api/marks", edit)["runs"] == [0, 2]


def test_spec_strings_of_explainers_and_targets():
    from xaikit.core import EXPLAINERS

    for text in ("vargrad:n_iter=7", "integrated_gradients:n_steps=9", "gradient", "lrp_epsilon_plus:epsilon=0.01"):
        spec = EXPLAINERS.create(text).spec()
        assert EXPLAINERS.create(explainer_text(spec)).spec() == spec
    assert target_field("predicted") == ""
    assert target_field("label") == "label"
    assert target_field(3) == "3"


def test_the_port_is_taken(runs):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InvalidInputError, match=rf"cannot listen at 127.0.0.1:{port} \(.*\); name another --port"):
            Studio(runs[0], port=port).serve(print)
