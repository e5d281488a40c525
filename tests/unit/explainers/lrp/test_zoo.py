"""LRP on the reference zoo: it runs everywhere and conserves relevance, biases and additive constants zeroed."""

from __future__ import annotations

import importlib
import warnings

import pytest
import torch

from tests.unit.explainers.cd.zoo import narrow
from xaikit.core.errors import MissingDependencyError
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers.lrp import AttnLRP, LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon
from xaikit.testing import directional_derivative_error

FAST = """
    shufflenet_v2_x0_5 squeezenet1_1 hf:bert+mask hf:gpt2 hf:llama hf:t5enc hf:vit
    lstm bilstm2 gru rnn tcn cnn1d mlp-tab cdep-mnist-cnn nn.TransformerEncoder nn.TransformerEncoder-prenorm unet-like
    data-dependent-branch
"""
REST = """
    resnet18 mobilenet_v3_small swin_v2_t alexnet vgg11 vgg11_bn resnet50 resnext50_32x4d
    densenet121 googlenet inception_v3 mobilenet_v2 mnasnet0_5 efficientnet_b0 regnet_y_400mf
    convnext_tiny swin_t vit_b_16 maxvit(small) hf:bert hf:bert-eager hf:distilbert hf:roberta
"""
NAMES = FAST.split() + [pytest.param(name, marks=pytest.mark.zoo) for name in REST.split()]
# An output without positive contributions loses its relevance in the z+ rule; one without contributions of one sign
# gets or loses relevance in the alpha-beta rule. The epsilon and gamma rules conserve but for their stabilizers.
BY_DEFINITION = (LRPUniformEpsilon, LRPEpsilonGammaBox)


@pytest.fixture(scope="module")
def zoo():
    pytest.importorskip("transformers", reason="transformers is not installed (the extra test has it)")
    try:
        import_torchvision()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("tests.zoo")


def prepare(zoo, name):
    """The model in float64 without biases and additive constants, a batch, and the layer to explain."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        entry, model, x = zoo.get(name, dtype=torch.float64, zero_biases=True)
    if name in ("alexnet", "vgg11", "vgg11_bn"):
        narrow(model)
        zoo.zero_bias(model.double())
    if hasattr(model, "transform_input"):
        model.transform_input = False
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if parameter_name.endswith("wpe.weight"):
                parameter.zero_()
    layer = (model.m.encoder.embed_tokens if name == "hf:t5enc" else entry.embedding(model)) if entry.is_text else None
    return model, x, layer


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("name", NAMES)
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
