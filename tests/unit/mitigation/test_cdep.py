"""CDEP: the published penalties, the forms that work where those fail, any explainer in its place, training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core import EXPLAINERS as EXPLAINER_CLASSES
from xaikit.core.errors import InvalidInputError
from xaikit.explainers import ContextualDecomposition, GradientXInput
from xaikit.mitigation import CDEP, RRR
from xaikit.mitigation.cdep import penalty


@pytest.mark.parametrize(("form", "target", "value"), [("sigmoid", "all", "image"), ("log", "label", "text_decoy")])
def test_published_forms(golden, form, target, value):
    with np.load(golden / "cdep_loss.npz") as file:
        data = {key: torch.from_numpy(file[key]) for key in file.files}
    rel, irrel = data["rel"][None].requires_grad_(), data["irrel"][None].requires_grad_()
    own, other = rel, irrel
    if target == "label":
        own, other = (v.gather(-1, data["label"].view(1, -1, 1)) for v in (rel, irrel))
    result = penalty(own, other, form)
    assert (result - data[f"{value}_penalty"]).abs() < 1e-12
    if form == "sigmoid":
        result.backward()
        assert torch.allclose(rel.grad[0], data["image_grad_rel"], atol=1e-14)
        assert torch.allclose(irrel.grad[0], data["image_grad_irrel"], atol=1e-14)


def net():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)).double()


def batch(n=4):
    x = torch.randn(n, 1, 8, 8, dtype=torch.float64)
    mask = torch.zeros(8, 8)
    mask[:3, :3] = 1
    return x, torch.arange(n) % 3, mask


EXPLAINERS = ["contextual_decomposition", "gradient_x_input", "integrated_gradients:n_steps=4"]


@pytest.mark.parametrize("explainer", EXPLAINERS)
@pytest.mark.parametrize("target", ["all", "label"])
def test_the_gradient_of_the_loss_is_that_of_finite_differences(explainer, target):
    model, data = net(), batch()
    mitigator = CDEP(explainer=explainer, target=target, form="squared", lambda_cdep=2.0)
    parameter = model[0].weight
    mitigator.loss(model, data, seed=0).total.backward()
    direction, h = torch.randn_like(parameter), 1e-7
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            parameter.add_(sign * h * direction)
        values.append(mitigator.loss(model, data, seed=0).total.detach())
        with torch.no_grad():
            parameter.sub_(sign * h * direction)
    expected = (values[0] - values[1]) / (2 * h)
    assert torch.allclose((parameter.grad * direction).sum(), expected, rtol=1e-5, atol=1e-8)


def test_the_penalty_is_that_of_the_decomposition():
    model, (x, y, mask) = net(), batch()
    found = ContextualDecomposition(model).decompose(x, mask[None])
    expected = torch.sigmoid(found.relevant - found.irrelevant).mean()
    published = CDEP.published(explainer="contextual_decomposition")
    assert torch.allclose(published.loss(model, (x, y, mask)).penalty, expected)
    centred = found.relevant - found.relevant.mean(-1, keepdim=True)
    loss = CDEP(part="relevant").loss(model, (x, y, mask))
    assert torch.allclose(loss.penalty, centred.square().mean())
    other = ContextualDecomposition(model).decompose(x, 1 - mask[None]).irrelevant
    centred = other - other.mean(-1, keepdim=True)
    assert torch.allclose(CDEP().loss(model, (x, y, mask)).penalty, centred.square().mean())
    goal = CDEP(form="l1", goal=0.3, part="relevant", centred=False).loss(model, (x, y, mask))
    assert torch.allclose(goal.penalty, (found.relevant - 0.3).abs().mean())


def test_the_other_part_gets_the_interactions():
    model, (x, y, mask) = net(), batch()
    found = ContextualDecomposition(model, rules="cdep").decompose(x, 1 - mask[None])
    mitigator = CDEP(explainer="contextual_decomposition:rules=cdep", centred=False)
    assert torch.allclose(mitigator.loss(model, (x, y, mask)).penalty, found.irrelevant.square().mean())


@pytest.mark.parametrize("explainer", ["contextual_decomposition", "gradient_x_input", "lrp_uniform_epsilon"])
def test_at_a_layer_the_mask_is_brought_to_its_size(explainer):
    """The net behind a layer, which takes the layer's output as its input, is another way to the same penalty."""
    model, (x, y, mask) = net(), batch()
    kind = EXPLAINER_CLASSES.get(explainer)
    at_layer = CDEP(explainer=kind(layer="0")).loss(model, (x, y, mask)).penalty
    resized = F.interpolate(mask[None, None].double(), (6, 6), mode="area")[0, 0]
    behind = CDEP(explainer=kind()).loss(model[1:], (model[0](x).detach(), y, resized)).penalty
    assert torch.allclose(at_layer, behind, rtol=1e-9)
    of_the_layer = CDEP(explainer=kind(layer="0")).loss(model, (x, y, resized))
    assert torch.allclose(of_the_layer.penalty, behind, rtol=1e-9)
    of_the_layer.total.backward()
    assert model[0].weight.grad.abs().sum() > 0


