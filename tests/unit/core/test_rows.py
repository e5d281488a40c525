"""Rows that may be stacked, and rows that may not: what each method gives is what one version at a time gives."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core import EXPLAINERS
from xaikit.core.rows import RowRule, find_row_rule, run_by_batches

STACKING = ("smoothgrad:n_iter=5", "integrated_gradients:n_steps=6", "expected_gradients:n_iter=5",
            "captum.feature_ablation", "captum.occlusion:window=0.5")  # fmt: skip


class Shared(nn.Module):
    """Scores against a list that all samples share."""

    def forward(self, x, others):
        return (3 * x @ others.T).softmax(1)


class Masked(nn.Module):
    """A (T, T) mask, with as many tokens as samples."""

    def forward(self, x, mask):
        return (torch.softmax(x @ x.transpose(1, 2) + mask, 2) @ x).sum(1)


class BatchMean(nn.Module):
    """Every row sees the mean of all rows."""

    def forward(self, x):
        return (x - x.mean(0)).tanh().cumsum(1)


class OneOnly(nn.Module):
    """Takes one sample at a time."""

    def forward(self, x):
        if len(x) != 1:
            raise ValueError("one sample only")
        return x.tanh().cumsum(1)


def one_by_one(spec, model, x, y, **settings):
    """The same method with one version of the whole batch in a pass, by forcing the rule."""
    import xaikit.core.opening as opening

    original = opening.find_row_rule
    opening.find_row_rule = lambda *_: RowRule(independent=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return EXPLAINERS.create(spec).set_kwargs(**settings).bind(model).attribute(x, y)
    finally:
        opening.find_row_rule = original


SPLIT = {"forward_arg_extractor": lambda i: i[0], "additional_forward_arg_extractor": lambda i: i[1]}


@pytest.mark.parametrize("spec", STACKING)
@pytest.mark.parametrize("n", [1, 3, 4, 5])
def test_an_argument_that_all_samples_share(spec, n):
    x, others = torch.randn(n, 3).double(), torch.randn(4, 3).double()

    class Fixed(nn.Module):
        def forward(self, x):
            return Shared()(x, others)

    expected = EXPLAINERS.create(spec).bind(Fixed()).attribute(x, 1)
    found = EXPLAINERS.create(spec).set_kwargs(**SPLIT).bind(Shared()).attribute((x, others), 1)
    assert torch.allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("spec", STACKING)
def test_a_square_mask_of_as_many_tokens_as_samples(spec):
    x, mask = torch.randn(4, 4, 3).double(), torch.randn(4, 4).double().triu(1) * -5

    class Fixed(nn.Module):
        def forward(self, x):
            return Masked()(x, mask)

    expected = EXPLAINERS.create(spec).bind(Fixed()).attribute(x, 1)
    found = EXPLAINERS.create(spec).set_kwargs(**SPLIT).bind(Masked()).attribute((x, mask), 1)
    assert torch.allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize("spec", STACKING)
@pytest.mark.parametrize("n", [2, 5])
def test_rows_that_see_each_other_run_one_version_at_a_time_and_say_so(spec, n):
    x = torch.randn(n, 3).double()
    with pytest.warns(UserWarning, match="rows of this BatchMean are not independent"):
        found = EXPLAINERS.create(spec).bind(BatchMean()).attribute(x, 1)
    assert torch.allclose(found, one_by_one(spec, BatchMean(), x, 1), rtol=1e-9)
    if "captum" not in spec:
        with pytest.warns(UserWarning, match="not independent"):
            narrow = EXPLAINERS.create(spec).set_kwargs(max_rows=1).bind(BatchMean()).attribute(x, 1)
        assert torch.allclose(found, narrow, rtol=1e-9)


@pytest.mark.parametrize("spec", STACKING)
def test_a_model_of_one_sample(spec):
    class Free(nn.Module):
        def forward(self, x):
            return x.tanh().cumsum(1)

    x = torch.randn(1, 3).double()
    with pytest.warns(UserWarning, match="OneOnly are not independent"):
        found = EXPLAINERS.create(spec).bind(OneOnly()).attribute(x, 2)
    assert torch.allclose(found, EXPLAINERS.create(spec).bind(Free()).attribute(x, 2), rtol=1e-9)


def test_the_question_is_asked_once_for_a_form_of_input():
    passes = []

    class Counting(nn.Linear):
        def forward(self, x):
            passes.append(len(x))
            return super().forward(x)

    explainer = EXPLAINERS.create("integrated_gradients:n_steps=4").bind(Counting(3, 2))
    explainer.attribute(torch.rand(2, 3), 0)
    first = len(passes)
    passes.clear()
    explainer.attribute(torch.rand(2, 3), 0)
    assert passes == [8]
    assert first > 1


def test_rows_in_any_order_run_inside_whole_batches():
    batch = torch.randn(3, 2)
    rows, samples = torch.randn(4, 2), torch.tensor([2, 0, 2, 1])
    found = run_by_batches(lambda inputs, _: inputs[0] - inputs[0].mean(0), (rows,), samples, (batch,))
    first = torch.stack([rows[1], rows[3], rows[0]])
    second = torch.stack([batch[0], batch[1], rows[2]])
    expected = [(first - first.mean(0))[i] for i in (2, 0, 1)]
    assert torch.allclose(found, torch.stack([expected[0], expected[1], (second - second.mean(0))[2], expected[2]]))


def test_a_large_batch_is_asked_about_with_its_first_rows():
    rows = []

    def outputs(inputs, samples, rule):
        rows.append(len(inputs[0]))
        return F.normalize(inputs[0], dim=1)

    assert find_row_rule(outputs, (torch.randn(100, 3),), 0, 8).independent
    assert max(rows) <= 8


def test_rows_of_complex_numbers_may_differ_by_rounding():
    weight = torch.randn(64, 8, dtype=torch.complex64)
    mixed = torch.tensor([1 + 1e-6, 1 - 1e-6])

    def outputs(inputs, samples, rule):
        x = inputs[0]
        return (x.to(weight.dtype) @ weight) * mixed[len(x) % 2]  # as other sizes of a pass round otherwise

    assert find_row_rule(outputs, (torch.randn(5, 64),), 0, 8).independent
    centred = lambda inputs, *rest: outputs(inputs, *rest) - inputs[0].mean()  # noqa: E731
    assert not find_row_rule(centred, (torch.randn(5, 64),), 0, 8).independent
