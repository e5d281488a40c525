"""The attribution call: inputs, targets, layers, heads, extractors, and every wrong call."""

from __future__ import annotations

import collections
import types
import warnings

import pytest
import torch
from torch import nn

from xaikit.core import Attribution, Call, Explainer
from xaikit.core.errors import (
    InvalidInputError,
    InvalidTypeError,
    NotDifferentiableError,
    UnboundError,
    UnknownNameError,
)
from xaikit.explainers import Gradient, GradientXInput, IntegratedGradients, SmoothGrad
from xaikit.testing import derivative_error


class TwoInputs(nn.Module):
    """Two inputs, one scale as a further argument; returns a dict."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(2, 4)

    def forward(self, left, right, scale=1.0):
        return {"scores": (self.a(left) * scale + self.b(right)).tanh(), "other": left}


class Tokens(nn.Module):
    """Token ids to logits; an embedding in front."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(11, 5)
        self.lstm = nn.LSTM(5, 4, batch_first=True)
        self.fc = nn.Linear(4, 3)

    def forward(self, ids, mask=None):
        hidden, _ = self.lstm(self.embed(ids))
        if mask is not None:
            hidden = hidden * mask[..., None]
        return self.fc(hidden.mean(1))


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()


@pytest.fixture
def x():
    return torch.randn(5, 4, dtype=torch.float64)


def test_gradient_of_a_relu_net_by_hand(net, x):
    gate = (net[0](x) > 0).double()
    by_hand = torch.stack([net[2].weight[1] * g @ net[0].weight for g in gate])
    assert torch.allclose(Gradient(net).attribute(x, 1), by_hand)
    assert torch.allclose(GradientXInput(net).attribute(x, 1), by_hand * x)


@pytest.mark.parametrize(
    ("targets", "error", "words"),
    [
        ([0, 1], InvalidInputError, "targets must have shape (5,), one for each sample, got (2,)"),
        (torch.rand(5), InvalidTypeError, "whole class indices of an integer type, got torch.float32"),
        (torch.ones(5, dtype=torch.bool), InvalidTypeError, "whole class indices, got booleans"),
        (3, InvalidInputError, "must lie in 0..2 for a model with 3 outputs, got 3"),
        (-1, InvalidInputError, "got -1"),
        (None, InvalidInputError, "several outputs per sample: pass targets"),
        (torch.eye(3)[[0, 1, 2, 0, 1]].long(), InvalidInputError, "these are one-hot rows: pass targets.argmax(1)"),
        ("cat", UnknownNameError, "unknown target 'cat'; known are 'class'"),
        (["cat"] * 5, InvalidTypeError, "targets must hold numbers, got strings such as 'cat'; number the classes"),
        (lambda out: out, InvalidInputError, "must return one score per sample, shape (5,), got (5, 3)"),
    ],
)
def test_wrong_targets(net, x, targets, error, words):
    with pytest.raises(error) as caught:
        Gradient(net).attribute(x, targets)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("inputs", "error", "words"),
    [
        (torch.full((2, 4), float("nan")).double(), InvalidInputError, "must be finite, got NaN or inf in sample 0, 1"),
        (torch.zeros(0, 4).double(), InvalidInputError, "empty batch of shape (0, 4)"),
        ((torch.zeros(2, 4), torch.zeros(3, 4)), InvalidInputError, "agree on the batch size, got [2, 3]"),
        (torch.tensor(1.0), InvalidInputError, "must have a batch dimension first"),
        ("image.png", InvalidTypeError, "must hold tensors or arrays of numbers, got str"),
        (
            (torch.zeros(2, 4), None),
            InvalidTypeError,
            "of numbers, got NoneType inside a tuple",
        ),
        ((), InvalidInputError, "holds no tensor"),
        (torch.zeros(2, 4).long(), InvalidTypeError, "have no gradient; pass a float tensor"),
    ],
)
def test_wrong_inputs(net, inputs, error, words):
    with pytest.raises(error) as caught:
        Gradient(net).attribute(inputs, 0)
    assert words in str(caught.value)


def test_integer_input_names_the_embedding():
    with pytest.raises(InvalidTypeError, match="layer='embed', the model's embedding"):
        Gradient(Tokens()).attribute(torch.zeros(2, 7, dtype=torch.long), 0)


def test_embedding_layer_explains_tokens():
    model, ids = Tokens().double(), torch.randint(0, 11, (3, 7))
    a = IntegratedGradients(model, layer="embed", n_steps=60).attribute(ids, 1)
    assert a.shape == (3, 7, 5)
    with torch.no_grad():
        zero = model.fc(model.lstm(torch.zeros(3, 7, 5, dtype=torch.float64))[0].mean(1))
        gap = a.sum((1, 2)) - (model(ids) - zero)[:, 1]
    assert float(gap.abs().max()) < 1e-9


