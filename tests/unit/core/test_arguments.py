"""Inputs in a form that the model does not take, and outputs in a tuple: a sentence, or what is meant."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from xaikit import EXPLAINERS, RRR, Gradient
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, XaikitError
from xaikit.mitigation import assess
from xaikit.shortcuts import scan

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("spec", ["gradient", "lrp_epsilon_plus", "captum.feature_ablation"])
def test_samples_in_a_list_are_not_inputs(spec):
    explainer = EXPLAINERS.create(spec).bind(nn.Linear(4, 2))
    for inputs, came in (
        (list(X), "5 by position"),
        ((X, X), "2 by position"),
        ({"a": X, "b": X}, "'a', 'b' by name"),
    ):
        with pytest.raises(InvalidTypeError, match=rf"does not take the arguments {came} .*torch\.stack"):
            explainer.attribute(inputs, 1)


@pytest.mark.parametrize("run", [scan, assess], ids=["scan", "assess"])
def test_names_in_a_data_set_that_the_model_does_not_take(run):
    samples = [{"pixels": x, "labels": i % 2} for i, x in enumerate(X[:4])]
    options = {"shortcut_masks": torch.eye(4)[0]} if run is assess else {}
    with pytest.raises(InvalidTypeError, match=r"does not take the arguments 'pixels' by name"):
        run(nn.Linear(4, 2), DataLoader(samples, 2), progress=False, **options)


def test_an_error_of_the_models_own_stays_as_it_is():
    class Adds(nn.Linear):
        def forward(self, x):
            return super().forward(x) + None

    with pytest.raises(TypeError, match="unsupported operand"):
        Gradient(Adds(4, 2)).attribute(X, 1)


def test_sparse_tensors_are_refused():
    with pytest.raises(InvalidTypeError, match=r"must be dense tensors, got torch\.sparse_coo; pass inputs\.to_dense"):
        Gradient(nn.Linear(4, 2)).attribute(X.to_sparse(), 1)


def test_a_lazy_layer_has_no_weights_yet():
    model = nn.Sequential(nn.LazyLinear(3), nn.Tanh(), nn.Linear(3, 2))
    with pytest.raises(InvalidInputError, match=r"lazy layers without weights; run it on a batch once"):
        Gradient(model).attribute(X, 1)
    model(X)
    assert Gradient(model).attribute(X, 1).shape == X.shape


class OfOne(nn.Linear):
    def forward(self, x):
        return (super().forward(x),)


@pytest.mark.parametrize("spec", ["gradient", "smoothgrad:n_iter=2", "lrp_epsilon_plus", "contextual_decomposition"])
def test_the_only_output_is_the_one_that_is_meant(spec):
    torch.manual_seed(0)
    model = OfOne(4, 2)
    plain = nn.Linear(4, 2)
    plain.load_state_dict(model.state_dict())
    explainer = EXPLAINERS.create(spec)
    torch.testing.assert_close(explainer.bind(model).attribute(X, 1), explainer.bind(plain).attribute(X, 1))
    with pytest.raises(UnknownNameError, match="a tuple of 1; name its output with head="):
        explainer.set_kwargs(head="scores").bind(model).attribute(X, 1)


def test_so_it_is_in_a_loss():
    model = OfOne(4, 2)
    loss = RRR(explainer="gradient").loss(model, (X, [0, 1, 0, 1, 0], torch.ones(4)))
    loss.total.backward()
    assert loss.penalty.item() > 0
    assert model.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(("error", "inputs"), [(KeyError, {"a": X}), (ValueError, {"a": X}), (ValueError, [X, X])])
def test_a_model_of_one_dict_or_one_list_says_its_own_error(error, inputs):
    class OfOneArgument(nn.Linear):
        def forward(self, batch):
            raise error("the model's own")

    with pytest.raises(error, match="the model's own"):
        Gradient(OfOneArgument(4, 2)).attribute(inputs, 1)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (torch.ones(2, 4) + 1j, "inputs of torch.complex64 are complex; pass torch.view_as_real"),
        (torch.ones(4), r"must return one row per sample, got \(3,\) for a batch of 4"),
    ],
)
def test_a_method_without_gradients_says_the_same_of_wrong_inputs(x, words):
    for name in ("captum.feature_ablation", "captum.occlusion", "kernel_shapley", "gradient"):
        with pytest.raises(XaikitError, match=words):
            EXPLAINERS.create(name).bind(nn.Linear(4, 3)).attribute(x, 1)