def test_at_an_embedding_masks_are_over_tokens():
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(16, 3, bias=False)).double()
    ids, y, mask = torch.randint(0, 9, (4, 4)), torch.arange(4) % 3, torch.tensor([1.0, 0, 0, 0])
    first = model[0](ids)[:, 0] @ model[2].weight[:, :4].T  # exact: what follows the embedding is linear
    for kind in (GradientXInput, ContextualDecomposition):
        loss = CDEP(explainer=kind(layer="0"), centred=False).loss(model, (ids, y, mask))
        assert torch.allclose(loss.penalty, first.square().mean())
        loss.total.backward()
        assert model[0].weight.grad is not None


def test_what_cannot_be_at_a_layer():
    model, data = net(), batch()
    with pytest.raises(InvalidInputError, match="keep= splits the input"):
        CDEP(explainer=ContextualDecomposition(layer="0"), keep=torch.zeros_like).loss(model, data)
    with pytest.raises(InvalidInputError, match="a part of one tensor, got 2 explained tensors"):
        CDEP(explainer=GradientXInput(layer=["0", "4"])).loss(model, data)


def test_an_additive_split():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double()
    x, y = torch.rand(2, 3, 8, 8, dtype=torch.float64), torch.tensor([0, 1])
    grey = lambda image: image.mean(1, keepdim=True).expand_as(image)
    mitigator = CDEP(keep=grey)
    loss = mitigator.loss(model, (x, y, torch.ones(8, 8)))
    found = ContextualDecomposition(model).decompose(x, relevant=grey(x))
    chroma = found.irrelevant - found.irrelevant.mean(-1, keepdim=True)
    assert torch.allclose(loss.penalty, chroma.square().mean())
    greyed = mitigator.loss(model, (grey(x), y, torch.ones(8, 8)))
    assert greyed.penalty < 1e-20


def test_masks_of_their_own_and_several_masks():
    model, (x, y, mask) = net(), batch()
    own = torch.stack([mask, mask.roll(2, 0), torch.zeros_like(mask), mask.roll(3, 1)])
    found = ContextualDecomposition(model).decompose(x, own[None, :, None])
    each = torch.sigmoid(found.relevant - found.irrelevant).mean(-1)[0]
    published = CDEP.published(explainer="contextual_decomposition")
    loss = published.loss(model, (x, y, own))
    assert torch.allclose(loss.penalty, each[[0, 1, 3]].mean())  # an empty mask is no sample
    several = torch.stack([mask.expand(4, 1, 8, 8), mask.roll(2, 0).expand(4, 1, 8, 8)])
    apart = sum(published.loss(model, (x, y, several[i])).penalty for i in (0, 1))
    assert torch.allclose(published.loss(model, (x, y, several)).penalty, apart)


