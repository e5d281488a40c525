"""What holds for any small net: completeness, exactness, additivity where the rules promise it; derivatives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.unit.explainers.cd.helpers import check_promises, decompose
from xaikit.explainers.cd import shares

LAYERS = {
    "linear": lambda: nn.Linear(6, 6),
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "softmax": lambda: nn.Softmax(-1),
    "layer_norm": lambda: nn.LayerNorm(6),
    "hardswish": nn.Hardswish,
}
NAMES = st.lists(st.sampled_from(sorted(LAYERS)), min_size=1, max_size=6)


def make(names, seed):
    torch.manual_seed(seed)
    return nn.Sequential(*(LAYERS[name]() for name in names), nn.Linear(6, 3)).double()


@settings(max_examples=40, deadline=None)
@given(names=NAMES, seed=st.integers(0, 10_000))
def test_promises(names, seed):
    check_promises(make(names, seed), torch.randn(2, 6, dtype=torch.float64), 1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), depth=st.integers(1, 4))
def test_disjoint_masks_add_up_in_a_linear_net(seed, depth):
    torch.manual_seed(seed)
    model = nn.Sequential(*(nn.Linear(6, 6, bias=False) for _ in range(depth))).double()
    x, masks = torch.randn(2, 6, dtype=torch.float64), torch.eye(6)
    parts = decompose(model, x, masks).relevant
    assert torch.allclose(parts.sum(0), model(x), atol=1e-12)
    assert torch.allclose(decompose(model, x, (masks[0] + masks[3])[None]).relevant[0], parts[0] + parts[3], atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(names=NAMES, seed=st.integers(0, 10_000))
def test_the_complement_swaps_the_parts(names, seed):
    model, x = make(names, seed), torch.randn(2, 6, dtype=torch.float64)
    mask = (torch.rand(1, 6) < 0.5).double()
    one, other = decompose(model, x, mask), decompose(model, x, 1 - mask)
    assert torch.allclose(one.relevant, other.irrelevant, atol=1e-9)


SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)


@settings(max_examples=60, deadline=None)
@given(shape=SHAPES, data=st.data())
def test_a_share_follows_a_reshape(shape, data):
    varying = [data.draw(st.booleans()) for _ in shape]
    share = torch.rand(2, *(size if v else 1 for size, v in zip(shape, varying, strict=True)))
    numbers = torch.Size(shape).numel()
    divisors = [d for d in range(1, numbers + 1) if numbers % d == 0]
    first = data.draw(st.sampled_from(divisors))
    second = data.draw(st.sampled_from([d for d in divisors if (numbers // first) % d == 0]))
    new = (first, second, numbers // first // second)
    expected = share.expand(2, *shape).reshape(2, *new)
    assert torch.equal(shares.reshaped(share, shape, new).expand(2, *new), expected)


@settings(max_examples=30, deadline=None)
@given(shape=SHAPES, data=st.data())
def test_a_share_follows_a_permutation(shape, data):
    share = torch.rand(2, *(size if data.draw(st.booleans()) else 1 for size in shape))
    order = data.draw(st.permutations(range(len(shape))))
    result = shares.restructured(share, shape, lambda v: v.permute(0, 1, *(d + 2 for d in order)))
    expected = share.expand(2, *shape).permute(0, *(d + 1 for d in order))
    assert torch.equal(result.expand_as(expected), expected)


DIFFERENTIATED = [
    "cdep-mnist-cnn", "cnn1d", "mlp-tab", "lstm", "gru", "nn.TransformerEncoder", "unet-like", "hf:bert", "hf:vit",
    pytest.param("resnet50", marks=pytest.mark.zoo),
]  # fmt: skip


@pytest.mark.parametrize("rules", ["symmetric", "cdep"])
@pytest.mark.parametrize("name", DIFFERENTIATED)
@pytest.mark.filterwarnings("ignore")
def test_parameter_gradients_are_those_of_finite_differences(zoo, name, rules):
    _, model, x = zoo.get(name, dtype=torch.float64, among=zoo.SMALL)
    x = x[..., :32, :32] if name == "resnet50" else x
    masks = (torch.rand((2, *x.shape[1:])) < 0.4).double()
    found = decompose(model, x, masks, rules, grad=True)
    weights = torch.randn(2, *found.relevant.shape, dtype=torch.float64)

    def value(result):
        return (weights[0] * result.relevant + weights[1] * result.irrelevant).sum()

    parameters = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(value(found), parameters, allow_unused=True)
    errors, sizes, h = [], [], 1e-7
    chosen = [i for i, g in enumerate(gradients) if g is not None][:: max(1, len(parameters) // 12)]
    for i in chosen:
        parameter, direction = parameters[i], torch.randn_like(parameters[i])
        direction /= direction.norm()
        kept, moved = parameter.data, []
        for sign in (1, -1):
            parameter.data = kept + sign * h * direction
            moved.append(value(decompose(model, x, masks, rules)))
        parameter.data = kept
        slope = (gradients[i] * direction).sum()
        errors.append(((moved[0] - moved[1]) / (2 * h) - slope).abs())
        sizes.append(slope.abs())
    assert max(errors) < 1e-5 * max(sizes)
