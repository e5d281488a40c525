"""Every mitigator on a planted shortcut: the plain model follows it, the mitigated one does not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from xaikit.mitigation import CDEP, HINT, RBR, RRR, AClArC, Concept, Counterexamples, PClArC, RRClArC

SETTINGS = {"lr": 1e-2, "n_epochs": 12, "batch_size": 64, "random_state": 0}


def stripes(n, *, shortcut, seed):
    """Label 1: bright rows on the left, 0: on the right, in noise; a corner that tells the label ("kept"), or its
    opposite ("flipped")."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, 1, 8, 8, generator=generator)
    x[:, 0, 3:, :4] += 0.35 * y[:, None, None]
    x[:, 0, 3:, 4:] += 0.35 * (1 - y)[:, None, None]
    x[:, 0, :2, :2] = (2.0 * y - 1)[:, None, None] * (1 if shortcut == "kept" else -1)
    return x, y


CORNER = torch.zeros(8, 8)
CORNER[:2, :2] = 1


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 24), nn.ReLU(), nn.Linear(24, 2))


def accuracy(model, shortcut):
    x, y = stripes(600, shortcut=shortcut, seed=1)
    with torch.no_grad():
        return float((model(x).argmax(1) == y).float().mean())


@pytest.fixture(scope="module")
def vanilla():
    model = net()
    x, y = stripes(320, shortcut="kept", seed=0)
    RRR(lambda_rrr=0.0, **SETTINGS).fit(model, x, y, CORNER, progress=False)
    assert accuracy(model, "kept") > 0.97
    assert accuracy(model, "flipped") < 0.4  # it is fooled, or nothing here would count
    return model


MITIGATED = {
    "rrr": lambda: (RRR(lambda_rrr=300.0, reduction="mean"), CORNER),
    "rrr, smoothgrad": lambda: (
        RRR(explainer="smoothgrad:n_iter=2", lambda_rrr=3.0, output="logit", reduction="mean"),
        CORNER,
    ),
    "rrr, random target": lambda: (RRR(lambda_rrr=3.0, target="random", output="logit", reduction="mean"), CORNER),
    "rrr, balanced": lambda: (RRR(balance=True, lambda_rrr=3.0), CORNER),
    "rrr, warm-up": lambda: (RRR(lambda_rrr=3.0, output="logit", reduction="mean", warmup=2.0), CORNER),
    "rbr": lambda: (RBR(lambda_rbr=3.0, damping=0.1, reduction="mean"), CORNER),
    "rbr, balanced": lambda: (RBR(lambda_rbr=3.0, balance=True), CORNER),
    "hint": lambda: (HINT(), 1 - CORNER),
    "hint, ranking": lambda: (HINT.published(grid=4, normalization="total"), 1 - CORNER),
    "cdep": lambda: (CDEP(), CORNER),
    "counterexamples": lambda: (Counterexamples(), CORNER),
    "counterexamples, noise": lambda: (Counterexamples(fill="noise"), CORNER),
    "counterexamples, uniform": lambda: (Counterexamples(fill="uniform"), CORNER),
    "counterexamples, colour": lambda: (Counterexamples(fill="colour"), CORNER),
}


@pytest.mark.usefixtures("vanilla")
@pytest.mark.parametrize("name", MITIGATED)
def test_trained_away(name):
    model, (mitigator, mask) = net(), MITIGATED[name]()
    x, y = stripes(320, shortcut="kept", seed=0)
    mitigator.set_kwargs(**SETTINGS).fit(model, x, y, mask, progress=False)
    assert accuracy(model, "flipped") > 0.7


def marked(n=320):
    """Samples whose corner is bright or dark, whatever the label: what a user would cut out to fit a concept."""
    x, y = stripes(n, shortcut="kept", seed=2)
    bright = torch.rand(n, generator=torch.Generator().manual_seed(3)) > 0.5
    x[:, 0, :2, :2] = torch.where(bright, 1.0, -1.0).view(-1, 1, 1)
    return x, bright


@pytest.mark.parametrize("make", [lambda c: RRClArC(concept=c, lambda_rr=1.0), lambda c: AClArC(concept=c)])
def test_a_concept_trained_away(vanilla, make):
    model = net()
    model.load_state_dict(vanilla.state_dict())
    x, y = stripes(320, shortcut="kept", seed=0)
    concept = Concept.fit(model, *marked(), layer="0")
    make(concept).set_kwargs(**SETTINGS).fit(model, x, y, progress=False)
    assert accuracy(model, "flipped") > accuracy(vanilla, "flipped") + 0.2


@pytest.mark.parametrize("method", ["pattern", "ridge", "svm"])
def test_a_concept_projected_out_without_training(vanilla, method):
    before = accuracy(vanilla, "flipped")
    concept = Concept.fit(vanilla, *marked(), layer="0", method=method)
    with PClArC(concept).apply(vanilla):
        after = accuracy(vanilla, "flipped")
    assert after > before + 0.2
    assert accuracy(vanilla, "flipped") == before
