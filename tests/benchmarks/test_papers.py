"""The papers' benchmarks: data as the papers derive them, and a harness that resumes and chooses by validation."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks.papers import compas, data, readme, sst
from benchmarks.papers.color_mnist import palette
from benchmarks.papers.decoy_mnist import corners, decoyed
from benchmarks.papers.harness import Batches, Benchmark, Method, Results, accuracy, fit, markdown, run, table
from xaikit import RRR


class Toy(Benchmark):
    """Two inputs, of which the first tells the label in training only."""

    NAME, FIGURES = "toy", ("right",)
    EPOCHS, BATCH, LR = 20, 16, 5e-2
    trained = 0

    def network(self):
        return nn.Linear(2, 2)

    def methods(self):
        return {
            "vanilla": Method(),
            "rrr": Method(lambda w: self.mitigator(RRR, lambda_rrr=w), (1e-6, 10.0)),
        }

    def points(self, told):
        y = torch.arange(64) % 2
        return torch.stack([4.0 * (y if told else 1 - y), y + 0.3 * torch.randn(64)], 1), y

    def train(self, model, method, weight, seed):
        x, y = self.points(told=True)
        mitigator = None if method.mitigator is None else method.mitigator(weight)
        fit(self, model, mitigator, Batches(x, y, torch.tensor([1.0, 0.0]), self.BATCH), seed)
        Toy.trained += 1

    def validate(self, model):
        return {"accuracy": accuracy(model, *self.points(told=False))}

    def measure(self, model):
        return {"right": accuracy(model, *self.points(told=False))}


def test_the_harness_chooses_by_validation_and_resumes(tmp_path):
    toy, path = Toy(tmp_path), tmp_path / "toy.json"
    run(toy, Results(path, 1), [], 3)
    assert Results(path, 1).chosen == {"vanilla": 0.0, "rrr": 10.0}
    assert Toy.trained == 3 + 2 + 2  # three seeds, two weights at the first, the chosen one at the others
    run(toy, Results(path, 1), [], 3)
    assert Toy.trained == 7
    rows = table(Results(path, 1))
    assert rows["vanilla"]["seeds"] == 3
    assert markdown(Toy, rows).count("\n") == 3
    kept = Results(path, 1).find("rrr", 10.0, 2)
    assert "lambda_rrr=10.0" in kept["settings"]
    run(toy, Results(path, 2), ["vanilla"], 1)  # another recipe: nothing is taken over
    assert Toy.trained == 8


def test_a_patch_tells_the_label():
    images, told = torch.zeros(200, 28, 28), torch.arange(200) % 10
    x = decoyed(images, told, seed=0)
    assert x.shape == (200, 1, 28, 28)
    patch = (x != -1).flatten(1)
    assert (patch.sum(1) == 25).all()
    assert torch.allclose(x.flatten(1).max(1).values, (255 - 25 * told) / 255 * 2 - 1)
    assert (patch.float() @ corners().flatten() == 25).all()  # each lies in the mask
    assert len(patch.unique(dim=0)) == 4
    assert int(corners().sum()) == 100


def test_the_palette_is_the_published_one(golden):
    published = np.load(golden / "cd_lenet_color.npz")["colors"]
    assert np.allclose(palette().numpy(), published, atol=1e-12)


def test_compas_as_filtered_by_the_papers(shared):
    x, y = compas.load(shared / "data")
    assert x.shape == (6172, 17)
    assert y.double().mean() == pytest.approx(0.4551, abs=5e-5)
    assert (x[:, : compas.RACES].sum(1) == 1).all()
    assert x[:, compas.BLACK].sum() == 3175
    assert x[:, compas.WHITE].sum() == 2103


def test_trees_give_the_published_sentences(shared):
    tree = "(3 (2 The) (4 (3 good) (2 (2 -LRB-) (1 bad))))"
    assert sst._of_tree(tree, whole=True) == [(["the", "good", "-lrb-", "bad"], 3)]
    assert len(sst._of_tree(tree, whole=False)) == 7
    counts = [len(sst.phrases(shared / "data", part, whole=True)) for part in ("train", "dev", "test")]
    assert counts == [6920, 872, 1821]


def test_words_that_tell_the_label(shared):
    decoy, articles = sst.SstDecoy(shared / "data"), sst.SstArticles(shared / "data")
    for words, label in decoy.told("train", "same", 0)[:50]:
        assert decoy.WORDS[label] in words
    for words, label in articles.told("test", "flipped", 0):
        assert sum(w in articles.WORDS for w in words) == 1
        assert articles.WORDS[1 - label] in words
    assert articles.tell((["the", "cat", "and", "a", "dog"], 1), 1, random.Random(0)) == (
        ["a", "cat", "and", "that", "dog"],
        1,
    )
    x, y, mask = next(iter(sst.SpeakingWords(decoy, decoy.told("train", "same", 0)[:64])))
    assert x.shape == mask.shape
    assert (mask.sum(1) >= 1).all()
    assert (mask.sum(1) <= 2).all()  # "video" is also a word that people use
    assert decoy.network()(x).shape == (len(y), 2)


def test_a_folder_must_be_named(monkeypatch, tmp_path):
    monkeypatch.delenv("XAIKIT_SHARED", raising=False)
    with pytest.raises(SystemExit, match="--data-dir"):
        data.folder(None)
    with pytest.raises(SystemExit, match="no data folder"):
        data.folder(str(tmp_path / "absent"))
    with pytest.raises(SystemExit, match=r"MNIST's four \.gz files"):
        data.mnist(tmp_path)


def test_the_page_holds_the_results():
    assert readme.page(readme.PAGE.read_text()) == readme.PAGE.read_text()
