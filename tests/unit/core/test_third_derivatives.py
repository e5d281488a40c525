"""Third derivatives of norms, which torch has wrong, beside the norms written out, and where they are needed."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from packaging.version import Version
from torch import nn

from xaikit.core import EXPLAINERS
from xaikit.core.errors import NotDifferentiableError
from xaikit.core.third_derivatives import third_derivatives
from xaikit.mitigation import RBR


def draws(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator).double() for shape in shapes]


def standardised(x, axes):
    return (x - x.mean(axes, keepdim=True)) / (x.var(axes, unbiased=False, keepdim=True) + 1e-5).sqrt()


def three_times(function, x, seed, along, back):
    x = x.clone().requires_grad_()
    (g,) = torch.autograd.grad((function(x) * seed).sum(), x, create_graph=True)
    (h,) = torch.autograd.grad(g, x, along, create_graph=True)
    return torch.autograd.grad((h * back).sum(), x)[0]


OPERATORS = torch.ops.aten
IN_TRAINING = (None, None, True, 0.1, 1e-5)  # no running statistics
WEIGHT, BIAS = torch.tensor([1.0, 2.0, -1.0, 0.5]).double(), torch.tensor([0.0, 1.0, 2.0, 3.0]).double()
NORMS = {
    "layer_norm": (lambda x: F.layer_norm(x, (4,), WEIGHT, BIAS), lambda x: standardised(x, (2,)) * WEIGHT + BIAS),
    "two_axes": (lambda x: torch.layer_norm(x, (4, 4)), lambda x: standardised(x, (1, 2))),
    "module": (nn.LayerNorm(4, elementwise_affine=False), lambda x: standardised(x, (2,))),
    "instance_norm": (lambda x: F.instance_norm(x, weight=WEIGHT), lambda x: standardised(x, (2,)) * WEIGHT[:, None]),
    "batch_norm": (
        lambda x: F.batch_norm(x, None, None, WEIGHT, BIAS, training=True),
        lambda x: standardised(x, (0, 2)) * WEIGHT[:, None] + BIAS[:, None],
    ),
}
NORMS |= {  # the same norms, called otherwise
    f"{name}_{way}": (norm, NORMS[name][1])
    for name, way, norm in (
        ("layer_norm", "keywords", lambda x: F.layer_norm(input=x, normalized_shape=(4,), weight=WEIGHT, bias=BIAS)),
        ("layer_norm", "native", lambda x: torch.native_layer_norm(x, [4], WEIGHT, BIAS, 1e-5)[0]),
        ("layer_norm", "exported", lambda x: OPERATORS.layer_norm.default(x, [4], WEIGHT, BIAS)),
        ("instance_norm", "torch", lambda x: torch.instance_norm(x, WEIGHT, None, *IN_TRAINING, False)),
        ("instance_norm", "operator", lambda x: OPERATORS.instance_norm(x, WEIGHT, None, *IN_TRAINING, False)),
        ("batch_norm", "torch", lambda x: torch.batch_norm(x, WEIGHT, BIAS, *IN_TRAINING, False)),
        ("batch_norm", "native", lambda x: torch.native_batch_norm(x, WEIGHT, BIAS, *IN_TRAINING)[0]),
        ("batch_norm", "legit", lambda x: torch._native_batch_norm_legit(x, WEIGHT, BIAS, True, 0.1, 1e-5)[0]),
        ("batch_norm", "exported", lambda x: OPERATORS.batch_norm.default(x, WEIGHT, BIAS, *IN_TRAINING, False)),
    )
}


@pytest.mark.parametrize("name", NORMS)
def test_third_derivatives_of_norms(name):
    norm, written_out = NORMS[name]
    x, *others = draws(*[(3, 4, 4)] * 4)
    expected = three_times(written_out, x, *others)
    with third_derivatives(active=True):
        assert torch.allclose(norm(x), written_out(x))
        assert torch.allclose(three_times(norm, x, *others), expected)
    if name == "module":
        return
    if "layer" not in name and name != "two_axes" and Version(torch.__version__) >= Version("2.14a"):
        with pytest.raises(RuntimeError, match="does not support 3rd\\+ order derivatives"):
            three_times(norm, x, *others)
    else:  # torch's own, which makes the context necessary
        assert not torch.allclose(three_times(norm, x, *others), expected, rtol=0.1)


def grouped(x):
    return standardised(x.unflatten(1, (2, 2)), (2, 3)).flatten(1, 2) * WEIGHT[:, None] + BIAS[:, None]


def test_group_norm_is_right_without_the_context():
    x, *others = draws(*[(3, 4, 4)] * 4)
    expected = three_times(grouped, x, *others)
    for norm in (
        lambda x: torch.native_group_norm(x, WEIGHT, BIAS, 3, 4, 4, 2, 1e-5)[0],
        lambda x: torch.group_norm(x, 2, WEIGHT, BIAS),
    ):
        assert torch.allclose(norm(x), grouped(x))
        assert torch.allclose(three_times(norm, x, *others), expected)


def test_statistics_and_precision_are_those_of_torch():
    single = draws((3, 4, 4))[0].float()
    for norm in (
        lambda: torch.native_layer_norm(single, [4, 4], None, None, 1e-5),
        lambda: torch.native_layer_norm(single.bfloat16(), [4], None, None, 1e-5),
        lambda: torch.native_batch_norm(single, None, None, *IN_TRAINING),
    ):
        expected_parts = norm()
        with third_derivatives(active=True):
            for part, right in zip(norm(), expected_parts, strict=True):
                assert part.dtype == right.dtype
                assert torch.allclose(part, right, rtol=1e-2 if part.dtype == torch.bfloat16 else 1e-4)


def test_running_statistics_are_moved_and_used_as_ever():
    (x,) = draws((5, 4, 3))
    for build in (nn.BatchNorm1d, lambda n: nn.InstanceNorm1d(n, track_running_stats=True)):
        plain, watched = build(4).double(), build(4).double()
        expected = plain(x)
        with third_derivatives(active=True):
            assert torch.allclose(watched(x), expected)
            assert torch.equal(watched.running_var, plain.running_var)
            assert torch.equal(watched.eval()(x), plain.eval()(x))


class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Conv2d(1, 3, 3), nn.Conv2d(3, 3, 1), nn.Linear(12, 2)
        self.norm = nn.LayerNorm([3, 2, 2])
        self.double()

    def forward(self, x):
        return self.last(F.silu(self.norm(self.second(F.softplus(self.first(x))))).flatten(1))


def slope_by_differences(model, value):
    direction = draws(model.first.weight.shape)[0]
    ends = []
    with torch.no_grad():
        for step in (1e-5, -2e-5):
            model.first.weight += step * direction
            ends.append(float(value()))
        model.first.weight += 1e-5 * direction
    return direction, (ends[0] - ends[1]) / 2e-5


def test_norms_that_no_mode_sees_are_refused():
    model = Normed()
    model.norm = torch.jit.trace(model.norm, torch.rand(2, 3, 2, 2).double())
    (x,) = draws((4, 1, 4, 4))
    explainer = EXPLAINERS.create("shapleycam:target_layer=second").bind(model)
    assert explainer.attribute(x, 1).shape == (4, 1, 4, 4)  # two derivatives are right
    with pytest.raises(NotDifferentiableError, match="third derivative"):
        explainer.attribute(x, 1, create_graph=True)
    with pytest.raises(NotDifferentiableError, match="third derivative"):
        RBR(weights=["second"]).loss(model, (x, torch.tensor([0, 1, 1, 0]), torch.ones(4, 4)))


def test_shapleycam_in_a_loss_through_a_layer_norm():
    model, (x, places) = Normed(), draws((2, 1, 4, 4), (2, 1, 4, 4))
    explainer = EXPLAINERS.create("shapleycam:target_layer=second,relu=False").bind(model)

    def value(**options):
        return (explainer.attribute(x, 1, **options) * places).sum()

    (gradient,) = torch.autograd.grad(value(create_graph=True), model.first.weight)
    direction, expected = slope_by_differences(model, value)
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-5)


def test_rbr_through_a_layer_norm():
    model, (x,) = Normed(), draws((4, 1, 4, 4))
    batch = x, torch.tensor([0, 1, 1, 0]), torch.ones(4, 4)
    mitigator = RBR(lambda_rbr=3.0, weights=["second"])
    (gradient,) = torch.autograd.grad(mitigator.loss(model, batch).total, model.first.weight)
    direction, expected = slope_by_differences(model, lambda: mitigator.loss(model, batch).total)
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=1e-5)
