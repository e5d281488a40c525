"""CDEP and HINT say where predictions still follow what must not matter."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from xaikit import CDEP, HINT, RRR

Y = np.arange(200) % 2
X = np.random.default_rng(0).normal(size=(200, 4)).astype("float32")
X[:, 0] = 2 * Y - 1
X[:, 1] += 3 * Y - 1.5  # honest
MASK = [1, 0, 0, 0]


def model(weights):
    net = nn.Linear(4, 2)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[-w for w in weights], list(weights)]))
        net.bias.zero_()
    return net


def said(mitigator, weights, mask=MASK, y=Y, **options):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        mitigator.set_kwargs(n_epochs=1, lr=1e-6, random_state=0).fit(
            model(weights), X, y.tolist(), mask, progress=False, **options
        )
    return [str(w.message) for w in caught if "still follow" in str(w.message)]


@pytest.mark.parametrize("mitigator", [CDEP(), HINT(), CDEP.published()])
def test_a_shortcut_that_stays_is_told(mitigator):
    mask = MASK if isinstance(mitigator, CDEP) else [1 - m for m in MASK]
    (text,) = said(mitigator, [5.0, 0.1, 0, 0], mask)
    assert re.search(rf"after {type(mitigator).__name__} 100.0 % of the predictions .* {mitigator.WEIGHT}=", text)
    assert not said(mitigator, [0.0, 1.0, 0, 0], mask)  # one that does not follow it
    assert not said(mitigator.set_kwargs(**{mitigator.WEIGHT: 0.0}), [5.0, 0.1, 0, 0], mask)  # plain training


def test_masks_of_some_samples_and_labels_that_are_no_classes():
    some = [MASK if i % 2 == 0 or i > 150 else None for i in range(200)]
    assert said(CDEP(), [5.0, 0.1, 0, 0], some)
    tags = np.stack([Y, 1 - Y], 1).astype("float32")
    assert not said(CDEP(task_loss="binary_cross_entropy"), [5.0, 0.1, 0, 0], y=tags)
    assert not said(RRR(output="logit"), [5.0, 0.1, 0, 0])
