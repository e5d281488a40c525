"""The large architectures of torchvision with their kinds of blocks, but few and narrow: what the tests can afford.

The benchmarks take them as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from types import ModuleType

import torch
from torch import nn

from tests.zoo.entry import Entry, images
from xaikit.core.torchvision_ops import import_torchvision


def _narrow_head(build: Callable[..., nn.Module]) -> nn.Module:
    """An AlexNet or VGG whose linear layers have 64 units of 4,096, 100 million weights that are never drawn."""
    with torch.device("meta"):
        model = build(num_classes=10)
        linear = [i for i, module in enumerate(model.classifier) if isinstance(module, nn.Linear)]
        widths = [model.classifier[linear[0]].in_features, 64, 64, 10]
        for i, before, after in zip(linear, widths, widths[1:], strict=False):
            model.classifier[i] = nn.Linear(before, after)
    model.to_empty(device="cpu")
    for module in model.modules():
        if hasattr(module, "reset_parameters"):
            module.reset_parameters()
    return model


def _convnext(models: ModuleType) -> nn.Module:
    block = models.convnext.CNBlockConfig
    return models.ConvNeXt([block(16, 32, 1), block(32, 64, 2), block(64, None, 1)], num_classes=10)


def _efficientnet(models: ModuleType) -> nn.Module:
    block = partial(models.efficientnet.MBConvConfig, width_mult=0.5, depth_mult=0.5)
    settings = [
        block(1, 3, 1, 32, 16, 1),
        block(6, 3, 2, 16, 24, 2),
        block(6, 5, 2, 24, 40, 4),
        block(6, 3, 1, 40, 80, 1),
    ]
    return models.EfficientNet(settings, 0.2, num_classes=10)


def _swin(models: ModuleType, **parts: object) -> nn.Module:
    return models.SwinTransformer([4, 4], 24, [2, 2, 2], [3, 6, 12], [7, 7], num_classes=10, **parts)


def entries() -> dict[str, Entry]:
    """Name to architecture; names are those of the large ones."""
    models = import_torchvision().models
    bottleneck = models.resnet.Bottleneck
    second_swin = {
        "block": models.swin_transformer.SwinTransformerBlockV2,
        "downsample_layer": models.swin_transformer.PatchMergingV2,
    }
    regnet = models.regnet.BlockParams.from_init_params(
        depth=6, w_0=24, w_a=28.0, w_m=2.1, group_width=8, se_ratio=0.25
    )
    builders: dict[str, Callable[[], nn.Module]] = {
        "alexnet": lambda: _narrow_head(models.alexnet),
        "vgg11": lambda: _narrow_head(models.vgg11),
        "vgg11_bn": lambda: _narrow_head(models.vgg11_bn),
        "resnet50": lambda: models.ResNet(bottleneck, [1, 1, 2, 1], num_classes=10, width_per_group=16),
        "resnext50_32x4d": lambda: models.ResNet(bottleneck, [1, 1, 2, 1], num_classes=10, groups=8, width_per_group=4),
        "densenet121": lambda: models.DenseNet(12, (2, 3, 2, 2), 16, num_classes=10),
        "mobilenet_v2": lambda: models.mobilenet_v2(num_classes=10, width_mult=0.25),
        "mnasnet0_5": lambda: models.MNASNet(0.25, num_classes=10),
        "efficientnet_b0": lambda: _efficientnet(models),
        "regnet_y_400mf": lambda: models.RegNet(regnet, num_classes=10),
        "convnext_tiny": lambda: _convnext(models),
        "swin_t": lambda: _swin(models),
        "swin_v2_t": lambda: _swin(models, **second_swin),
        "vit_b_16": lambda: models.VisionTransformer(32, 8, 3, 4, 32, 64, num_classes=10),
        "inception_v3": lambda: models.Inception3(num_classes=10, aux_logits=False, init_weights=False),
    }
    sides = {"alexnet": 64, "vgg11": 32, "vgg11_bn": 32, "vit_b_16": 32, "inception_v3": 75}
    return {name: Entry(build, images(sides.get(name, 64))) for name, build in builders.items()}
