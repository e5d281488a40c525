"""Max- and AvgSensitivity and the Lipschitz estimate against captum, Quantus and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from xaikit.core import EXPLAINERS, Explainer
from xaikit.core.errors import InvalidInputError, UnsupportedOperationError
from xaikit.explainers import Gradient, GradientXInput, IntegratedGradients, SmoothGrad
from xaikit.metrics import AvgSensitivity, LocalLipschitz, MaxSensitivity
from xaikit.metrics.random_subsets import uniform_draws


def net():
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(36, 3)).double()


def moves(x, n_iter, radius, seed=0):
    return radius * (2 * uniform_draws((x,), n_iter, seed)[0] - 1)


@pytest.mark.parametrize("explainer", [Gradient, GradientXInput, IntegratedGradients, SmoothGrad])
def test_max_sensitivity_equals_captum_on_the_same_points(explainer):
    captum_metrics = pytest.importorskip("captum.metrics")
    made, x, y = explainer(net()), torch.randn(4, 2, 5, 5).double(), torch.tensor([0, 1, 2, 1])
    z = moves(x, 6, 0.1)
    theirs = captum_metrics.sensitivity_max(
        lambda inputs, target: (made.attribute(inputs[0], target),),
        x,
        perturb_func=lambda inputs: (inputs + z.repeat(len(inputs) // 6, 1, 1, 1),),  # each sample 6 times in a row
        n_perturb_samples=6,
        target=y,
    )
    found = MaxSensitivity(n_iter=6, radius=0.1).evaluate(made, x, y)
    assert torch.allclose(found, theirs, rtol=1e-6)
    for max_rows in (1, 5, 100):
        small = MaxSensitivity(n_iter=6, radius=0.1, max_rows=max_rows).evaluate(made, x, y)
        assert torch.allclose(small, found, rtol=1e-9)


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (AvgSensitivity, "AvgSensitivity", {}),
        (MaxSensitivity, "MaxSensitivity", {}),
        (LocalLipschitz, "LocalLipschitzEstimate", {"norm_numerator": "distance_euclidean"}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_equal_to_quantus_on_the_same_points(quantus, ours, theirs, options):
    made, x, y = GradientXInput(net()), torch.randn(4, 2, 5, 5).double(), torch.tensor([0, 1, 2, 1])
    draws = iter(moves(x, 5, 0.05))

    def explain(model, inputs, targets, **_):
        return made.attribute(torch.from_numpy(inputs), torch.as_tensor(targets)).numpy()

    expected = quantus.metric(
        theirs, made.model, x, y, made.attribute(x, y),
        nr_samples=5, functions=options, perturb_func=lambda arr, **_: arr + next(draws).flatten().numpy(),
        call={"explain_func": explain},
    )  # fmt: skip
    assert np.allclose(ours(n_iter=5, radius=0.05).evaluate(made, x, y), expected, rtol=1e-6)


def test_closed_form_of_a_square():
    """For f = sum x^2 the gradient is 2x: |Phi(x') - Phi(x)| = 2 |x' - x|, so the Lipschitz constant is 2."""

    class Square(nn.Module):
        def forward(self, x):
            return x.square().sum(1)

    x = torch.randn(6, 8).double()
    explainer = Gradient(Square())
    assert torch.allclose(LocalLipschitz().evaluate(explainer, x), torch.full((6,), 2.0).double())
    lengths = moves(x, 10, 0.02).norm(dim=1)
    assert torch.allclose(MaxSensitivity().evaluate(explainer, x), lengths.max() / x.norm(dim=1))
    assert torch.allclose(AvgSensitivity().evaluate(explainer, x), lengths.mean() / x.norm(dim=1))


def test_a_target_function_with_values_per_sample_and_several_inputs():
    class Product(nn.Module):
        def forward(self, a, b):
            return torch.stack([(a * b).sum(1), (a.square() * b).sum(1)], 1)

    inputs, w = (torch.randn(5, 4).double(), torch.randn(5, 4).double()), torch.randn(5, 1).double()
    explainer = Gradient(Product())
    found = MaxSensitivity().evaluate(explainer, inputs, lambda out: (w * out).sum(1))
    alone = [
        MaxSensitivity().evaluate(
            explainer, tuple(t[i : i + 1] for t in inputs), lambda out, i=i: (w[i : i + 1] * out).sum(1)
        )
        for i in range(5)
    ]
    assert torch.allclose(found, torch.cat(alone))


def test_an_explanation_of_zero_has_no_relative_change():
    class Late(nn.Module):
        def forward(self, x):
            return (x - 5).clamp_min(0).sum(1)

    x = torch.rand(3, 4).double()
    assert MaxSensitivity().evaluate(Gradient(Late()), x).isnan().all()
    assert torch.equal(LocalLipschitz().evaluate(Gradient(Late()), x), torch.zeros(3).double())


def test_an_explainer_keeps_its_random_numbers():
    """Otherwise the metric would measure the noise of an explainer that draws from torch's global state."""

    class Noisy(Explainer):
        def _attribute(self, call):
            return tuple(g + torch.randn(()) for g in call.grad_of(call.inputs))

    found = MaxSensitivity().evaluate(Noisy(nn.Linear(4, 1).double()), torch.randn(3, 4).double())
    assert torch.equal(found, torch.zeros(3).double())


def test_postprocessing_is_applied_to_what_is_explained_again():
    made, x = GradientXInput(net()), torch.randn(3, 2, 5, 5).double()
    pool = lambda a: a.abs().sum(1, keepdim=True)
    found = AvgSensitivity(n_iter=3).evaluate(made, x, 1, postprocess=pool)
    before = pool(made.attribute(x, 1))
    changes = [(pool(made.attribute(x + z, 1)) - before).flatten(1).norm(dim=1) for z in moves(x, 3, 0.02)]
    assert torch.allclose(found, torch.stack(changes).mean(0) / before.flatten(1).norm(dim=1))
    with pytest.raises(InvalidInputError, match="give postprocess="):
        AvgSensitivity().evaluate(made, x, 1, before)


@pytest.mark.parametrize(
    "name",
    [
        "captum.saliency",
        "captum.feature_ablation",
        "captum.integrated_gradients",
        "lrp_epsilon_plus",
        "contextual_decomposition",
    ],
)
@pytest.mark.parametrize("layer", [None, "0"])
def test_stacked_points_are_explained_as_each_would_be_alone(name, layer):
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)).double()
    x, y = torch.randn(3, 2, 5, 5).double(), torch.tensor([0, 2, 1])
    explainer = EXPLAINERS.create(name).set_kwargs(model=model, layer=layer)
    rest, h = (model, x) if layer is None else (model[1:], model[0](x).detach())
    alone = EXPLAINERS.create(name).bind(rest)
    before = alone.attribute(h, y)
    changes = [(alone.attribute(h + z, y) - before).flatten(1).norm(dim=1) for z in moves(h, 3, 0.1)]
    found = MaxSensitivity(n_iter=3, radius=0.1).evaluate(explainer, x, y)
    assert torch.allclose(found, torch.stack(changes).amax(0) / before.flatten(1).norm(dim=1), rtol=1e-6)


