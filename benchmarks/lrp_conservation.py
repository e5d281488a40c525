"""Where LRP runs and what it conserves: the reference zoo and torchvision's other families, biases zeroed, float64.

    XAIKIT_SHARED=../shared python benchmarks/lrp_conservation.py [NAME ...]

For each model and variant: |sum of relevance - score| / |score|, and the part of the score that an operation lost which
must conserve. The z+ and alpha-beta rules do not conserve by definition where an output has no contribution of a sign.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import torch
from torch import nn

from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers.lrp import LRPEpsilonAlpha2Beta1, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPUniformEpsilon

SHARED = Path(os.environ.get("XAIKIT_SHARED", Path(__file__).parents[2] / "shared"))
VARIANTS = (LRPUniformEpsilon, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPEpsilonAlpha2Beta1)
IMAGE, CLIP = (2, 3, 64, 64), (2, 3, 4, 32, 32)
OTHERS = {
    "vgg13_bn": IMAGE, "resnet34": IMAGE, "resnet101": IMAGE, "densenet169": IMAGE, "squeezenet1_0": IMAGE,
    "mobilenet_v3_large": IMAGE, "mnasnet1_0": IMAGE, "shufflenet_v2_x1_0": IMAGE, "efficientnet_b1": IMAGE,
    "regnet_x_400mf": IMAGE, "convnext_small": IMAGE, "swin_s": IMAGE, "swin_v2_s": IMAGE,
    "video.r3d_18": CLIP, "video.mc3_18": CLIP, "video.r2plus1d_18": CLIP, "video.swin3d_t": CLIP,
    "segmentation.fcn_resnet50": IMAGE, "segmentation.deeplabv3_mobilenet_v3_large": IMAGE,
    "segmentation.lraspp_mobilenet_v3_large": IMAGE,
}  # fmt: skip


class Strongest(nn.Module):
    """A segmentation net's strongest pixel of each class."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)["out"].amax((2, 3))


def other(zoo, models, name):
    torch.manual_seed(0)
    home, _, kind = name.rpartition(".")
    options = {"weights_backbone": None} if home == "segmentation" else {}
    net = getattr(getattr(models, home) if home else models, kind)(weights=None, num_classes=10, **options)
    model = zoo.zero_bias(zoo.randomise(Strongest(net) if home == "segmentation" else net).eval())
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    with torch.no_grad():
        model(torch.randn(OTHERS[name]))
    for norm in norms:
        norm.eval()
        norm.running_mean.zero_()
        norm.running_var.clamp_(min=1e-4)
    return model.double(), torch.randn(OTHERS[name], dtype=torch.float64), None


def from_zoo(zoo, name):
    entry, model, x = zoo.get(name, dtype=torch.float64, zb=True)
    if hasattr(model, "transform_input"):
        model.transform_input = False
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("wpe.weight"):
                parameter.zero_()
    layer = (model.m.encoder.embed_tokens if name == "hf:t5enc" else entry.emb(model)) if entry.text else None
    return model, x, layer


def main():
    torch.set_num_threads(1)
    models = import_torchvision().models
    sys.path.insert(0, str(SHARED / "sketches"))
    import zoo

    ran = conserved = 0
    names = sys.argv[1:] or [*zoo.ZOO, *OTHERS]
    for name in names:
        model, x, layer = other(zoo, models, name) if name in OTHERS else from_zoo(zoo, name)
        with torch.no_grad():
            targets = model(x).argmax(1)
        cells, ok = [], True
        for kind in VARIANTS:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                explained = kind(model, layer=layer, epsilon=1e-6).explain(x, targets)
            gap = float((explained.gap / explained.scores.abs()).max())
            cells.append(f"{gap:8.1e}{'' if not explained.lost else f' lost {explained.lost}'}")
            ok &= not explained.lost and (gap < 0.01 or kind in VARIANTS[2:])
        ran, conserved = ran + 1, conserved + ok
        print(f"{name:44s} {'  '.join(cells)}", flush=True)
    print(f"{ran} of {len(names)} run, {conserved} conserve within 1 % where the rules do")


if __name__ == "__main__":
    main()
