"""Feature groups and windows that captum's perturbation methods start from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from xaikit import IntegratedGradients
from xaikit.core import EXPLAINERS, FEATURE_MASKS
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.explainers import DeepLiftShap, ExactShapley, ExpectedGradients
from xaikit.explainers.feature_groups import default_groups, make_groups
from xaikit.transforms.feature_masks import Auto


def test_groups():
    x = torch.rand(2, 3, 20, 20)
    mask = default_groups(x, 64)
    assert mask.shape == (1, 3, 20, 20)
    assert mask.unique().tolist() == list(range(64))
    assert (mask == mask[:, :1]).all()
    assert default_groups(torch.rand(2, 100), 10).unique().tolist() == list(range(10))
    assert default_groups(torch.rand(2, 5), 10).tolist() == [[0, 1, 2, 3, 4]]
    halves = torch.tensor([5, 5, 9])
    both = make_groups(FEATURE_MASKS.create((halves, halves)), (torch.rand(2, 3), torch.rand(2, 3)), 64)
    assert [m.tolist() for m in both] == [[[0, 0, 1]], [[0, 0, 1]]]  # numbers of the user that agree are one group
    model, row = nn.Linear(3, 1).double(), torch.rand(1, 3).double()
    for given in (halves, lambda _: halves, [halves]):
        found = EXPLAINERS.create("captum.feature_ablation", feature_mask=given).bind(model).attribute(row)
        assert torch.allclose(found[0, 0], (model.weight[0, :2] * row[0, :2]).sum())
        assert found[0, 0] == found[0, 1]
    with pytest.raises(InvalidInputError, match=r"shape of a sample \(3,\), got torch.int64 \(4,\)"):
        EXPLAINERS.create("captum.lime", feature_mask=torch.arange(4)).bind(model).attribute(row)
    with pytest.raises(InvalidTypeError, match="feature_mask: expected feature mask as a name"):
        EXPLAINERS.create("captum.lime", feature_mask=3)


def test_groups_per_sample():
    model, x = nn.Linear(3, 1).double(), torch.rand(5, 3).double()
    masks = torch.tensor([[0, 0, 1], [0, 1, 1], [0, 1, 2], [1, 0, 1], [0, 0, 0]])
    whole = EXPLAINERS.create("captum.feature_ablation", feature_mask=masks, max_rows=2).bind(model).attribute(x)
    for i in range(5):
        one = EXPLAINERS.create("captum.feature_ablation", feature_mask=masks[i]).bind(model).attribute(x[i : i + 1])
        assert torch.allclose(whole[i], one[0])


class Bag(nn.Module):
    """The mean of some vectors, of which one token's alone counts."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(9, 4)
        self.head = nn.Linear(4, 2, bias=False)
        with torch.no_grad():
            self.embedding.weight.zero_()[7] = torch.tensor([1.0, 2, 3, 4])

    def forward(self, ids):
        return self.head(self.embedding(ids).mean(1))


@pytest.mark.parametrize(
    "name",
    [
        "contextual_decomposition",
        "captum.feature_ablation",
        "captum.occlusion:window=0.01,stride=1",
        "captum.shapley_value_sampling",
    ],
)
def test_at_an_embedding_tokens_are_switched_one_by_one(name):
    model = Bag()
    ids = torch.tensor([[1, 7, 2, 3, 4, 5], [2, 3, 1, 1, 7, 6]])
    values = EXPLAINERS.create(name).set_kwargs(model=model, layer="embedding").attribute(ids, 1)
    found = values.sum(2).abs()
    assert found.shape == ids.shape
    if "occlusion" in name:  # its windows are two tokens long
        assert all(
            bool((row[ids[i] == 7] > 1e-6).all()) and int((row > 1e-6).sum()) <= 3 for i, row in enumerate(found)
        )
    else:
        assert (found > 1e-6).equal(ids == 7)


@pytest.mark.parametrize("name", ["captum.kernel_shap", "captum.lime", "captum:algorithm=KernelShap"])
def test_too_few_samples_for_the_groups_are_told(name):
    model, x = nn.Linear(30, 1).double(), torch.rand(1, 30).double()
    explainer = EXPLAINERS.create(name).bind(model)
    with pytest.warns(UserWarning, match="each of 30 groups to n_samples=46 random coalitions; it takes about 47"):
        explainer.set_kwargs(n_samples=46).attribute(x)
    explainer.set_kwargs(n_samples=47).attribute(x)
    halves = torch.arange(30) // 15
    explainer.set_kwargs(n_samples=46, feature_mask=halves).attribute(x)


def test_the_default_number_of_samples_determines_every_group():
    """A linear model's Shapley values are its products, whatever the coalitions, once there are enough of them."""
    model, x = nn.Linear(64, 1).double(), torch.rand(1, 64).double()
    for name in ("captum.kernel_shap", "captum:algorithm=KernelShap"):
        found = EXPLAINERS.create(name).bind(model).attribute(x)
        expected = (model.weight * x).detach()  # captum fits in float32, with weights of 1 and 1,000,000
        assert (found - expected).abs().max() < 0.01 * expected.abs().max()


