"""Where an explanation must not look, and what of it must not matter there: against closed forms of linear models."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.core import PROJECTIONS
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.mask_shapes import fit_masks
from xaikit.explainers import Gradient
from xaikit.mitigation import RRR, ChannelSubspace, ChannelSum, Chroma, Direction

N, C, H, W, CLASSES = 6, 3, 4, 5, 4
FORM = {"output": "logit"}


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(C * H * W, CLASSES)).double()
    x, y = torch.rand(N, C, H, W).double(), torch.tensor([0, 1, 2, 3, 1, 0])
    weights = model[1].weight.detach().view(CLASSES, C, H, W)
    return model, x, y, weights, torch.rand(N, H, W).double()


def penalty(model, x, y, mask, **settings):
    return RRR(**{**FORM, **settings}).loss(model, (x, y, mask), seed=0).penalty.detach()


def test_everything_is_the_weights(case):
    model, x, y, w, mask = case
    assert torch.allclose(penalty(model, x, y, mask), (mask[:, None] * w[y] ** 2).sum())


def test_chroma_is_what_a_grey_image_does_not_have(case):
    model, x, y, w, mask = case
    chroma = w[y] - w[y].mean(1, keepdim=True)
    assert torch.allclose(penalty(model, x, y, mask, what="chroma"), (mask[:, None] * chroma**2).sum())
    with torch.no_grad():  # a model that looks at grey values only has none
        grey = w.mean(1, keepdim=True).expand_as(w)
        model[1].weight.copy_(grey.reshape(CLASSES, -1))
    assert penalty(model, x, y, mask, what="chroma") < 1e-30 < penalty(model, x, y, mask)


def test_the_other_projections(case):
    model, x, y, w, mask = case
    m = mask[:, None]
    assert torch.allclose(penalty(model, x, y, mask, what="channel_sum"), (mask * w[y].sum(1) ** 2).sum())
    v = torch.tensor([1.0, -2.0, 0.5]).double()
    along = torch.einsum("nchw,c->nhw", w[y], v / v.norm())
    assert torch.allclose(penalty(model, x, y, mask, what=Direction(vector=v)), (mask * along**2).sum())
    whole = torch.rand(C, H, W).double()
    each = (w[y] * whole / whole.norm()).flatten(1).sum(1)
    assert torch.allclose(penalty(model, x, y, mask, what=Direction(vector=whole)), (mask.amax((1, 2)) * each**2).sum())
    assert torch.allclose(penalty(model, x, y, mask, what=lambda a: a[:, :1] * 2), (mask * (2 * w[y][:, 0]) ** 2).sum())
    spec = {"name": "direction", "settings": {"vector": v.tolist()}}
    assert torch.allclose(penalty(model, x, y, mask, what=spec), (mask * along**2).sum())
    span = ChannelSubspace(vectors=torch.stack([v, 2 * v, torch.ones(3).double()]))
    q, _ = torch.linalg.qr(torch.stack([v, torch.ones(3).double()]).T)
    found = torch.einsum("nchw,ck,dk->ndhw", w[y], q, q)
    assert torch.allclose(penalty(model, x, y, mask, what=span), (m * found**2).sum())


def test_chroma_and_grey_make_up_the_whole():
    a = torch.randn(2, 3, 4, 4).double()
    grey = ChannelSubspace(vectors=[[1.0, 1.0, 1.0]])(a)
    assert torch.allclose(Chroma()(a) + grey, a)
    assert torch.allclose(ChannelSum()(a) / 3, grey[:, :1])
    assert torch.allclose(Chroma(channel_axis=-1)(a.movedim(1, -1)).movedim(-1, 1), Chroma()(a))


def test_a_random_target_stands_for_all_centred_scores(case):
    model, x, y, w, mask = case
    centred = w - w.mean(0, keepdim=True)
    expected = float((mask[:, None, None] * centred[None] ** 2).sum())
    settings = {"target": "random", **FORM}
    found = [float(RRR(**settings).loss(model, (x, y, mask), seed=s).penalty.detach()) for s in range(400)]
    assert sum(found) / 400 == pytest.approx(expected, rel=0.1)
    # The log-sum-exp is common to all classes, so log-probabilities are logits here, and so is any common shift.
    one = penalty(model, x, y, mask, target="random")
    assert torch.allclose(one, penalty(model, x, y, mask, target="random", output="log_probability"))
    with torch.no_grad():
        model[1].weight.add_(torch.rand(C * H * W).double())
    assert torch.allclose(one, penalty(model, x, y, mask, target="random"))


@pytest.mark.parametrize("explainer", ["smoothgrad:n_iter=3,max_rows=1", "integrated_gradients:n_steps=3,max_rows=4"])
def test_a_random_target_is_the_same_in_every_copy(case, explainer):
    model, x, y, w, mask = case
    single = penalty(model, x, y, mask, target="random")
    if explainer.startswith("smooth"):  # of a linear model, the gradient
        assert torch.allclose(penalty(model, x, y, mask, target="random", explainer=explainer), single)
    else:
        a = penalty(model, x, y, mask, target="random", explainer=explainer)
        assert torch.allclose(a, penalty(model, x, y, mask, target="random", explainer="gradient_x_input"))


@pytest.mark.parametrize("settings", [{"reduction": "mean"}, {"reduction": "sum"}, {"normalization": "mask"}])
def test_samples_without_a_mask_do_not_count(case, settings):
    model, x, y, _, mask = case
    some = [0, 2, 3]
    listed = [mask[i] if i in some else None for i in range(N)]
    zeros = mask * torch.tensor([float(i in some) for i in range(N)]).view(-1, 1, 1)
    expected = penalty(model, x[some], y[some], mask[some], **settings)
    if settings == {"normalization": "mask"}:
        expected = expected * mask[some].sum() / zeros.sum()
    assert torch.allclose(penalty(model, x, y, listed, **settings), expected)
    assert torch.allclose(penalty(model, x, y, zeros, **settings), expected)
    assert float(penalty(model, x, y, mask * 0, **settings)) == 0


def test_a_mask_for_each_class(case):
    model, x, y, w, _ = case
    masks = torch.rand(CLASSES, H, W).double()
    expected = (masks[y][:, None] * w[y] ** 2).sum()
    assert torch.allclose(penalty(model, x, y, masks, mask_scope="class"), expected)
    listed = [masks[0], None, masks[2], masks[3]]
    masks[1] = 0
    expected = (masks[y][:, None] * w[y] ** 2).sum()
    assert torch.allclose(penalty(model, x, y, listed, mask_scope="class"), expected)
    history = RRR(mask_scope="class", n_epochs=1, batch_size=6, lr=1e-12, **FORM).fit(
        model, x, y, masks, progress=False
    )
    assert history["penalty"][0] == pytest.approx(float(expected), rel=1e-4)
    with pytest.raises(InvalidInputError, match=r"there is a label 3, and 3 masks"):
        penalty(model, x, y, masks[:3], mask_scope="class")


def test_a_list_with_none_in_fit(case):
    model, x, y, w, mask = case
    history = RRR(n_epochs=1, batch_size=6, lr=1e-12, **FORM).fit(model, x, y, [mask[0], *[None] * 5], progress=False)
    assert history["penalty"][0] == pytest.approx(float((mask[0] * w[y[0]] ** 2).sum()), rel=1e-4)


def test_columns_of_a_table():
    model, x, y = nn.Linear(5, 2).double(), torch.rand(4, 5).double(), torch.tensor([0, 1, 1, 0])
    mask = torch.tensor([0.0, 0, 1, 0, 0]).double()
    assert torch.allclose(penalty(model, x, y, mask), (model.weight[y][:, 2] ** 2).sum())


def test_a_share_of_the_whole_explanation(case):
    model, x, y, w, mask = case
    chroma = w[y] - w[y].mean(1, keepdim=True)
    share = (mask[:, None] * chroma**2).flatten(1).sum(1) / (w[y] ** 2).flatten(1).sum(1)
    assert torch.allclose(penalty(model, x, y, mask, what="chroma", normalization="total"), share.sum())


def test_masks_of_images_at_a_hidden_layer():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 7, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(63, 2)).double()
    x, y = torch.rand(2, 3, 8, 8).double(), torch.tensor([0, 1])
    mask = torch.zeros(2, 3, 8, 8).double()
    mask[:, 1, :4] = 1
    at_layer = {"explainer": Gradient(layer="0")}
    a = penalty(model, x, y, mask, **at_layer)
    assert a > 0
    assert torch.equal(a, penalty(model, x, y, mask.amax(1), **at_layer))
    (fitted,) = fit_masks(mask, (torch.zeros(2, 7, 3, 3).double(),), (x,))
    assert fitted.shape == (2, 7, 3, 3)
    with pytest.raises(InvalidInputError, match=r"masks must have shape \(8, 8\) for all"):
        penalty(model, x, y, torch.ones(2, 5, 8, 8), **at_layer)


def test_refusals(case):
    model, x, y, _, mask = case
    for what, words in (
        (lambda a: a.sum(), r"must return a tensor of the attribution's shape.*got \(\) for \(6, 3, 4, 5\)"),
        (lambda a: a[:, :2], r"what= made \(6, 2, 4, 5\) of an attribution of shape \(6, 3, 4, 5\)"),
        (Direction(vector=[1.0, 2.0]), r"vectors of 2 entries do not fit .* 3 channels at axis 1"),
        (Direction(vector=torch.ones(2, 2)), r"must have the shape \(channels,\) or \(3, 4, 5\), got \(2, 2\)"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            penalty(model, x, y, mask, what=what)
    flat = nn.Linear(5, 2).double()
    with pytest.raises(InvalidInputError, match="what='chroma' looks along the channels"):
        penalty(flat, torch.rand(2, 5).double(), torch.tensor([0, 1]), torch.ones(5), what="chroma")
    with pytest.raises(InvalidInputError, match="not all of them zero"):
        Direction(vector=[0.0, 0.0])
    with pytest.raises(InvalidTypeError, match="RRR.what: expected projection"):
        RRR(what=3)
    with pytest.raises(
        InvalidInputError, match="a list of shortcut_masks must hold one .* for each of 6 samples, got 2"
    ):
        penalty(model, x, y, [mask[0], None])
    assert float(penalty(model, x, y, [None] * 6)) == 0
    assert RRR(what="chroma") == RRR(what=Chroma()) == RRR(what=Chroma)
    assert set(PROJECTIONS) >= {"all", "chroma", "channel_sum", "channel_subspace", "direction"}