def test_parallel_layers_are_explained_together():
    model = TwoInputs().double()
    left, right = torch.rand(3, 3).double(), torch.rand(3, 2).double()
    a, b = Gradient(model, layer=["a", "b"], head="scores").attribute((left, right), 2)
    slope = 1 - model(left, right)["scores"][:, 2] ** 2
    assert torch.allclose(a[:, 2], slope)
    assert torch.allclose(b, a)


def test_heads():
    model = TwoInputs().double()
    pair = (torch.rand(3, 3).double(), torch.rand(3, 2).double())
    with pytest.raises(UnknownNameError, match="returns a dict without 'logits'; name its output with head=, one of"):
        Gradient(model).attribute(pair, 0)
    a, b = Gradient(model, head="scores").attribute(pair, 0)
    named = Gradient(model, head="scores").attribute({"left": pair[0], "right": pair[1]}, 0)
    assert torch.equal(named["left"], a)
    assert torch.equal(named["right"], b)

    class Tuple(nn.Module):
        def forward(self, x):
            return x, x * 2

    class Listed(nn.Module):
        def forward(self, x):
            return [x, x * 2]

    class Named(nn.Module):
        def forward(self, x):
            return collections.namedtuple("Output", "logits aux")(x * 3, x)

    class Array(nn.Module):
        def forward(self, x):
            return x.detach().numpy()

    class Object(nn.Module):
        def forward(self, x):
            return types.SimpleNamespace(scores=x * 4, n=1)

    one = torch.ones(1, 1)
    with pytest.raises(InvalidTypeError, match="returns a ndarray, and no tensor; its forward pass must return one"):
        Gradient(Array()).attribute(one)
    with pytest.raises(UnknownNameError, match=r"without 'logits'; name its output with head=, one of \['scores'\]"):
        Gradient(Object()).attribute(one)
    assert Gradient(Object(), head="scores").attribute(one).item() == 4
    with pytest.raises(UnknownNameError, match="returns a tuple of 2; name its output with head="):
        Gradient(Tuple()).attribute(one)
    with pytest.raises(UnknownNameError, match="returns a list of 2; name its output with head="):
        Gradient(Listed()).attribute(one)
    assert Gradient(Tuple(), head=1).attribute(one).item() == 2
    assert Gradient(Named()).attribute(one).item() == 3


def test_extractors_pick_what_is_explained_and_what_goes_along():
    model = TwoInputs().double()
    batch = {
        "l": torch.rand(3, 3).double(),
        "r": torch.rand(3, 2).double(),
        "scale": torch.tensor([[1.0], [2.0], [3.0]]).double(),
    }
    explainer = SmoothGrad(
        model,
        head="scores",
        n_iter=4,
        noise_level=0,
        forward_arg_extractor=lambda b: (b["l"], b["r"]),
        additional_forward_arg_extractor=lambda b: b["scale"],
    )
    a, b = explainer.attribute(batch, 1)
    slope = 1 - model(batch["l"], batch["r"], batch["scale"])["scores"][:, 1:2] ** 2
    assert torch.allclose(a, slope * batch["scale"] * model.a.weight[1])
    assert torch.allclose(b, slope * model.b.weight[1])
    named = explainer.set_kwargs(additional_forward_arg_extractor=lambda b: {"scale": b["scale"]}).attribute(batch, 1)
    assert torch.equal(named[0], a)


def test_additional_arguments_follow_their_samples_through_chunks():
    model, ids = Tokens().double(), torch.randint(0, 11, (5, 7))
    mask = torch.rand(5, 7).double()
    for rows in (1, 3, 64):
        a = SmoothGrad(model, layer="embed", n_iter=3, max_rows=rows).attribute((ids, mask), torch.arange(5) % 3)
        expected = SmoothGrad(model, layer="embed", n_iter=3).attribute((ids[3:4], mask[3:4]), 0)
        assert torch.allclose(a[3:4], expected)


def test_n_classes_is_checked(net, x):
    Gradient(net, n_classes=3).attribute(x, 0)
    with pytest.raises(InvalidInputError, match=r"n_classes=4 but the model returns \(N, 3\)"):
        Gradient(net, n_classes=4).attribute(x, 0)


def test_an_unbound_explainer_says_so(x):
    with pytest.raises(UnboundError, match=r"Gradient\(\) has no model yet; call .bind\(model\) first"):
        Gradient().attribute(x)
    with pytest.raises(InvalidTypeError, match="takes a torch.nn.Module as its model, got 'resnet18'"):
        Gradient("resnet18")


def test_create_graph_is_refused_where_it_would_be_wrong(net, x):
    class Detached(Gradient):
        """No graph."""

        DIFFERENTIABLE = False

    with pytest.raises(NotDifferentiableError, match="cannot stand in a loss; these can: .*gradient.*vargrad"):
        Detached(net).attribute(x, 0, create_graph=True)


def test_a_detached_model_is_told(x):
    class Detached(nn.Module):
        def forward(self, x):
            return x.detach().sum(1)

    with pytest.raises(InvalidInputError, match="does not depend on its input through autograd"):
        Gradient(Detached()).attribute(x)


