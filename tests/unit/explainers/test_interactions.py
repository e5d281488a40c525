"""Interactions of pairs against their definitions: sums over all coalitions, integrals over a grid, closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from xaikit import Class, ContextualDecomposition, Contrast, Heads, IntegratedGradients
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.explainers import ExactShapley
from xaikit.explainers.interactions import integrated_hessians, shapley_interactions
from xaikit.explainers.interactions.hessians import log_rule


def net(features=5, outputs=3):
    generator = torch.Generator().manual_seed(features)
    model = nn.Sequential(nn.Linear(features, 8), nn.Tanh(), nn.Linear(8, outputs)).double()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=generator).double()
    return model


def samples(n=2, features=5):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(1)).double()


def by_definition(score, n):
    """The matrix by the sum over all sets, of a function of the set of groups that are present."""
    matrix = np.zeros((n, n))
    for i in range(n):
        others = [k for k in range(n) if k != i]
        for size in range(n):
            for chosen in itertools.combinations(others, size):
                weight = math.factorial(size) * math.factorial(n - size - 1) / math.factorial(n)
                matrix[i, i] += weight * (score({*chosen, i}) - score(set(chosen)))
    for i, j in itertools.combinations(range(n), 2):
        others = [k for k in range(n) if k not in (i, j)]
        for size in range(n - 1):
            for chosen in map(set, itertools.combinations(others, size)):
                weight = math.factorial(size) * math.factorial(n - size - 2) / math.factorial(n - 1)
                added = score(chosen | {i, j}) - score(chosen | {i}) - score(chosen | {j}) + score(chosen)
                matrix[i, j] += weight * added / 2
                matrix[j, i] = matrix[i, j]
    return matrix - np.diag((matrix - np.diag(np.diag(matrix))).sum(1))


def test_shapley_interactions_are_the_sum_over_all_coalitions():
    model, x = net(), samples()
    ids = torch.tensor([0, 1, 1, 2, 3])
    for mask, groups in ((None, torch.arange(5)), (ids, ids)):
        n = int(groups.max()) + 1
        result = shapley_interactions(ExactShapley(model, feature_mask=mask, baseline=0.3), x, 1)
        for k, row in enumerate(x):

            def score(present, row=row, groups=groups):
                inside = torch.tensor([int(g) in present for g in groups])
                with torch.no_grad():
                    return float(model(torch.where(inside, row, 0.3)[None])[0, 1])

            assert np.allclose(result.values[k], by_definition(score, n), rtol=0, atol=1e-9)
        assert torch.equal(result.values, result.values.mT)
        assert result.gap.abs().max() < 1e-12


def test_rows_sum_to_the_attributions():
    model, x = net(), samples()
    shapley = shapley_interactions(ExactShapley(model), x, 2)
    assert torch.allclose(shapley.attributions, ExactShapley(model).attribute(x, 2), atol=1e-12)
    hessians = integrated_hessians(IntegratedGradients(model, n_steps=30), x, 2)
    assert torch.allclose(hessians.attributions, IntegratedGradients(model, n_steps=60).attribute(x, 2), atol=1e-8)
    with torch.no_grad():
        difference = model(x)[:, 2] - model(torch.zeros_like(x))[:, 2]
    assert torch.allclose(hessians.values.sum((1, 2)), difference, atol=1e-8)
    assert torch.allclose(hessians.gap, difference - hessians.values.sum((1, 2)), atol=1e-12)


def test_integrated_hessians_are_the_double_integral():
    model, x = net(), samples(1)
    baseline = torch.full_like(x, 0.2)
    nodes, weights = np.polynomial.legendre.leggauss(24)
    nodes, weights = (nodes + 1) / 2, weights / 2
    step, expected = (x - baseline)[0], torch.zeros(5, 5).double()
    score = lambda z: model(z[None])[0, 0]
    for (a, wa), (c, wc) in itertools.product(zip(nodes, weights, strict=True), repeat=2):
        point = baseline[0] + a * c * step
        second = torch.autograd.functional.hessian(score, point)
        first = torch.autograd.functional.jacobian(score, point)
        expected += wa * wc * (a * c * step[:, None] * step * second + torch.diag(step * first))
    explainer = IntegratedGradients(model, baseline=0.2, n_steps=24)
    result = integrated_hessians(explainer, x, 0)
    assert torch.allclose(result.values[0], expected, atol=1e-9)
    ids = torch.tensor([0, 1, 1, 0, 2])
    grouped = integrated_hessians(explainer, x, 0, feature_mask=ids).values[0]
    one_hot = nn.functional.one_hot(ids).double()
    assert torch.allclose(grouped, one_hot.T @ expected @ one_hot, atol=1e-9)
    few = integrated_hessians(IntegratedGradients(model, baseline=0.2, n_steps=24, max_rows=5), x, 0)
    assert torch.allclose(few.values, result.values, atol=1e-12)


def test_the_rule_is_exact_for_polynomials():
    for n in (1, 2, 7, 40):
        points, weights = log_rule(n)
        assert 0 < points.min() <= points.max() < 1
        for k in range(2 * n):
            assert float((weights * points**k).sum()) == pytest.approx(1 / (k + 1) ** 2, rel=1e-10)


class Two(nn.Module):
    """A regression on two inputs that multiplies them."""

    def forward(self, a, b):
        return (a * b).sum((1, 2), keepdim=False)[:, None] + a.sum((1, 2))[:, None] ** 2


def test_several_inputs_and_a_regression():
    a, b = torch.tensor([[[1.0, 2.0]]]).double(), torch.tensor([[[3.0, -1.0]]]).double()
    masks = (torch.tensor([[0, 0]]), torch.tensor([[1, 1]]))
    expected = torch.tensor([[9.0, 0.5], [0.5, 0.0]])  # a b = 1 is shared, (a0 + a1)² = 9 is a's alone
    for result in (
        shapley_interactions(ExactShapley(Two(), feature_mask=masks), (a, b), names=["a", "b"]),
        integrated_hessians(IntegratedGradients(Two()), (a, b), feature_mask=masks, names=["a", "b"]),
    ):
        assert result.names == ("a", "b")
        if result.method == "integrated Hessians":  # of a product, each entry is a quarter
            expected = torch.tensor([[9.25, 0.25], [0.25, 0.25]])
        assert torch.allclose(result.values[0], expected.double(), atol=1e-9)


def test_any_target_and_a_layer():
    model, x = net(), samples()
    contrast = shapley_interactions(ExactShapley(model), x, Contrast(1, 0)).values
    one, other = (shapley_interactions(ExactShapley(model), x, k).values for k in (1, 0))
    assert torch.allclose(contrast, one - other, atol=1e-10)
    at_layer = integrated_hessians(IntegratedGradients(model, layer="1"), x, 0)
    hidden = model[:2](x)
    assert at_layer.values.shape == (2, 8, 8)
    # Behind the layer the model is linear: the layer's channels do nothing together.
    assert torch.allclose(at_layer.values, torch.diag_embed(hidden * model[2].weight[0]), atol=1e-9)


def test_relu_has_no_second_derivative_and_this_is_said():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    with pytest.warns(UserWarning, match=r"miss S\(x\) - S\(baseline\) by up to 106 % of it; a ReLU has no second"):
        integrated_hessians(IntegratedGradients(model), samples(2, 4), 0)


def test_the_table_and_the_picture():
    result = shapley_interactions(ExactShapley(net()), samples(), 0, names=list("abcde"))
    frame = result.to_pandas(1)
    assert frame.loc["b", "d"] == float(result.values[1, 1, 3])
    first, second, value = result.strongest(1, 1)[0]
    pairs = {(p, q): 2 * frame.loc[p, q] for p, q in itertools.combinations("abcde", 2)}
    assert abs(value) == pytest.approx(max(map(abs, pairs.values())))
    assert pairs[first, second] == pytest.approx(value)
    figure = result.plot(1)
    cells = figure.axes[0]
    shown = cells.images[1].get_array()  # the diagonal is grey
    assert np.allclose(shown.filled(0), result.values[1] - torch.diag(result.values[1].diagonal()))
    (bars,) = cells.child_axes
    assert [p.get_width() for p in bars.patches] == pytest.approx(result.attributions[1].tolist())
    figure.canvas.draw()
    assert repr(result) == "Interactions(Shapley interactions: 2 samples, 5 groups)"


def test_wrong_calls():
    model, x = net(), samples()
    with pytest.raises(InvalidTypeError, match=r"give ExactShapley\(model\), got ContextualDecomposition"):
        shapley_interactions(ContextualDecomposition(model), x, 0)
    with pytest.raises(InvalidTypeError, match=r"integrated Hessians take IntegratedGradients\(model\), got Exact"):
        integrated_hessians(ExactShapley(model), x, 0)
    with pytest.raises(InvalidInputError, match="names must name 5 groups, got 1"):
        shapley_interactions(ExactShapley(model), x, 0, names=["a"])
    with pytest.raises(InvalidInputError, match=r"16 groups take 2\^16 = 65,536 passes"):
        shapley_interactions(ExactShapley(net(16), feature_mask=torch.arange(16)), samples(1, 16), 0)
    with pytest.raises(InvalidInputError, match="at most 256 groups, since each takes 20 passes, got 300"):
        integrated_hessians(IntegratedGradients(net(300)), samples(1, 300), 0, n_segments=300)
    with pytest.raises(InvalidInputError, match="sample must be >= 0 and <= 1, got 2"):
        shapley_interactions(ExactShapley(model), x, 0).plot(2)


def test_numbers_of_numpy():
    model, x = net(3), samples(2, 3)
    together = shapley_interactions(ExactShapley(model), x, np.int64(1))
    assert together.strongest(np.int64(1), 1) == together.strongest(1, 1)
    assert together.to_pandas(np.int32(1)).equals(together.to_pandas(1))
    with pytest.raises(InvalidInputError, match="n_segments must be >= 1"):
        integrated_hessians(IntegratedGradients(model), x, 1, n_segments=0)


def test_several_targets_give_a_list_and_share_passes(capsys):
    model, x, rows = net(4), samples(3, 4), []
    model[0].register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    several = [Contrast(2, 0), "probability:of=1", 1, lambda output: output[:, 0] ** 2]
    for function, explainer in (
        (shapley_interactions, ExactShapley(model, baseline=0.2)),
        (integrated_hessians, IntegratedGradients(model, n_steps=12)),
    ):
        rows.clear()
        results = function(explainer, x, several, names="abcd")
        shared = sum(rows)
        assert "100%" in capsys.readouterr().err
        assert len(results) == 4
        for result, target in zip(results, several, strict=True):
            alone = function(explainer, x, target, names="abcd", progress=False)
            assert torch.allclose(result.values, alone.values, rtol=1e-12)
            assert torch.allclose(result.gap, alone.gap, atol=1e-12)
            assert result.names == alone.names
        if function is shapley_interactions:
            assert shared < sum(rows) / 3
            rows.clear()
            explainer.attribute(x, several)
            assert sum(rows) <= shared
        with pytest.raises(InvalidInputError, match="must look at the same head"):
            function(explainer, x, [Class(0), Heads({0: 1})], progress=False)


def test_a_bar_counts_what_is_evaluated(capsys):
    model, x = net(), samples(2)
    shapley_interactions(ExactShapley(model, max_rows=8), x, 0)
    assert "64/64" in capsys.readouterr().err  # 2^5 coalitions of 2 samples
    integrated_hessians(IntegratedGradients(model, n_steps=6, max_rows=8), x, 0)
    assert "60/60" in capsys.readouterr().err  # 5 features at 6 points of 2 samples
    shapley_interactions(ExactShapley(model), x, 0, progress=False)
    integrated_hessians(IntegratedGradients(model), x, 0, progress=False)
    assert not capsys.readouterr().err