def test_tokens():
    class Text(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.lstm, self.out = nn.Embedding(20, 6), nn.LSTM(6, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, ids):
            return self.out(self.lstm(self.embed(ids))[0][:, -1])

    torch.manual_seed(1)
    model = Text()
    ids, y = torch.randint(2, 20, (16, 6)), torch.arange(16) % 2
    ids[:, 2] = y  # the decoy word gives the label away
    mask = torch.zeros(6)
    mask[2] = 1
    form = {"form": "log", "target": "label", "part": "relevant", "centred": False}
    mitigator = CDEP(**form, lambda_cdep=5.0, lr=2e-2, n_epochs=8, random_state=0)
    history = mitigator.fit(model, ids, y, mask, progress=False)
    assert history["penalty"][-1] < 0.5 * history["penalty"][0]
    assert model.embed.weight.grad is not None


def test_other_explainers_decompose_nothing():
    model, data = net(), batch()
    parts = [
        CDEP(explainer="gradient_x_input", part=part).loss(model, data).penalty for part in ("relevant", "irrelevant")
    ]
    assert torch.equal(*parts)  # an attribution has no interactions to give to either part
    with pytest.raises(InvalidInputError, match="decomposes the output"):
        CDEP(explainer="gradient", keep=torch.zeros_like).loss(model, data)


def test_a_single_output_is_not_centred_away():
    model, (x, _, mask) = nn.Sequential(*net()[:-1], nn.Linear(36, 1)).double(), batch()
    loss = CDEP().loss(model, (x, torch.arange(4) % 2, mask))
    other = ContextualDecomposition(model).decompose(x, 1 - mask[None]).irrelevant
    assert torch.allclose(loss.penalty, other.square().mean())


def test_rrr_over_contextual_decomposition():
    model, data = net(), batch()
    loss = RRR(explainer="contextual_decomposition", output="logit").loss(model, data)
    loss.total.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def decoyed(n, generator, *, agree):
    """Noisy bars across (class 0) or down (class 1), and a bright corner that tells the class, or its opposite."""
    y = torch.randint(0, 2, (n,), generator=generator)
    x = 0.25 * torch.randn(n, 1, 8, 8, generator=generator)
    place = torch.randint(3, 7, (n,), generator=generator)
    for i in range(n):
        if y[i]:
            x[i, 0, 2:, place[i]] += 1
        else:
            x[i, 0, place[i], 2:] += 1
    x[:, 0, :2, :2] += 3 * (y if agree else 1 - y).view(-1, 1, 1).float()
    return x, y


def test_training_removes_a_planted_shortcut():
    generator = torch.Generator().manual_seed(0)
    train, test = decoyed(512, generator, agree=True), decoyed(512, generator, agree=False)
    mask = torch.zeros(8, 8)
    mask[:2, :2] = 1
    accuracy = {}
    for weight in (0.0, 100.0):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 16), nn.ReLU(), nn.Linear(16, 2)
        )
        mitigator = CDEP(lambda_cdep=weight, part="relevant", lr=1e-2, n_epochs=12, batch_size=64, random_state=0)
        mitigator.fit(model, *train, mask, progress=False)
        model.eval()
        with torch.no_grad():
            accuracy[weight] = (model(test[0]).argmax(1) == test[1]).float().mean().item()
    assert accuracy[0.0] < 0.5
    assert accuracy[100.0] > 0.9  # .996 to 1.0 over five seeds


def test_weight_zero_is_the_plain_step():
    model, (x, y, mask) = net(), batch()
    loss = CDEP(lambda_cdep=0.0).loss(model, (x, y, mask))
    assert torch.equal(loss.total, F.cross_entropy(model(x), y))


def test_one_pass_gives_logits_and_penalty():
    model, data = net(), batch()
    calls = []
    CDEP().explainer_for(model).attribute(data[0], data[1])  # the first call gets to know a model
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    found = []
    for mode in ("auto", "eval"):
        model.zero_grad()
        loss = CDEP(mode=mode, lambda_cdep=3.0).loss(model, data)
        loss.total.backward()
        found.append((loss, [p.grad.clone() for p in model.parameters()], len(calls)))
    (one, gradients, first), (apart, expected, both) = found
    assert (first, both) == (1, 3)
    assert torch.allclose(one.total, apart.total, rtol=1e-12)
    assert torch.allclose(one.logits, apart.logits, rtol=1e-12)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(gradients, expected, strict=True))


def test_a_model_with_dropout_has_a_pass_of_its_own():
    model, data = nn.Sequential(*net(), nn.Dropout(0.5)).double(), batch()
    torch.manual_seed(0)
    logits = CDEP().loss(model, data).logits
    torch.manual_seed(0)
    torch.nn.functional.dropout(torch.ones(1), 0.5)
    assert (logits == 0).any()
