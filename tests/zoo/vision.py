"""torchvision's architectures, for small images and ten classes."""

from __future__ import annotations

from functools import partial

from torch import nn

from tests.zoo.entry import Entry, images
from xaikit.core.torchvision_ops import import_torchvision

SIDES = {
    "alexnet": 64, "vgg11": 32, "vgg11_bn": 32, "resnet18": 64, "resnet50": 64, "wide_resnet50_2": 32,
    "resnext50_32x4d": 64, "densenet121": 64, "googlenet": 64, "inception_v3": 96, "squeezenet1_1": 64,
    "mobilenet_v2": 64, "mobilenet_v3_small": 64, "mnasnet0_5": 64, "shufflenet_v2_x0_5": 64, "efficientnet_b0": 64,
    "efficientnet_v2_s": 64, "regnet_y_400mf": 64, "convnext_tiny": 64, "swin_t": 64, "swin_v2_t": 64, "vit_b_16": 32,
}  # fmt: skip
OPTIONS = {
    "googlenet": {"aux_logits": False, "init_weights": True, "transform_input": True},
    "inception_v3": {"aux_logits": False, "init_weights": True, "transform_input": False},
    "vit_b_16": {"image_size": 32},
}


def _build(name: str) -> nn.Module:
    models = import_torchvision().models
    return getattr(models, name)(weights=None, num_classes=10, **OPTIONS.get(name, {}))


def _small_maxvit() -> nn.Module:
    return import_torchvision().models.maxvit.MaxVit(
        input_size=(64, 64), stem_channels=16, block_channels=[16, 32], block_layers=[1, 1], head_dim=8,
        stochastic_depth_prob=0.0, partition_size=4, num_classes=10,
    )  # fmt: skip


def entries() -> dict[str, Entry]:
    """Name to architecture."""
    entries = {name: Entry(partial(_build, name), images(side)) for name, side in SIDES.items()}
    return entries | {"maxvit(small)": Entry(_small_maxvit, images(64))}
