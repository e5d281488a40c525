"""Concept relevance propagation: what flows through channels adds up, and is zennit's with a masked gradient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from xaikit import Contrast
from xaikit.core import EXPLAINERS
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers import AttnLRP, Gradient, LRPEpsilonPlus, LRPUniformEpsilon
from xaikit.explainers.lrp import channel_relevance, conditional_relevance, lrp_rule
from xaikit.explainers.lrp.registry import USER_RULES

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)).double()
Y = torch.tensor([0, 2])


def plain():
    return nn.Sequential(
        nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)
    ).double().eval()  # fmt: skip


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(4, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        x = x + self.norm(self.b(self.a(x).relu()))
        return self.head(x.relu().mean((2, 3)))


@pytest.mark.parametrize("explainer", [LRPEpsilonPlus, LRPUniformEpsilon])
@pytest.mark.parametrize(("build", "layer", "channels"), [(plain, "1", 5), (plain, "2", 4), (Residual, "stem", 4)])
def test_the_sum_over_all_channels_is_the_relevance(explainer, build, layer, channels):
    made = explainer(build().double().eval())
    relevance = made.attribute(X, Y)
    parts = conditional_relevance(made, X, Y, conditions=[{layer: [k]} for k in range(channels)])
    assert parts.shape == (channels, *X.shape)
    assert (parts.sum(0) - relevance).abs().max() < 1e-5 * relevance.abs().max()
    assert torch.allclose(conditional_relevance(made, X, Y, conditions={layer: range(channels)}), relevance, rtol=1e-9)
    some = conditional_relevance(made, X, Y, conditions={layer: np.array([0, 2])})
    assert torch.allclose(some, parts[0] + parts[2], rtol=1e-9)


def test_inside_a_branch_only_what_passes_it():
    made = LRPUniformEpsilon(Residual().double().eval(), epsilon=1e-9)
    at_branch = made.set_kwargs(layer="a").attribute(X, Y)
    parts = conditional_relevance(made, X, Y, conditions=[{"a": k} for k in range(4)])
    sums = parts.sum((2, 3, 4))
    # The stem's bias takes up a part, so the sums are compared with what arrives there.
    through_stem = conditional_relevance(made, X, Y, conditions=[{"a": k, "stem": range(4)} for k in range(4)])
    assert torch.allclose(parts, through_stem, rtol=1e-9)
    assert torch.allclose(parts.sum(0), conditional_relevance(made, X, Y, conditions={"a": range(4)}), rtol=1e-9)
    assert sums.shape == (4, 2)
    assert not torch.allclose(parts.sum(0), made.attribute(X, Y), rtol=0.1)  # the rest went past the branch
    assert at_branch.shape == (2, 4, 6, 6)


def test_several_layers_must_all_be_passed():
    made = LRPEpsilonPlus(plain())
    pairs = [{"3": i, "1": k} for i in range(4) for k in range(5)]
    assert torch.allclose(conditional_relevance(made, X, Y, conditions=pairs).sum(0), made.attribute(X, Y), rtol=1e-8)
    reverse = [{"1": k, "3": i} for i in range(4) for k in range(5)]
    one, other = (conditional_relevance(made, X, Y, conditions=c) for c in (pairs, reverse))
    assert torch.equal(one, other)


def test_zennit_gives_the_same_with_a_masked_gradient():
    import_torchvision()
    from zennit.attribution import Gradient as ZennitGradient
    from zennit.composites import EpsilonPlus

    model = plain()
    made = LRPEpsilonPlus(model)
    for channels in ([1], [0, 3]):
        mask = torch.zeros(1, 4, 1, 1).double()
        mask[:, channels] = 1
        # After zennit's own hooks, so that it meets the relevance of the layer's output.
        handle = model[3].register_forward_hook(
            lambda _m, _i, out, mask=mask: (out.register_hook(lambda g: g * mask), out)[1]
        )
        with ZennitGradient(model=model, composite=EpsilonPlus()) as attributor:
            out = model(X)
            seed = torch.zeros_like(out).scatter_(1, Y[:, None], out.detach().gather(1, Y[:, None]))
            _, theirs = attributor(X.clone(), seed)
        handle.remove()
        ours = conditional_relevance(made, X, Y, conditions={model[3]: channels})
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    "explainer", ["lrp_epsilon_plus", "lrp_uniform_epsilon", "lrp_epsilon_alpha2_beta1", "lrp_epsilon_gamma_box"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_many_conditions_at_once_are_each_alone(explainer, dtype):
    made, x = EXPLAINERS.create(explainer).bind(Residual().to(dtype).eval()), X.to(dtype)
    conditions = [{"stem": 0}, {"a": 1}, {"stem": [1, 2]}, {"a": 0, "stem": 3}, {"stem": 3, "a": 2}, {"a": [0, 3]}]
    together = conditional_relevance(made, x, Y, conditions=conditions)
    for condition, part in zip(conditions, together, strict=True):
        alone = conditional_relevance(made, x, Y, conditions=condition)
        assert (alone - part).abs().max() <= (1e-5 if dtype == torch.float32 else 1e-12) * alone.abs().max()


@pytest.mark.parametrize("looks_at_values", [False, True])
def test_conditions_share_a_backward_pass_where_every_rule_allows_it(looks_at_values):
    calls = []

    def entropy(relevance, output, x):
        calls.append(looks_at_values and bool(relevance.sum() > 1e9))  # of several passes at once there is no bool
        return relevance

    before = dict(USER_RULES)
    try:
        lrp_rule(torch.special.entr)(entropy)
        torch.manual_seed(0)

        class Entropy(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 5), nn.Linear(5, 3)

            def forward(self, x):
                return self.head(self.second(torch.special.entr(self.first(x).sigmoid())).tanh())

        made, x = LRPUniformEpsilon(Entropy().double()), torch.randn(2, 6).double()
        parts = conditional_relevance(made, x, Y, conditions=[{"second": k} for k in range(5)])
        shared = len(calls)
        alone = torch.stack([conditional_relevance(made, x, Y, conditions={"second": k}) for k in range(5)])
    finally:
        USER_RULES.clear()
        USER_RULES.update(before)
    assert torch.allclose(parts, alone, rtol=1e-10)
    assert shared == (5 if looks_at_values else 1)


def test_tokens_have_their_channels_last():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.patch, self.norm, self.head = nn.Conv2d(3, 6, 4, stride=4), nn.LayerNorm(6), nn.Linear(6, 3)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True)

        def forward(self, x):
            t = self.norm(self.patch(x).flatten(2).transpose(1, 2))
            return self.head((t + self.attention(t, t, t, need_weights=False)[0]).mean(1))

    made = AttnLRP(Tokens().double().eval())
    parts = conditional_relevance(made, X, Y, conditions=[{"norm": k} for k in range(6)])
    relevance = made.attribute(X, Y)
    assert (parts.sum(0) - relevance).abs().max() < 1e-5 * relevance.abs().max()
    positions = conditional_relevance(made, X, Y, conditions=[{"norm": k} for k in range(4)], channel_axis=1)
    assert torch.allclose(positions.sum(0), relevance, rtol=1e-6)


@pytest.mark.parametrize(("build", "layer", "channels"), [(plain, "3", 4), (plain, "6", 3), (Residual, "a", 4)])
def test_the_relevance_of_channels_is_that_of_their_parts_at_the_layer(build, layer, channels):
    """No bias and no stabilizer before the layer takes anything up, so that the inputs' sums are the channels'."""
    net = build().double().eval()
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.zeros_(module.bias)
    made = LRPUniformEpsilon(net, epsilon=1e-12)
    relevance = channel_relevance(made, X, Y, layer=layer)
    assert relevance.shape == (2, channels)
    if layer == "6":
        assert torch.allclose(relevance.gather(1, Y[:, None]), net(X).gather(1, Y[:, None]))
        return
    parts = conditional_relevance(made, X, Y, conditions=[{layer: k} for k in range(channels)])
    assert torch.allclose(parts.sum((2, 3, 4)).T, relevance, rtol=1e-5, atol=1e-9)


def test_structures_and_what_cannot_be_right():
    model = plain()
    made = LRPEpsilonPlus(model)
    named = conditional_relevance(made, {"input": X}, Y, conditions={"1": 0})
    assert torch.equal(named["input"], conditional_relevance(made, X.numpy(), Y.tolist(), conditions={"1": 0}))
    assert conditional_relevance(made, (X,), Y, conditions=[{"1": 0}])[0].shape == (1, *X.shape)
    for condition, error, words in (
        ({"1": 5}, InvalidInputError, "has channels 0 to 4, got 5"),
        ({"1": -1}, InvalidInputError, "has channels 0 to 4"),
        ({"1": 0.5}, InvalidTypeError, "whole numbers"),
        ({"11": 0}, UnknownNameError, "no layer '11'"),
        ({}, InvalidTypeError, "mapping from layers to channels"),
        ("1", InvalidTypeError, "mapping from layers to channels"),
    ):
        with pytest.raises(error, match=words):
            conditional_relevance(made, X, Y, conditions=condition)
    with pytest.raises(InvalidTypeError, match="needs an LRP explainer"):
        conditional_relevance(Gradient(model), X, Y, conditions={"1": 0})
    with pytest.raises(InvalidTypeError, match="needs an LRP explainer"):
        channel_relevance(Gradient(model), X, Y, layer="1")
    with pytest.raises(InvalidInputError, match="does not depend on layer .1."):
        conditional_relevance(made.set_kwargs(layer="1"), X, Y, conditions={"1": 0})
    with pytest.raises(InvalidInputError, match="after the first"):
        conditional_relevance(made, X, Y, conditions={"1": 0}, channel_axis=0)


def test_a_layer_that_runs_twice_has_no_channels_of_one_pass():
    """Its relevance is (N, runs, channels, ...), and the runs were once taken for the channels."""
    relu = nn.ReLU()
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), relu, nn.Conv2d(4, 4, 3, padding=1), relu, nn.Flatten())
    explainer = LRPEpsilonPlus(nn.Sequential(*model, nn.Linear(256, 3)).double())
    with pytest.raises(InvalidInputError, match="layer '1' must run once, it runs 2 times"):
        channel_relevance(explainer, X, Y, layer="1")
    assert channel_relevance(explainer, X, Y, layer="0").shape == (2, 4)
    with pytest.raises(InvalidTypeError, match="the channels of layer '0' must hold numbers, got strings"):
        conditional_relevance(explainer, X, Y, conditions={"0": "2"})


def test_a_batch_as_large_as_the_layer_is_wide():
    """The axes are then told apart by a further pass, which is no second run of the layer."""
    torch.manual_seed(0)
    # A bias would keep a part of what a channel hands on to the input.
    model = nn.Sequential(nn.Conv2d(2, 5, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(20, 3)).double()
    explainer, x, y = LRPEpsilonPlus(model), torch.randn(5, 2, 4, 4).double(), torch.arange(5) % 3
    values = channel_relevance(explainer, x, y, layer="1")
    alone = [channel_relevance(explainer, x[i : i + 1], y[i : i + 1], layer="1") for i in range(5)]
    assert torch.allclose(values, torch.cat(alone))
    parts = conditional_relevance(explainer, x, y, conditions=[{"1": k} for k in range(5)])
    assert torch.allclose(parts.flatten(2).sum(2).T, values, rtol=1e-4)


def test_several_targets_share_the_forward_pass():
    model, passes = plain(), []
    model[0].register_forward_hook(lambda *_: passes.append(1))
    several = [Contrast(2, 0), "probability:of=1", 1]
    for explainer in (LRPEpsilonPlus(model), AttnLRP(model)):
        explainer.attribute(X, 0)  # the first call of a model asks it more
        for conditions in ({"1": 2}, [{"1": [0, 3], "3": 1}, {"3": [2]}, {"3": 1}]):
            passes.clear()
            together = conditional_relevance(explainer, X, several, conditions=conditions)
            count = len(passes)
            alone = [conditional_relevance(explainer, X, target, conditions=conditions) for target in several]
            assert torch.allclose(together, torch.stack(alone), rtol=1e-12)
            assert len(passes) == 4 * count
        together = channel_relevance(explainer, X, several, layer="1")
        alone = [channel_relevance(explainer, X, target, layer="1") for target in several]
        assert torch.allclose(together, torch.stack(alone), rtol=1e-12)
    named = conditional_relevance(LRPEpsilonPlus(TakesNames()), {"x": X}, several, conditions=[{"net.1": 2}])
    assert named["x"].shape == (3, 1, *X.shape)


class TakesNames(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = plain()

    def forward(self, x):
        return self.net(x)


class Words(nn.Module):
    """One head of attention over token ids."""

    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 6), nn.Linear(6, 3)
        self.q, self.k, self.v, self.o = (nn.Linear(6, 6) for _ in range(4))

    def of_vectors(self, z):
        z = z + self.o(nn.functional.scaled_dot_product_attention(self.q(z), self.k(z), self.v(z)))
        return self.head(z.mean(1))

    def forward(self, ids):
        return self.of_vectors(self.embedding(ids))


class Vectors(nn.Module):
    def __init__(self, words):
        super().__init__()
        self.words = words

    def forward(self, z):
        return self.words.of_vectors(z)


def test_a_model_of_token_ids_is_explained_at_its_embedding():
    torch.manual_seed(0)
    words, ids = Words().double().eval(), np.array([[1, 5, 7, 2], [3, 3, 0, 9]])
    conditions = [{"o": [2, 4]}, {"v": 1, "o": [0, 5]}, {"v": range(6)}]
    made = AttnLRP(words, layer="embedding")
    parts = conditional_relevance(made, ids, [0, 2], conditions=conditions)
    vectors = words.embedding(torch.tensor(ids)).detach()
    renamed = [{f"words.{name}": channels for name, channels in c.items()} for c in conditions]
    torch.testing.assert_close(
        parts, conditional_relevance(AttnLRP(Vectors(words)), vectors, [0, 2], conditions=renamed)
    )
    at_both = conditional_relevance(made.set_kwargs(layer=("embedding", "v")), ids, 1, conditions={"o": range(6)})
    assert [r.shape for r in at_both] == [(2, 4, 6), (2, 4, 6)]
    assert at_both[0].abs().sum() > 0
    assert at_both[1].abs().sum() > 0
    with pytest.raises(InvalidInputError, match="'v' of the conditions does not depend on layer 'o'"):
        conditional_relevance(made.set_kwargs(layer="o"), ids, 1, conditions={"v": 0})