def test_batchnorm_of_a_single_sample_is_sound():
    """torch's own backward is wrong here on a CPU, for one sample and a transposed gradient."""

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.bn, self.act = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True)
            self.fc = nn.Linear(8, 2)
            self.bn.running_var.uniform_(0.5, 1.5)

        def forward(self, x):
            return self.fc(self.act(self.bn(self.conv(x))).flatten(2).transpose(1, 2)).tanh().mean(1)

    model, x = Tokens().double(), torch.randn(2, 3, 8, 8).double()
    for explainer in (Gradient(model), SmoothGrad(model, n_iter=3, max_rows=1)):
        whole = explainer.attribute(x, 1)
        assert torch.allclose(explainer.attribute(x[:1], 1), whole[:1], rtol=1e-9)
    assert derivative_error(Gradient(model), x[:1], 1) < 1e-5


def test_in_place_models_inference_tensors_and_no_grad(x):
    model = nn.Sequential(nn.ReLU(inplace=True), nn.Linear(4, 1).double())
    kept = x.clone()
    a = Gradient(model).attribute(x)
    assert torch.equal(x, kept)
    with torch.inference_mode():
        inside = x * 1
        assert torch.equal(Gradient(model).attribute(inside), a)
    with torch.no_grad():
        assert torch.equal(Gradient(model).attribute(x), a)


def test_attribution_is_differentiable_in_the_input(x):
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x = x.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: GradientXInput(model).attribute(v, create_graph=True), (x,))


def test_device_and_repr(net):
    assert Gradient(net).device == torch.device("cpu")
    assert repr(SmoothGrad(net, n_iter=3)) == "SmoothGrad(Sequential, noise_level=0.1, n_iter=3)"
    assert Gradient.EXPLANATION_TYPE == "attribution"


def test_explain_saves_and_loads(net, x, tmp_path):
    result = IntegratedGradients(net).explain(x, 1)
    assert torch.allclose(result.scores, net(x)[:, 1])
    for ending in (".npz", ".safetensors"):
        again = Attribution.load(result.save(tmp_path / f"a{ending}"))
        assert torch.equal(again.values, result.values)
        assert torch.equal(again.gap, result.gap)
        assert (again.spec, again.targets) == (result.spec, result.targets)
    pair = Attribution((x, x * 2), {"name": "n"})
    assert torch.equal(Attribution.load(pair.save(tmp_path / "p.npz")).values[1], x * 2)
    named = Attribution({"left": x}, {"name": "n"})
    assert torch.equal(Attribution.load(named.save(tmp_path / "d.npz")).values["left"], x)
    with pytest.raises(InvalidInputError, match=r"saved as \.npz, \.safetensors or \.json"):
        result.save(tmp_path / "a.pkl")


def test_a_broken_promise_warns(net, x):
    class Short(IntegratedGradients):
        """Half of it."""

        def _attribute(self, call: Call):
            return tuple(a / 2 for a in super()._attribute(call))

    with pytest.warns(UserWarning, match="misses the explained score by"):
        Short(net).explain(x, 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        IntegratedGradients(net, n_steps=100).explain(x, 0)


def test_a_target_function_sees_the_whole_batch(net, x):
    y = torch.tensor([0, 1, 2, 0, 1])
    chosen = SmoothGrad(net, max_rows=2).attribute(x, lambda out: out.gather(1, y[:, None])[:, 0])
    assert torch.allclose(chosen, SmoothGrad(net, max_rows=2).attribute(x, y))


def test_attribute_is_the_same_for_a_subclass_that_forgets_the_shape(net, x):
    class Wrong(Explainer):
        """Wrong."""

        def _attribute(self, call):
            return (call.inputs[0][:, :1],)

    with pytest.raises(RuntimeError, match=r"Wrong._attribute returned \(5, 1\) for \(5, 4\)"):
        Wrong(net).attribute(x, 0)


def test_a_further_argument_that_is_for_all_samples_is_not_split():
    """An attention mask (T, T) or a scalar goes as it is to every pass over copies of the batch."""
    torch.manual_seed(0)
    encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
    causal = torch.full((5, 5), -torch.inf).triu(1)
    explainer = SmoothGrad(
        encoder,
        n_iter=3,
        noise_level=0,
        forward_arg_extractor=lambda given: given[0],
        additional_forward_arg_extractor=lambda given: {"src_mask": given[1]},
    )
    x = torch.rand(3, 5, 4)
    plain = Gradient(encoder, **{n: getattr(explainer, n) for n in Gradient.SETTINGS})
    first = explainer.attribute((x, causal), lambda output: output[:, 0, 1])
    assert torch.allclose(first, plain.attribute((x, causal), lambda output: output[:, 0, 1]), atol=1e-6)
    assert first[:, 0].abs().max() > 1e-3
    assert not first[:, 1:].any()
