"""The reference zoo, on which LRP and contextual decomposition are tried."""

from __future__ import annotations

import importlib
import warnings

import pytest

from xaikit.core.errors import MissingDependencyError
from xaikit.core.torchvision_ops import import_torchvision

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
ZOO_NAMES = FAST.split() + [pytest.param(name, marks=pytest.mark.zoo) for name in REST.split()]


@pytest.fixture(scope="session")
def zoo():
    pytest.importorskip("transformers", reason="transformers is not installed (the extra test has it)")
    try:
        import_torchvision()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return importlib.import_module("tests.zoo")
