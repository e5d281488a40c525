"""What a model's first call did not meet: equal rows, switches that are set later, inputs that take another way."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from xaikit import RRR, Gradient
from xaikit.core import EXPLAINERS
from xaikit.core.errors import InvalidInputError, InvalidTypeError, NotDifferentiableError, UnreachableError

STACKING = ("captum.feature_ablation", "smoothgrad:n_iter=5", "contextual_decomposition")


class Batchwise(nn.Module):
    """Every row sees the mean of all, or only where it is switched on; may draw, count and store."""

    def __init__(self, **switches):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(4, 6).double(), nn.Linear(6, 2).double()
        self.edges, self.noisy, self.kind, self.stored = None, False, "plain", []
        for name, value in switches.items():
            setattr(self, name, value)

    def forward(self, x):
        h = self.first(x).tanh()
        if self.kind == "mean":
            h = (h + h.mean(0)).tanh()
        if self.edges is not None:
            h = torch.zeros_like(h).index_add(0, self.edges[1], h[self.edges[0]]).tanh()
        if self.kind == "stored":
            self.stored.append(h.detach())
            h = h * len(self.stored)
        return self.last(F.dropout(h, 0.5, training=self.noisy))


def quietly(explainer, x):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return explainer.attribute(x, 1, seed=3)


X = torch.randn(4, 4, generator=torch.Generator().manual_seed(1)).double()


@pytest.mark.parametrize("first", [torch.zeros(4, 4), torch.ones(4, 4), torch.randn(1, 4).expand(4, 4)])
@pytest.mark.parametrize("spec", STACKING[:2])
def test_a_first_batch_of_equal_rows_hides_nothing(spec, first):
    net = Batchwise(kind="mean")
    explainer = EXPLAINERS.create(spec).bind(net)
    quietly(explainer, first.double())
    fresh = quietly(EXPLAINERS.create(spec).bind(Batchwise(kind="mean")), X)
    assert torch.equal(quietly(explainer, X), fresh)


@pytest.mark.parametrize("value", [0, 7])
def test_so_it_is_with_equal_ids(value):
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embedding, self.rest = nn.Embedding(9, 4).double(), Batchwise(kind="mean")

        def forward(self, ids):
            return self.rest(self.embedding(ids).mean(1))

    ids, net = torch.tensor([[1, 2, 3], [4, 5, 6], [8, 0, 2]]), Text()
    explainer = EXPLAINERS.create("captum.feature_ablation", layer="embedding")
    with pytest.warns(UserWarning, match="are not independent"):
        explainer.bind(net).attribute(torch.full((3, 3), value), 1)
    assert torch.equal(quietly(explainer.bind(net), ids), quietly(explainer.bind(Text()), ids))


@pytest.mark.parametrize("spec", STACKING)
@pytest.mark.parametrize(
    "switches", [{"kind": "mean"}, {"edges": torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]])}, {"kind": "stored"}]
)
def test_a_switch_that_is_set_between_two_calls(spec, switches):
    net = Batchwise()
    explainer = EXPLAINERS.create(spec).bind(net)
    explainer.attribute(X, 1)
    for name, value in switches.items():
        setattr(net, name, value)
    assert torch.equal(quietly(explainer, X), quietly(EXPLAINERS.create(spec).bind(Batchwise(**switches)), X))
    assert net.stored == []


def test_noise_that_is_switched_on_later_comes_from_the_seed():
    net = Batchwise()
    Gradient(net).attribute(X, 1)
    net.noisy, before = True, torch.get_rng_state()
    first, second = (Gradient(net).attribute(X, 1, seed=5) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)


class Branching(nn.Module):
    """Larger images, a switch or another task take a way through functions that torch does not differentiate twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.last, self.hard = nn.Conv2d(1, 4, 3).double(), nn.Linear(4, 2).double(), False

    def forward(self, x, hardsigmoid=F.hardsigmoid):
        h = self.conv(x)
        h = hardsigmoid(h) if self.hard or x.shape[-1] > 8 else torch.sigmoid(h)
        return self.last(h.pow(2).mean((2, 3)))


@pytest.mark.parametrize("size", [6, 10])
def test_functions_that_another_form_of_input_calls_are_exact_in_a_loss(size):
    net, y = Branching(), torch.tensor([0, 1])
    draw = torch.Generator().manual_seed(2)
    RRR().loss(net, (torch.rand(2, 1, 6, 6, generator=draw).double(), y, torch.ones(6, 6))).penalty.backward()
    net.zero_grad()
    net.hard = size == 6
    x = 4 * torch.rand(2, 1, size, size, generator=draw).double()
    RRR(output="logit").loss(net, (x, y, torch.ones(size, size))).penalty.backward()
    found = net.conv.weight.grad.clone()
    net.zero_grad()
    leaf = x.clone().requires_grad_()
    scores = net(leaf, lambda h: (h / 6 + 0.5).clamp(0, 1)).gather(1, y[:, None]).sum()
    torch.autograd.grad(scores, leaf, create_graph=True)[0].pow(2).sum().backward()
    assert torch.allclose(found, net.conv.weight.grad, rtol=1e-9)


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(4), nn.InstanceNorm2d(4), F.instance_norm])
def test_a_norm_of_one_sample_is_sound_whoever_calls_it(norm):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.last, self.norm = nn.Conv2d(1, 4, 3).double(), nn.Linear(16, 2).double(), norm
            self.rows = False

        def forward(self, x):
            h = self.norm(self.conv(x))
            return self.last(h.flatten(2).transpose(1, 2).tanh().reshape(len(x), -1, 16).sum(1))

    net = (Net().double() if isinstance(norm, nn.Module) else Net()).eval()
    x = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(4)).double()
    for _ in range(2):  # the first call watches the functions
        found = Gradient(net).attribute(x, 1)
    step = torch.zeros_like(x)
    step[0, 0, 3, 4] = 1e-6
    slope = (net(x + step) - net(x - step))[0, 1] / 2e-6
    assert torch.allclose(found[0, 0, 3, 4], slope.detach(), rtol=1e-6)