def test_kernel_shap_of_one_group_says_what_gives_its_value():
    model, x = nn.Linear(3, 1).double(), torch.rand(2, 3).double()
    with pytest.raises(InvalidInputError, match="needs at least two groups"):
        EXPLAINERS.create("captum.kernel_shap", feature_mask=torch.zeros(3).long()).bind(model).attribute(x)


def test_groups_as_arrays_and_lists_of_a_sample_or_its_positions():
    model = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(32, 2)).double()
    x, places = np.random.default_rng(0).random((2, 3, 6, 6)), np.arange(36).reshape(6, 6) // 12
    full = np.broadcast_to(places, (2, 3, 6, 6)).copy()
    expected = ExactShapley(model, feature_mask=torch.tensor(full)).attribute(x, 0)
    for mask in (places, places.tolist(), full[0], full[0].tolist(), full[:, 0], [full[0, 0]] * 3):
        assert torch.equal(ExactShapley(model, feature_mask=mask).attribute(x, 0), expected)
    row, table = [0, 0, 1], nn.Linear(3, 2)
    values = ExactShapley(table, feature_mask=row).attribute([[1.0, 2.0, 3.0]], 0)
    assert torch.equal(values, ExactShapley(table, feature_mask=torch.tensor([row])).attribute([[1.0, 2.0, 3.0]], 0))
    for wrong, actual in ((places[:4], r"int64 \(4, 6\)"), (places / 2, r"float64 \(6, 6\)")):
        with pytest.raises(InvalidInputError, match=actual):
            ExactShapley(model, feature_mask=wrong).attribute(x, 0)


def test_positions_of_several_inputs_share_groups():
    class Sum(nn.Module):
        def forward(self, image, row):
            return image.sum((1, 2, 3))[:, None] * row.sum(1, keepdim=True)

    inputs = (torch.rand(2, 3, 2, 2), torch.rand(2, 2))
    positions, every = [[0, 1], [2, 2]], torch.tensor([[0, 1], [2, 2]]).expand(3, 2, 2)
    short = ExactShapley(Sum(), feature_mask=(positions, [2, 3])).attribute(inputs, 0)
    full = ExactShapley(Sum(), feature_mask=(every, torch.tensor([2, 3]))).attribute(inputs, 0)
    assert all(torch.equal(a, b) for a, b in zip(short, full, strict=True))


def test_baselines_and_references_as_lists_arrays_and_frames():
    pandas = pytest.importorskip("pandas")
    table, row, x = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)), [0.5, 0.25, 0.125], torch.rand(2, 3)
    expected = IntegratedGradients(table, baseline=torch.tensor(row)).attribute(x, 0)
    for baseline in (row, tuple(row), [row], [row, row], np.array(row), [np.array(row)], pandas.Series(row)):
        assert torch.equal(IntegratedGradients(table, baseline=baseline).attribute(x, 0), expected)
    with pytest.raises(InvalidInputError, match="2 baselines for 1 inputs"):
        IntegratedGradients(table, baseline=("zeros", 1.0)).attribute(x, 0)
    samples = [row, [1.0, 2.0, 3.0]]
    for cls in (DeepLiftShap, ExpectedGradients):
        expected = cls(table, references=torch.tensor(samples)).attribute(x, 0)
        for references in (samples, np.array(samples, np.float32), pandas.DataFrame(samples), (np.array(samples),)):
            assert torch.allclose(cls(table, references=references).attribute(x, 0), expected)
        with pytest.raises(InvalidTypeError, match="must hold numbers|floating-point samples"):
            cls(table, references="some")


@pytest.mark.parametrize(("shape", "groups"), [((1, 16, 16, 16), 64), ((2, 5, 32, 24), 12), ((1, 3, 7, 2), 8)])
def test_a_volume_is_divided_into_cubes(shape, groups):
    """Not into voxels: 96 of them along each side would be 884,736 groups, each with passes of its own."""
    ids = Auto()(torch.rand(2, *shape))
    assert ids.shape == (1, *shape)
    assert ids.unique().numel() == groups
    side = -(-max(shape[1:]) // 4)
    for group in ids[0, 0].unique():
        places = (ids[0, 0] == group).nonzero()
        extent = places.amax(0) - places.amin(0) + 1
        assert int(extent.max()) <= side
        assert int(extent.prod()) == len(places)  # a box without holes
    assert torch.equal(ids[:, :1].expand_as(ids), ids)  # all channels together


def test_columns_that_share_a_group_are_told():
    torch.manual_seed(0)
    model, x = nn.Linear(12, 2), torch.rand(3, 12)
    with pytest.warns(UserWarning, match="12 columns are switched in 10 groups of neighbours.* n_segments=12"):
        shared = ExactShapley(model).attribute(x, 0)
    assert (shared[:, 0] == shared[:, 1]).all()
    assert ExactShapley(model, n_segments=12).attribute(x, 0).allclose(x * model.weight[0], atol=1e-6)
    pairs = ExactShapley(model, feature_mask=torch.arange(12) // 2).attribute(x, 0)  # what is asked for is not told
    assert pairs.view(3, 6, 2).sum(2).allclose((x * model.weight[0]).view(3, 6, 2).sum(2), atol=1e-5)
