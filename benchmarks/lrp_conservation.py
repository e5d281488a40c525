"""Where LRP runs and what it conserves: the reference zoo and torchvision's other families, biases zeroed, float64.

    python -m benchmarks.lrp_conservation [NAME ...]

For each model and variant: |sum of relevance - score| / |score|, the worst sample. Epsilon and gamma rules conserve but
for their stabilizers. Two rules do not by definition:

- z+ (EpsilonPlus): an output without a positive contribution hands nothing on;
- alpha-beta (EpsilonAlpha2Beta1): an output without positive contributions hands on -R in place of R, one without
  negative ones 2 R.

What they withhold is summed here from their formula, apart from the library: R (1 - z+/(z+ + s)) and
R (1 - 2 z+/(z+ + s) + z-/(z- - s)). Where a gap is above 1 % the number behind it is the part of it that this does not
account for, for the batch, and that must stay below 1 %.
"""

from __future__ import annotations

import sys
import warnings

import torch
from torch import nn

from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers.lrp import (
    LRPEpsilonAlpha2Beta1,
    LRPEpsilonGammaBox,
    LRPEpsilonPlus,
    LRPUniformEpsilon,
    formulas,
    layers,
)

VARIANTS = (LRPUniformEpsilon, LRPEpsilonGammaBox, LRPEpsilonPlus, LRPEpsilonAlpha2Beta1)
CONSERVING = VARIANTS[:2]
IMAGE, CLIP = (2, 3, 64, 64), (2, 3, 4, 32, 32)
OTHERS = {
    "vgg13_bn": IMAGE, "resnet34": IMAGE, "resnet101": IMAGE, "densenet169": IMAGE, "squeezenet1_0": IMAGE,
    "mobilenet_v3_large": IMAGE, "mnasnet1_0": IMAGE, "shufflenet_v2_x1_0": IMAGE, "efficientnet_b1": IMAGE,
    "regnet_x_400mf": IMAGE, "convnext_small": IMAGE, "swin_s": IMAGE, "swin_v2_s": IMAGE,
    "video.r3d_18": CLIP, "video.mc3_18": CLIP, "video.r2plus1d_18": CLIP, "video.swin3d_t": CLIP,
    "segmentation.fcn_resnet50": IMAGE, "segmentation.deeplabv3_mobilenet_v3_large": IMAGE,
    "segmentation.lraspp_mobilenet_v3_large": IMAGE, "video.s3d": (1, 3, 16, 224, 224), "vit_b_32": (2, 3, 224, 224),
}  # fmt: skip


class Withheld:
    """What the z+ and alpha-beta rules withhold by their formulas, summed over the layers of a backward pass."""

    SIGNS = {"ZPlus": {1: 1.0}, "AlphaBeta": {1: 2.0, -1: -1.0}}  # the share of the contributions of each sign
    STABILIZER = 1e-6

    def __init__(self):
        self.total = 0.0
        formulas.zplus, formulas.alpha_beta = self.counting(formulas.zplus), self.counting(formulas.alpha_beta)

    def counting(self, make):
        def build(hook, operation, **settings):
            rule, signs = make(hook, operation, **settings), self.SIGNS.get(type(hook).__name__, {})

            def counted(x, y, g, weight, scale, bias):
                relevance = g * y
                folded = weight if scale is None else layers.scaled(weight, scale, operation)
                handed_on = 0.0
                for sign, share in signs.items():
                    same, other = (folded * sign).clamp(min=0) * sign, (folded * sign).clamp(max=0) * sign
                    z = operation.forward(x.clamp(min=0), same, None) + operation.forward(x.clamp(max=0), other, None)
                    constant = None if bias is None else (bias * sign).clamp(min=0) * sign
                    held = operation.forward(torch.zeros_like(x), same, constant)
                    handed_on = handed_on + share * z / (z + held + sign * self.STABILIZER)
                self.total += float((relevance * (1 - handed_on)).sum()) if signs else 0.0
                return rule(x, y, g, weight, scale, bias)

            return counted

        return build


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
    entry, model, x = zoo.get(name, dtype=torch.float64, zero_biases=True)
    if hasattr(model, "transform_input"):
        model.transform_input = False
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("wpe.weight"):
                parameter.zero_()
    layer = (model.m.encoder.embed_tokens if name == "hf:t5enc" else entry.embedding(model)) if entry.is_text else None
    return model, x, layer


def main():
    torch.set_num_threads(1)
    models = import_torchvision().models
    from tests import zoo

    withheld, ran, conserved = Withheld(), 0, 0
    names = sys.argv[1:] or [*zoo.ZOO, *OTHERS]
    print(f"| model | {' | '.join(kind.__name__.removeprefix('LRP') for kind in VARIANTS)} |\n|---|---|---|---|---|")
    for name in names:
        model, x, layer = other(zoo, models, name) if name in OTHERS else from_zoo(zoo, name)
        with torch.no_grad():
            targets = model(x).argmax(1)
        cells, ok = [], True
        for kind in VARIANTS:
            withheld.total = 0.0
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                explained = kind(model, layer=layer, epsilon=1e-6).explain(x, targets)
            gap, size = float((explained.gap / explained.scores.abs()).max()), float(explained.scores.abs().sum())
            cells.append(f"{gap:.1e}")
            if gap > 0.01:
                rest = float(explained.scores.sum() - explained.values.sum()) - withheld.total
                rest = abs(rest) / max(size, abs(withheld.total))
                cells[-1] += f" ({rest:.0e})"
                ok &= kind not in CONSERVING and rest < 0.01
            if explained.lost:
                cells[-1] += f" lost: {explained.lost}"
                ok = False
        ran, conserved = ran + 1, conserved + ok
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    print(f"\n{ran} of {len(names)} run, {conserved} conserve within 1 % but for what a rule withholds by definition")


if __name__ == "__main__":
    main()
