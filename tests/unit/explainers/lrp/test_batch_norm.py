"""BatchNorm: part of the affine layer beside it, a layer of its own where there is none."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.explainers.lrp import LRP, LRPUniformEpsilon, zennit_rules
from xaikit.testing import directional_derivative_error


def norm(kind, channels, *, shift=True):
    """BatchNorm with statistics that matter; without a shift if so wished."""
    made = kind(channels).double().eval()
    made.running_var.uniform_(0.5, 1.5)
    nn.init.uniform_(made.weight, 0.5, 1.5)
    if shift:
        made.running_mean.normal_(0, 0.3)
        nn.init.normal_(made.bias, 0, 0.3)
    return made


def scale_and_shift(made):
    scale = made.weight / (made.running_var + made.eps).sqrt()
    return scale.detach(), (made.bias - made.running_mean * scale).detach()


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 4, 5, 2)])
def test_closed_form_alone(shape):
    alone = norm((nn.BatchNorm1d, nn.BatchNorm1d, nn.BatchNorm2d)[len(shape) - 2], 4)
    x, weights = torch.randn(shape, dtype=torch.float64), torch.randn(shape[1:], dtype=torch.float64)
    scale, shift = (t.view(-1, *(1,) * (len(shape) - 2)) for t in scale_and_shift(alone))
    y = scale * x + shift
    expected = scale * x * (weights * y) / (y + 0.25 * y.sign())

    class Weighted(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = alone

        def forward(self, x):
            return (self.norm(x) * weights).flatten(1).sum(1, keepdim=True)

    found = LRPUniformEpsilon(Weighted(), epsilon=0.25).attribute(x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


def test_alone_it_is_a_linear_layer_with_a_diagonal_matrix(variant):
    alone, diagonal = norm(nn.BatchNorm1d, 5), nn.Linear(5, 5).double()
    with torch.no_grad():
        scale, shift = scale_and_shift(alone)
        diagonal.weight.copy_(torch.diag(scale))
        diagonal.bias.copy_(shift)
    ends = nn.Sequential(nn.Linear(4, 5), nn.GELU()).double(), nn.Sequential(nn.ReLU(), nn.Linear(5, 3)).double()
    x = torch.randn(3, 4, dtype=torch.float64)
    found, expected = (variant(nn.Sequential(ends[0], middle, ends[1])).attribute(x, 1) for middle in (alone, diagonal))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_alone_it_conserves_relevance_where_nothing_shifts(variant):
    """Also of negative outputs, and in the alpha-beta variant: each output has one contribution."""
    body = [norm(nn.BatchNorm2d, 2, shift=False), nn.Tanh(), norm(nn.BatchNorm2d, 2, shift=False), nn.Flatten()]
    model = nn.Sequential(*body, nn.Linear(32, 3, bias=False)).double()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    settings = {} if variant(model).NAME == "lrp" else {"epsilon": 1e-9}
    explained = variant(model).set_kwargs(**settings).explain(x, 1)
    assert (explained.gap < 1e-4 * explained.scores.abs()).all()


def lonely():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), norm(nn.BatchNorm2d, 4), nn.GELU(), norm(nn.BatchNorm2d, 4), nn.AvgPool2d(2),
        nn.Flatten(), norm(nn.BatchNorm1d, 16), nn.ReLU(), nn.Linear(16, 3),
    ).double()  # fmt: skip


def test_derivative_alone(variant):
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    assert directional_derivative_error(variant(lonely()), x, torch.tensor([0, 1, 2])) < 1e-5


def test_part_of_the_layer_behind_and_alone_on_another_way(variant):
    class Split(nn.Module):
        def __init__(self, first, second, conv, head):
            super().__init__()
            self.first, self.second, self.conv, self.head = first, second, conv, head

        def forward(self, x):
            a = self.first(x)
            b = a if self.second is None else self.second(x)
            return self.head((self.conv(a) + b.tanh()).flatten(1))

    one, other = norm(nn.BatchNorm2d, 2), norm(nn.BatchNorm2d, 2)
    other.load_state_dict(one.state_dict())
    rest = nn.Conv2d(2, 2, 3, padding=1).double(), nn.Linear(32, 3).double()
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    shared, apart = (variant(Split(one, second, *rest)).attribute(x, 1) for second in (None, other))
    torch.testing.assert_close(shared, apart, rtol=1e-9, atol=1e-12)


def test_it_does_not_count_as_the_first_layer():
    tail = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 3)).double()
    model, x = nn.Sequential(norm(nn.BatchNorm2d, 2), nn.Tanh(), tail), torch.randn(3, 2, 4, 4, dtype=torch.float64)
    found = LRP(model, composite="epsilon_plus_flat", layer="1").attribute(x, 1)
    expected = LRP(tail, composite="epsilon_plus_flat").attribute(model[:2](x).detach(), 1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("rule", ["Epsilon", "ZPlus"])
def test_a_rule_that_the_composite_gives_it_is_zennits(rule):
    z = zennit_rules.zennit()
    model, x = lonely(), torch.randn(3, 2, 6, 6, dtype=torch.float64)
    hook = getattr(z.rules, rule)(1e-2)
    base = [(kind, given) for kind, given in z.composites.layer_map_base() if kind is not z.types.BatchNorm]
    composite = z.composites.LayerMapComposite([*base, (z.types.BatchNorm, hook), (z.types.Linear, z.rules.Epsilon())])
    leaf = x.clone().requires_grad_()
    with composite.context(model):
        output = model(leaf)
        seed = torch.zeros_like(output)
        seed[:, 1] = output[:, 1].detach()
        (theirs,) = torch.autograd.grad(output, leaf, seed)
    torch.testing.assert_close(LRP(model, composite=composite).attribute(x, 1), theirs, rtol=1e-9, atol=1e-12)


def test_instance_norm_with_running_statistics_is_the_same(variant):
    batch, instance = norm(nn.BatchNorm2d, 4), nn.InstanceNorm2d(4, affine=True, track_running_stats=True)
    instance.double().eval().load_state_dict(batch.state_dict())
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    front, head = nn.Conv2d(2, 4, 3).double(), nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(64, 3)).double()
    for parts in ([front], [front, nn.Tanh()]):
        first, second = (variant(nn.Sequential(*parts, n, head)).attribute(x, 1) for n in (batch, instance))
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-14)


def test_batch_norm_of_a_single_sample_whose_gradient_comes_transposed():
    """torch's own BatchNorm returns a wrong gradient here (2.13, CPU)."""
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten(2)).eval()
    head = nn.Linear(8, 2, bias=False)

    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.stem, self.head = stem, head

        def forward(self, x):
            return self.head(torch.tanh(self.stem(x).transpose(1, 2))).mean(1)

    x = torch.randn(2, 3, 6, 6, dtype=torch.float64)
    explainer = LRPUniformEpsilon(Tokens().double(), epsilon=1e-9)
    together = explainer.attribute(x, 1)
    torch.testing.assert_close(explainer.attribute(x[:1], 1), together[:1], rtol=1e-9, atol=1e-12)
