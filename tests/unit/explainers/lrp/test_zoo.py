"""LRP on the reference zoo: it runs everywhere and conserves relevance, biases and additive constants zeroed."""

from __future__ import annotations

import warnings

import pytest
import torch

from tests.unit.explainers.conftest import ZOO_NAMES
from xaikit.explainers.lrp import AttnLRP, LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon
from xaikit.testing import directional_derivative_error

# An output without positive contributions loses its relevance in the z+ rule; one without contributions of one sign
# gets or loses relevance in the alpha-beta rule. The epsilon and gamma rules conserve but for their stabilizers.
BY_DEFINITION = (LRPUniformEpsilon, LRPEpsilonGammaBox)


def prepare(zoo, name):
    """The model in float64 without biases and additive constants, a batch, and the layer to explain."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        entry, model, x = zoo.get(name, dtype=torch.float64, zero_biases=True, among=zoo.SMALL)
    if hasattr(model, "transform_input"):
        model.transform_input = False
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("wpe.weight"):
                parameter.zero_()
    layer = (model.m.encoder.embed_tokens if name == "hf:t5enc" else entry.embedding(model)) if entry.is_text else None
    return model, x, layer


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ZOO_NAMES)
def test_conserves(zoo, name):
    model, x, layer = prepare(zoo, name)
    with torch.no_grad():
        targets = model(x).argmax(1)
    for kind in (LRPUniformEpsilon, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPEpsilonAlpha2Beta1, AttnLRP):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            explained = kind(model, layer=layer, epsilon=1e-6).explain(x, targets)
        assert explained.values.isfinite().all()
        assert explained.lost == {}
        assert not [w for w in caught if "LRP" in str(w.message)]
        if kind in BY_DEFINITION:
            assert (explained.gap < 0.01 * explained.scores.abs()).all()


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", ["lstm", "hf:bert", "hf:gpt2", "hf:vit"])
@pytest.mark.parametrize(
    "kind", [LRPUniformEpsilon, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPEpsilonAlpha2Beta1, AttnLRP]
)
def test_derivative(zoo, name, kind):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        entry, model, x = zoo.get(name, dtype=torch.float64)
    layer = entry.embedding(model) if entry.is_text else None
    assert directional_derivative_error(kind(model, layer=layer), x, torch.tensor([1, 2]), parts=1) < 1e-5
