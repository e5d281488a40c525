"""Spectral relevance analysis: scikit-learn's own clustering, closed forms, and digits with a planted patch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.cluster import SpectralClustering
from sklearn.datasets import load_digits
from sklearn.metrics import adjusted_rand_score
from torch import nn

from xaikit.core.errors import InvalidInputError
from xaikit.explainers import GradCam, LRPEpsilonPlus
from xaikit.report.clusters import clusters_figure
from xaikit.shortcuts import SpRAy, make_masks, mask_overlap, spray


def groups(sizes, side=8):
    maps = torch.rand(sum(sizes), 1, side, side)
    for k, rows in enumerate(torch.arange(sum(sizes)).split(sizes)):
        maps[rows, :, 2 * k : 2 * k + 2, :3] += 8
    return maps, np.repeat(np.arange(len(sizes)), sizes)


@pytest.mark.parametrize("sizes", [[40, 25], [50, 30, 20]])
def test_planted_groups_are_found_and_counted(sizes):
    maps, truth = groups(sizes)
    order = torch.randperm(len(maps))
    found = SpRAy()(maps[order])
    assert found.n_clusters == len(sizes)
    assert np.array_equal(found.labels, truth[order])  # the largest is number 0


def test_scikit_learn_clusters_alike():
    """Overlapping groups, so that the graph is connected: scikit-learn's last step differs, the clusters nearly not."""
    maps, _ = groups([60, 50, 40])
    maps = maps + 11 * torch.rand_like(maps)
    theirs = SpectralClustering(3, affinity="nearest_neighbors", n_neighbors=11, random_state=0)  # counts the sample
    flat = (maps / maps.sum((1, 2, 3), keepdim=True)).flatten(1).numpy()
    found = SpRAy(n_clusters=3)(maps)
    assert adjusted_rand_score(theirs.fit_predict(flat), found.labels) > 0.9


def test_one_strategy_is_one_cluster():
    assert SpRAy()(torch.rand(80, 1, 8, 8)).n_clusters == 1
    assert SpRAy(n_clusters=3)(torch.rand(80, 1, 8, 8)).n_clusters == 3


def test_the_spectrum_of_a_graph_that_is_known():
    """k separate complete graphs of m: the eigenvalue 0 k times, then m / (m - 1)."""
    maps = torch.zeros(12, 3) + 1e-6 * torch.rand(12, 3)
    maps[torch.arange(12), torch.arange(12) % 3] += 1
    found = SpRAy(n_neighbors=3)(maps)
    assert np.allclose(found.eigenvalues, [0, 0, 0] + [4 / 3] * 8, atol=1e-9)
    assert found.eigengaps.argmax() + 1 == found.n_clusters == 3


def test_large_sets_go_by_lanczos_with_the_same_result(monkeypatch):
    maps, _ = groups([60, 40])
    maps = maps + 12 * torch.rand_like(maps)  # one piece, so that the eigenvectors are the graph's own
    dense = SpRAy(picture="spectral")(maps)
    monkeypatch.setattr(spray, "DENSE", 10)
    sparse = SpRAy(picture="spectral")(maps)
    assert np.allclose(dense.eigenvalues, sparse.eigenvalues, atol=1e-9)
    assert dense.eigenvalues[1] > 1e-3
    assert np.array_equal(sparse.labels, dense.labels)
    assert np.allclose(np.abs(dense.embedding), np.abs(sparse.embedding), atol=1e-6)


def test_repeatable_and_downsized():
    maps = torch.rand(30, 3, 50, 40)
    a, b = SpRAy(size=16)(maps), SpRAy(size=16)(maps)
    assert np.array_equal(a.labels, b.labels)
    assert np.array_equal(a.embedding, b.embedding)
    assert a.maps.shape == (30, 13, 10)  # blocks of 4
    assert torch.allclose(a.maps.sum((1, 2)), torch.ones(30).double())
    assert a.embedding.shape == (30, 2)


