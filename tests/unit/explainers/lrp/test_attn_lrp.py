"""AttnLRP against the closed forms of the paper (arXiv:2402.05602, propositions 3.1 to 3.4)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from xaikit.explainers.lrp import AttnLRP, LRPUniformEpsilon

TIGHT = 1e-6


class Function(nn.Module):
    """A function of the inputs as a model."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, *inputs):
        return self.function(*inputs)


def relevance(function, *inputs, explainer=AttnLRP, **settings):
    """Relevance of the sum of the function's output, which comes as one score per sample."""
    model = Function(lambda *x: function(*x).flatten(1).sum(1, keepdim=True))
    given = inputs if len(inputs) > 1 else inputs[0]
    return explainer(model, **settings).attribute(given, 0)


def draw(*shape):
    return torch.randn(shape, dtype=torch.float64)


def test_softmax():
    x, w = draw(3, 5), draw(5)
    s = x.softmax(1)
    r = s * w  # relevance of the softmax's output in sum_i w_i s_i
    expected = x * (r - s * r.sum(1, keepdim=True))
    torch.testing.assert_close(relevance(lambda t: t.softmax(1) * w, x), expected, rtol=TIGHT, atol=1e-12)


def test_matmul():
    a, v = draw(2, 4, 3), draw(2, 3, 5)
    out = a @ v
    ra, rv = relevance(lambda p, q: p @ q, a, v)
    # R_ji = sum_p A_ji V_ip R_jp / (2 O_jp), with R = O here
    contributions = a[..., None] * v[:, None]
    torch.testing.assert_close(ra, (contributions * (out / (2 * out))[:, :, None]).sum(3), rtol=TIGHT, atol=1e-12)
    torch.testing.assert_close(rv, (contributions * (out / (2 * out))[:, :, None]).sum(1), rtol=TIGHT, atol=1e-12)


def test_layer_norm():
    x, norm, w = draw(3, 6), nn.LayerNorm(6).double(), draw(6)
    nn.init.normal_(norm.weight)
    centred = x - x.mean(1, keepdim=True)
    scale = norm.weight * w / (x.var(1, unbiased=False, keepdim=True) + norm.eps).sqrt()
    # R of the normalised goes to the centred as it is; from there to x by the linear map x - mean(x)
    g = scale - scale.mean(1, keepdim=True)
    torch.testing.assert_close(relevance(lambda t: norm(t) * w, x), (x * g).detach(), rtol=TIGHT, atol=1e-12)
    assert torch.allclose((x * g).sum(1), (centred * scale).sum(1))


def test_rms_norm():
    x, w = draw(3, 6), draw(6)
    y = F.rms_norm(x, (6,)) * w
    torch.testing.assert_close(relevance(lambda t: F.rms_norm(t, (6,)) * w, x), y, rtol=TIGHT, atol=1e-12)


def test_epsilon_rule():
    x, layer = draw(3, 4), nn.Linear(4, 5).double()
    z = layer(x)
    expected = x * ((z / (z + 0.1 * z.sign())) @ layer.weight)
    ours = relevance(layer, x, epsilon=0.1)
    torch.testing.assert_close(ours, expected.detach(), rtol=TIGHT, atol=1e-12)


def test_gates_share_in_attn_lrp_only():
    x, y = draw(3, 4), draw(3, 4)
    gated = lambda a, b: a * torch.sigmoid(b)
    product = gated(x, y)
    for part in relevance(gated, x, y):
        torch.testing.assert_close(part, product / 2, rtol=TIGHT, atol=1e-12)
    signal, gate = relevance(gated, x, y, explainer=LRPUniformEpsilon)
    torch.testing.assert_close(signal, product, rtol=TIGHT, atol=1e-12)
    assert not gate.any()


def test_attention_layer_equals_its_parts():
    """nn.MultiheadAttention, scaled_dot_product_attention and attention by hand get the same relevance."""
    layer = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    x = draw(2, 5, 8)

    def by_sdpa(t):
        q, k, v = F.linear(t, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
        q, k, v = (p.unflatten(-1, (2, 4)).transpose(1, 2) for p in (q, k, v))
        mixed = F.scaled_dot_product_attention(q, k, v)
        return layer.out_proj(mixed.transpose(1, 2).flatten(2))

    def by_hand(t):
        q, k, v = F.linear(t, layer.in_proj_weight, layer.in_proj_bias).chunk(3, -1)
        q, k, v = (p.unflatten(-1, (2, 4)).transpose(1, 2) for p in (q, k, v))
        weights = (torch.einsum("bhqd,bhkd->bhqk", q, k) / 2).softmax(-1)
        return layer.out_proj(torch.einsum("bhqk,bhkd->bhqd", weights, v).transpose(1, 2).flatten(2))

    for explainer in (AttnLRP, LRPUniformEpsilon):
        first = relevance(lambda t: layer(t, t, t)[0], x, explainer=explainer)
        for other in (by_sdpa, by_hand):
            torch.testing.assert_close(relevance(other, x, explainer=explainer), first, rtol=1e-9, atol=1e-12)
