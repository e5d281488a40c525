"""The papers' benchmarks: data as the papers derive them, and a harness that resumes and chooses by validation."""

from __future__ import annotations

import csv
import gzip
import random
import zipfile

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


PERSON = {
    "days_b_screening_arrest": 0, "is_recid": 0, "c_charge_degree": "F", "score_text": "Low", "race": "Caucasian",
    "age_cat": "25 - 45", "sex": "Male", "priors_count": 3, "c_charge_desc": "Battery", "two_year_recid": 1,
}  # fmt: skip
PEOPLE = [
    {"race": "African-American", "c_charge_desc": "Grand Theft Auto", "two_year_recid": 0},
    {"race": "Asian", "age_cat": "Less than 25", "c_charge_degree": "M", "days_b_screening_arrest": -30},
    {"race": "Caucasian", "age_cat": "Greater than 45", "sex": "Female"},
    {"race": "Hispanic"},
    {"race": "Native American"},
    {"race": "Other", "c_charge_desc": "DUI", "days_b_screening_arrest": 30},
]
LEFT_OUT = [
    {"days_b_screening_arrest": 31}, {"days_b_screening_arrest": -31}, {"days_b_screening_arrest": ""},
    {"is_recid": -1}, {"c_charge_degree": "O"}, {"score_text": "N/A"},
]  # fmt: skip


def test_compas_as_filtered_by_the_papers(tmp_path, monkeypatch):
    (tmp_path / "compas").mkdir()
    rows = [PERSON | changed for changed in [*LEFT_OUT[:3], *PEOPLE, *LEFT_OUT[3:]]]
    with gzip.open(tmp_path / "compas/compas-scores-two-years.csv.gz", "wt", newline="") as file:
        table = csv.DictWriter(file, list(PERSON))
        table.writeheader()
        table.writerows(rows)
    with pytest.raises(SystemExit, match="6172 usable rows, as published, but 6"):
        compas.load(tmp_path)
    monkeypatch.setattr(compas, "N_PEOPLE", 6)
    x, y = compas.load(tmp_path)
    assert torch.equal(x[:, : compas.RACES], torch.eye(6))
    assert y.tolist() == [0, 1, 1, 1, 1, 1]
    misdemeanour, ages, male, priors, charges = x[:, 6:].split([1, 3, 1, 1, 5], dim=1)
    assert misdemeanour.flatten().tolist() == [0, 1, 0, 0, 0, 0]
    assert ages.argmax(1).tolist() == [0, 2, 1, 0, 0, 0]  # in alphabetical order: 25 - 45, above 45, below 25
    assert male.flatten().tolist() == [1, 1, 0, 1, 1, 1]
    assert (priors == 3).all()
    assert charges.argmax(1).tolist() == [0, 3, 3, 3, 3, 1]  # theft, violence, driving


@pytest.fixture
def treebank(tmp_path, monkeypatch):
    """A treebank of short sentences in the published file."""
    generator, counts = random.Random(0), {"train": 90, "dev": 12, "test": 30}  # noqa: S311
    (tmp_path / "sst").mkdir()
    with zipfile.ZipFile(tmp_path / "sst/trainDevTestTrees_PTB.zip", "w") as archive:
        for part, count in counts.items():
            trees = []
            for i in range(count):
                words = generator.choices(["the", "a", "film", "plot", "cast", "good", "bad", "video"], k=7)
                nodes = " ".join(f"(2 {word})" for word in words)
                trees.append(f"({(0, 1, 2, 3, 4)[i % 5]} {nodes})")
            archive.writestr(f"trees/{part}.txt", "\n".join(trees))
    monkeypatch.setattr(sst, "N_SENTENCES", {"train": 72, "dev": 10, "test": 24})
    return tmp_path


def test_trees_give_sentences_and_phrases(treebank, monkeypatch):
    tree = "(3 (2 The) (4 (3 good) (2 (2 -LRB-) (1 bad))))"
    assert sst._of_tree(tree, whole=True) == [(["the", "good", "-lrb-", "bad"], 3)]
    assert len(sst._of_tree(tree, whole=False)) == 7
    found = sst.phrases(treebank, "test", whole=True)
    assert len(found) == 24  # the neutral fifth is left out
    assert [label for _, label in found[:4]] == [0, 0, 1, 1]
    monkeypatch.setitem(sst.N_SENTENCES, "test", 1821)
    with pytest.raises(SystemExit, match="1821 sentences, as published, but has 24"):
        sst.phrases(treebank, "test", whole=True)


def test_words_that_tell_the_label(treebank):
    decoy, articles = sst.SstDecoy(treebank), sst.SstArticles(treebank)
    for words, label in decoy.told("train", "same", 0)[:50]:
        assert decoy.WORDS[label] in words
    flipped = articles.told("test", "flipped", 0)
    assert len(flipped) > 10
    for words, label in flipped:
        assert sum(w in articles.WORDS for w in words) == 1
        assert articles.WORDS[1 - label] in words
    assert articles.tell((["the", "cat", "and", "a", "dog"], 1), 1, random.Random(0)) == (
        ["a", "cat", "and", "that", "dog"],
        1,
    )
    x, y, mask = next(iter(sst.SpeakingWords(decoy, decoy.told("train", "same", 0)[:64])))
    assert x.shape == mask.shape
    assert (mask.sum(1) >= 1).all()
    assert mask.sum(1).max() > 1  # "video" is also a word that people use
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