class Squared(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**2

    @staticmethod
    @once_differentiable
    def backward(ctx, g):
        return 2 * ctx.saved_tensors[0] * g


class TwoTasks(nn.Module):
    """A text among the further arguments says which layer counts."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(4, 2).double(), nn.Linear(4, 2).double()

    def forward(self, x, task):
        first, second = self.first(x), self.second(x)
        if task == "first":
            return first.tanh()
        return Squared.apply(second)


def of_task(task):
    return {"additional_forward_arg_extractor": lambda _: {"task": task}}


@pytest.mark.parametrize("spec", ["integrated_gradients:n_steps=3", "smoothgrad:n_iter=3"])
def test_a_layer_that_counts_in_one_task_only(spec):
    explainer = EXPLAINERS.create(spec, layer="second").bind(TwoTasks())
    explainer.set_kwargs(**of_task("second")).attribute(X, 1)
    with pytest.raises(UnreachableError, match="depend"):
        explainer.set_kwargs(**of_task("first")).attribute(X, 1)


@pytest.mark.parametrize("order", [("first", "second"), ("second", "first")])
def test_a_task_without_a_second_derivative_is_refused_whatever_ran_before(order):
    net = TwoTasks()
    for task in order:
        explainer = Gradient(net, **of_task(task))
        if task == "first":
            explainer.attribute(X, 1, create_graph=True).sum().backward()
        else:
            with pytest.raises(NotDifferentiableError):
                explainer.attribute(X, 1, create_graph=True)


def _convolutional() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(5, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(6, 4, 3), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64, 3))


@pytest.mark.parametrize("spec", ["lrp_epsilon_plus", "attn_lrp", "deep_lift", "contextual_decomposition", "gradient"])
def test_inputs_of_a_subclass_of_tensors(spec: str) -> None:
    class Picture(torch.Tensor):
        """As fastai has them."""

    model, x = _convolutional(), torch.rand(2, 5, 6, 6)
    explainer = EXPLAINERS.create(spec).bind(model)
    assert torch.equal(explainer.attribute(x.as_subclass(Picture), 1), explainer.attribute(x, 1))


@pytest.mark.parametrize("spec", ["lrp_epsilon_plus", "lrp_uniform_epsilon", "lrp_epsilon_alpha2_beta1"])
def test_lrp_under_autocast(spec: str) -> None:
    explainer, x = EXPLAINERS.create(spec).bind(_convolutional()), torch.rand(2, 5, 6, 6)
    expected = explainer.attribute(x, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = explainer.attribute(x, 1)
    assert float((values - expected).norm() / expected.norm()) < 0.05


def test_weights_that_are_loaded_when_they_are_needed():
    """accelerate's `cpu_offload`, as `device_map` does it: between the passes all weights are on the device "meta"."""
    accelerate = pytest.importorskip("accelerate")

    def net():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)
        return nn.Sequential(*layers).eval()

    x, y = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([0, 1, 2])
    model = accelerate.cpu_offload(net())
    for name in ("gradient", "integrated_gradients", "lrp_epsilon_plus", "deep_lift", "contextual_decomposition"):
        alone, offloaded = (EXPLAINERS.create(name).bind(m).attribute(x, y) for m in (net(), model))
        torch.testing.assert_close(offloaded, alone)
        alone, offloaded = (RRR(explainer=name).loss(m, (x, y, torch.ones(6, 6))).total for m in (net(), model))
        torch.testing.assert_close(offloaded, alone)
    assert all(p.is_meta for p in model.parameters())


def test_a_model_without_weights_is_told():
    with pytest.raises(InvalidInputError, match="2 parameters of the model, '0.weight' first.*load its weights first"):
        Gradient(nn.Sequential(nn.Linear(4, 3)).to("meta")).attribute(torch.ones(2, 4))


def test_a_frozen_script_has_no_mode(recwarn):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh()).eval()
    x = torch.randn(2, 4)
    frozen = torch.jit.freeze(torch.jit.script(model))
    torch.testing.assert_close(Gradient(frozen).attribute(x, 0), Gradient(model).attribute(x, 0))


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_masked_tensors_are_refused():
    x = torch.masked.masked_tensor(torch.ones(2, 4), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(InvalidTypeError, match=r"got a masked one; pass inputs.to_tensor\(0.0\)"):
        Gradient(nn.Linear(4, 3)).attribute(x, 0)


@pytest.mark.parametrize("spec", ["integrated_gradients:n_steps=5", "smoothgrad:n_iter=3", "gradient"])
def test_layers_that_feed_each_other_and_run_twice(spec):
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.tower, self.last = nn.Sequential(nn.Linear(4, 5), nn.Tanh()), nn.Linear(10, 2)

        def forward(self, a, b):
            return self.last(torch.cat([self.tower(a), self.tower(b)], 1))

    model, x = Siamese(), (torch.randn(3, 4), torch.randn(3, 4))
    together = EXPLAINERS.create(spec, layer=["tower.0", "tower.1"]).bind(model).attribute(x, 1)
    for layer, values in zip(("tower.0", "tower.1"), together, strict=True):
        alone = EXPLAINERS.create(spec, layer=layer).bind(model).attribute(x, 1)
        assert alone.shape == (3, 2, 5)
        torch.testing.assert_close(values, alone)