@pytest.fixture(scope="module")
def cheat():
    """Digits of which half of the eights hold a bright patch that no other class has, and a net that uses it."""
    raw = load_digits()
    y = torch.tensor(raw.target)
    x = nn.functional.pad(torch.tensor(raw.images / 16, dtype=torch.float32)[:, None], [2] * 4)
    generator = torch.Generator().manual_seed(0)
    patched = (y == 8) & (torch.rand(len(y), generator=generator) < 0.5)
    x[patched, :, :3, :3] = 1
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(576, 10),
        )  # fmt: skip
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for _ in range(60):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval(), x[y == 8], patched[y == 8]


@pytest.mark.parametrize("explainer", [LRPEpsilonPlus(), GradCam()], ids=lambda e: e.NAME)
def test_a_cluster_holds_the_planted_patch_and_gives_its_mask(cheat, explainer):
    model, x, patched = cheat
    heat = explainer.bind(model).explain(x, 8)
    found = SpRAy(n_clusters=2)(heat)
    rings = torch.tensor(found.labels == int(patched.numpy()[found.labels == 1].mean() > 0.5))
    assert float((rings == patched).double().mean()) > 0.95
    cluster = int(found.labels[rings][0])
    masks = make_masks(heat, found.samples(cluster), threshold=0.4)
    truth = torch.zeros(12, 12)
    truth[:3, :3] = 1
    region = masks.amax(0)
    if explainer.NAME == "gradcam":  # coarse: it marks the border of the patch
        assert (region * truth).any()
        return
    assert float((region * truth).sum() / torch.maximum(region, truth).sum()) > 0.6  # intersection over union
    assert mask_overlap(heat.values[rings], truth).p_value < 0.02
    assert mask_overlap(heat.values[~rings], truth).p_value > 0.5


def test_the_eigengap_finds_the_two_strategies_by_itself(cheat):
    model, x, patched = cheat
    found = SpRAy()(LRPEpsilonPlus(model).attribute(x, 8))
    assert found.n_clusters == 2
    assert max(np.mean(found.labels == patched.numpy()), np.mean(found.labels != patched.numpy())) > 0.95


def test_the_figure(cheat, tmp_path):
    model, x, patched = cheat
    heat = LRPEpsilonPlus(model).attribute(x, 8)
    figure = clusters_figure(SpRAy()(heat), x, attributions=heat, marked=patched)
    figure.savefig(tmp_path / "clusters.png")
    words = {t.get_text() for axes in figure.get_axes() for t in [axes.title, axes.yaxis.label]}
    assert "eigenvalues of the Laplacian: 2 clusters" in words
    assert sum("samples" in w and "cluster" in w for w in words) == 2
    with pytest.raises(InvalidInputError, match="images must hold the"):
        clusters_figure(SpRAy()(heat), x[:3])
    with pytest.raises(InvalidInputError, match="clusters of images"):
        clusters_figure(SpRAy()(torch.rand(20, 5)))


@pytest.mark.parametrize(
    ("settings", "maps", "words"),
    [
        ({}, torch.rand(2, 1, 4, 4), "at least 3 samples, got 2"),
        ({"n_clusters": 9}, torch.rand(8, 1, 4, 4), "at least 9 samples, got 8"),
        ({"n_clusters": 0}, torch.rand(8, 1, 4, 4), ">= 1, got 0"),
        ({"max_clusters": 1}, torch.rand(8, 1, 4, 4), ">= 2, got 1"),
        ({"picture": "umap"}, torch.rand(8, 1, 4, 4), "'tsne', 'spectral'"),
        ({}, torch.zeros(8, 1, 4, 4), "nothing to look at"),
    ],
)
def test_what_cannot_be_right(settings, maps, words):
    with pytest.raises(InvalidInputError, match=words):
        SpRAy(**settings)(maps)


def test_clusters_that_are_not_there():
    found = SpRAy()(torch.rand(20, 1, 4, 4))
    for wrong in (5, -1, True, "0"):
        with pytest.raises(InvalidInputError, match="cluster must be a whole number"):
            found.samples(wrong)
