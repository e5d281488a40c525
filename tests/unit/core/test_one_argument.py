"""Models of one dict or one list, call after call and in training; inputs of one number for each sample."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from xaikit import RRR, Gradient
from xaikit.core import BASELINES, EXPLAINERS, METRICS, MITIGATORS
from xaikit.core.errors import InvalidInputError, InvalidTypeError, XaikitError


class OfDict(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(3, 2)

    def forward(self, batch):
        return self.last(torch.stack([batch[name] for name in "abc"], 1).tanh())


class OfList(OfDict):
    def forward(self, columns):
        return self.last(torch.cat(columns, 1).tanh())


class OfNames(OfDict):
    def forward(self, a, b, c):
        return self.last(torch.stack([a, b, c], 1).tanh())


X = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
CASES = {
    "dict": (OfDict(), dict(zip("abc", X.unbind(1), strict=True))),
    "list": (OfList(), [X[:, :1], X[:, 1:]]),
    "names": (OfNames(), dict(zip("cab", X[:, [2, 0, 1]].unbind(1), strict=True))),
}


def of_samples(inputs, samples):
    if isinstance(inputs, dict):
        return {name: x[samples] for name, x in inputs.items()}
    return [x[samples] for x in inputs]


@pytest.mark.parametrize("spec", ["gradient", "integrated_gradients:n_steps=4", "lrp_epsilon_plus", "captum.occlusion"])
@pytest.mark.parametrize("kind", CASES)
def test_call_after_call(kind, spec):
    net, inputs = CASES[kind]
    explainer = EXPLAINERS.create(spec).bind(net)
    first = explainer.attribute(inputs, 1)
    second, one = explainer.attribute(inputs, 1), explainer.attribute(of_samples(inputs, slice(1, 2)), 1)
    pairs = zip(*(list(v.values() if kind != "list" else v) for v in (first, second, one)), strict=True)
    for a, b, c in pairs:
        assert torch.equal(a, b)
        assert torch.allclose(a[1:2], c, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", CASES)
def test_a_penalty_and_a_training(kind):
    net, inputs = CASES[kind]
    y, masks = (
        torch.tensor([0, 1, 0, 1]),
        [torch.ones_like(x) for x in of_samples(inputs, slice(None))]
        if (kind == "list")
        else [torch.ones(4) for _ in inputs],
    )
    found = RRR(output="logit", reduction="sum").loss(net, (inputs, y, tuple(masks))).penalty
    # The derivative of w . tanh(x) is w (1 - tanh(x) ** 2).
    expected = (net.last.weight[y] * (1 - X.tanh() ** 2)).pow(2).sum()
    assert torch.allclose(found, expected, rtol=1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the masks cover everything
        RRR(n_epochs=1).fit(net, (inputs, y, tuple(masks)), progress=False)


def test_what_fits_neither_way_is_told():
    with pytest.raises(InvalidTypeError, match=r"does not take the arguments 'a', 'd' by name"):
        RRR().loss(OfNames(), ({"a": X[:, 0], "d": X[:, 1]}, torch.tensor([0, 1, 0, 1]), (torch.ones(4),) * 2))


class OneNumber(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Linear(1, 2)

    def forward(self, x):
        return self.last(x[:, None].tanh()).sigmoid()


@pytest.mark.parametrize("name", METRICS)
def test_a_metric_of_one_number_for_each_sample_is_that_of_a_column(name):
    net, x, y = OneNumber(), X[:, 0], torch.tensor([0, 1, 0, 1])
    column = nn.Sequential(nn.Flatten(0), net)
    values = []
    for model, inputs in ((net, x), (column, x[:, None])):
        explainer = EXPLAINERS.create("gradient_x_input").bind(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                values.append(
                    METRICS.create(name).evaluate(explainer, inputs, y, relevant_region=torch.ones(inputs.shape))
                )
            except XaikitError:
                values.append(None)
    assert (values[0] is None) == (values[1] is None)
    if None not in values and name not in ("seconds", "peak_memory", "consistency"):
        assert torch.allclose(*values, equal_nan=True, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("baseline", [n for n in BASELINES if n not in ("sample", "given", "token_id", "per_input")])
def test_a_baseline_of_one_number_is_that_of_a_column_and_the_samples_own(baseline):
    x = torch.tensor([1.0, -2.0, 5.0])
    explainer = EXPLAINERS.create(f"integrated_gradients:n_steps=8,baseline={baseline}")
    net = OneNumber()
    found = explainer.bind(net).attribute(x, 1)
    assert torch.allclose(found, explainer.bind(nn.Sequential(nn.Flatten(0), net)).attribute(x[:, None], 1)[:, 0])
    assert torch.allclose(found[1:2], explainer.bind(net).attribute(x[1:2], 1))


@pytest.mark.parametrize("name", ["rrr", "hint", "cdep", "pgd_ex"])
def test_a_mitigator_of_one_number_for_each_sample(name):
    net, y = OneNumber(), torch.tensor([0, 1, 0, 1])
    column = nn.Sequential(nn.Flatten(0), net)
    losses = [
        MITIGATORS.create(name).loss(model, (x, y, mask), seed=1).total
        for model, x, mask in ((net, X[:, 0], torch.ones(4)), (column, X[:, :1], torch.ones(4, 1)))
    ]
    assert torch.allclose(*losses, rtol=1e-5)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [(torch.ones(2, 4, device="meta"), "device 'meta'"), ("nested", "nested tensor; pass inputs.to_padded_tensor")],
)
def test_tensors_without_numbers_and_nested_ones(inputs, words):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls nested tensors a prototype
        x = torch.nested.nested_tensor([torch.ones(4), torch.ones(4)]) if inputs == "nested" else inputs
    with pytest.raises(InvalidTypeError, match=words):
        Gradient(nn.Linear(4, 3)).attribute(x, 1)


@pytest.mark.filterwarnings("ignore:captum's DeepLift")  # it misses its sum behind torch.tanh
@pytest.mark.parametrize("name", EXPLAINERS)
def test_an_explainer_of_one_number_for_each_sample_is_that_of_a_column(name):
    net, x = OneNumber(), X[:, 0]
    values = []
    for model, inputs in ((net, x), (nn.Sequential(nn.Flatten(0), net), x[:, None])):
        try:
            values.append(EXPLAINERS.create(name).bind(model).attribute(inputs, 1).flatten())
        except XaikitError:  # maps want positions, some methods several groups
            values.append(None)
    assert (values[0] is None) == (values[1] is None)
    if values[0] is not None:
        assert torch.allclose(*values, rtol=1e-4, atol=1e-6)


class Table(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding, self.last = nn.Embedding(5, 3), nn.Linear(5, 2)

    def forward(self, category, numbers, flag):
        return self.last(torch.cat([self.embedding(category), numbers, flag[:, None].float()], 1)).tanh()


@pytest.mark.parametrize("name", ["exact_shapley", "kernel_shapley", "permutation_shapley"])
def test_shapley_values_of_categories_flags_and_numbers(name):
    net, inputs = Table(), (torch.tensor([1, 2, 3]), X[:3, :1], torch.tensor([True, False, True]))
    found = EXPLAINERS.create(name).bind(net).attribute(inputs, 0)

    def score(*present):
        with torch.no_grad():
            return net(*(x if i in present else torch.zeros_like(x) for i, x in enumerate(inputs)))[:, 0]

    assert torch.allclose(sum(v.flatten() for v in found), score(0, 1, 2) - score(), atol=1e-6)
    for i, values in enumerate(found if name != "permutation_shapley" else ()):  # which draws some orders
        a, b = {0, 1, 2} - {i}
        alone, first, second = (score(*s, i) - score(*s) for s in ((), (a,), (b,)))
        both = score(0, 1, 2) - score(a, b)
        assert torch.allclose(values.flatten(), (2 * alone + first + second + 2 * both) / 6, atol=1e-6)


def test_a_model_that_returns_one_number_for_the_batch():
    class Mean(OneNumber):
        def forward(self, x):
            return super().forward(x)[:, 0].mean()

    for name in ("gradient", "integrated_gradients", "captum.feature_ablation", "exact_shapley"):
        with pytest.raises(InvalidInputError, match=r"one row per sample, got \(\) for a batch of 4"):
            EXPLAINERS.create(name).bind(Mean()).attribute(X[:, 0])