def test_a_class_that_finds_its_layer_by_itself_is_refused():
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3))
    explainer = EXPLAINERS.create("captum:algorithm=LayerGradCam").set_kwargs(model=model, layer="0")
    with pytest.raises(UnsupportedOperationError, match="computes those of its layer by itself"):
        MaxSensitivity().evaluate(explainer, torch.randn(2, 2, 5, 5), 0)


def test_a_baseline_that_runs_the_model_to_its_layer_meets_every_copy():
    """The embedding of a padding token is the baseline, also for the stacked points."""
    model = nn.Sequential(nn.Embedding(11, 4), nn.Flatten(), nn.Tanh(), nn.Linear(28, 3)).double()
    tokens, y = torch.randint(0, 11, (3, 7)), torch.tensor([0, 1, 2])
    explainer = IntegratedGradients(model, layer="0", baseline="token_id:token=0", n_steps=8)
    found = MaxSensitivity(n_iter=3, radius=0.1).evaluate(explainer, tokens, y)
    h, pad = model[0](tokens).detach(), model[0].weight[0].detach().expand(7, 4)
    alone = IntegratedGradients(model[1:], baseline=pad, n_steps=8)
    before = alone.attribute(h, y)
    changes = [(alone.attribute(h + z, y) - before).flatten(1).norm(dim=1) for z in moves(h, 3, 0.1)]
    assert torch.allclose(found, torch.stack(changes).amax(0) / before.flatten(1).norm(dim=1))
