"""CRP: the time of 64 conditions at once over one backward pass each, ours and zennit's, and what their sum misses.

python -m benchmarks.crp
"""

from __future__ import annotations

import statistics
import warnings
from unittest import mock

import torch

from benchmarks.measure import lenet, resnet18, seconds, table
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers import LRPEpsilonPlus, LRPUniformEpsilon
from xaikit.explainers.lrp import conditional_relevance

CONDITIONS, ROUNDS = 64, 3
CASES = (  # net, layer, pixels, batch
    (lenet, "3", 28, 1),
    (lenet, "3", 28, 8),
    (resnet18, "layer1", 64, 1),
    (resnet18, "layer3", 64, 1),
    (resnet18, "layer4", 64, 1),
    (resnet18, "layer3", 64, 8),
    (resnet18, "layer4", 64, 8),
    (resnet18, "layer3", 32, 8),
)


def spread(ratios: list[float]) -> str:
    """The median, the smallest and the largest."""
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def zennit_each(model, cls, x: torch.Tensor, conditions: list) -> torch.Tensor:
    """The same by zennit's hooks, as zennit-crp runs them: one forward pass, and a backward pass for each condition."""
    import_torchvision()
    from zennit import canonizers, composites, rules, types
    from zennit.torchvision import ResNetCanonizer

    merged = [ResNetCanonizer() if hasattr(model, "layer1") else canonizers.SequentialMergeBatchNorm()]
    epsilon = [*composites.layer_map_base(1e-6), (types.Linear, rules.Epsilon(0.25))]
    composite = (
        composites.EpsilonPlus(canonizers=merged)
        if cls is LRPEpsilonPlus
        else composites.LayerMapComposite(epsilon, canonizers=merged)
    )
    (layer,) = conditions[0]
    outputs: list[torch.Tensor] = []
    with composite.context(model) as hooked:
        handle = hooked.get_submodule(layer).register_forward_hook(lambda _m, _i, output: outputs.append(output))
        leaf = x.clone().requires_grad_()
        logits = hooked(leaf)
        handle.remove()
        start = torch.zeros_like(logits)
        start[:, 0] = logits[:, 0].detach()
        (arriving,) = torch.autograd.grad(logits, outputs[0], start, retain_graph=True)
        parts = []
        for condition in conditions:
            mask = torch.zeros(1, arriving.shape[1], 1, 1)
            mask[:, condition[layer]] = 1
            parts.append(torch.autograd.grad(outputs[0], leaf, arriving * mask, retain_graph=True)[0])
    return torch.stack(parts)


def main() -> None:
    torch.manual_seed(0)
    rows = []
    for cls in (LRPEpsilonPlus, LRPUniformEpsilon):
        for net, layer, size, n in CASES:
            model, channels = net(), 1 if net is lenet else 3
            x, y, explainer = torch.randn(n, channels, size, size), torch.zeros(n, dtype=torch.long), cls(model)
            conditions = [{layer: k % 50 if net is lenet else k} for k in range(CONDITIONS)]

            def together(explainer=explainer, x=x, y=y, conditions=conditions) -> torch.Tensor:
                return conditional_relevance(explainer, x, y, conditions=conditions)

            def one_backward_each(together=together) -> torch.Tensor:
                with mock.patch.object(torch.func, "vmap", side_effect=RuntimeError):
                    return together()

            parts, relevance = together(), explainer.attribute(x, y)
            # layer1 has 64 channels, so the conditions are all of it.
            missed = (
                float((parts.sum(0) - relevance).abs().max() / relevance.abs().max()) if layer == "layer1" else None
            )
            difference = (parts - one_backward_each()).abs().max() / parts.abs().max()

            def by_zennit(model=model, cls=cls, x=x, conditions=conditions) -> torch.Tensor:
                return zennit_each(model, cls, x, conditions)

            of_peer = by_zennit()
            from_peer = (parts - of_peer).abs().max() / of_peer.abs().max()
            ratios, over_zennit = [], []
            for _ in range(ROUNDS):
                ours = seconds(together)
                ratios.append(ours / seconds(one_backward_each))
                over_zennit.append(ours / seconds(by_zennit))
            rows.append(
                [cls.NAME, net.__name__, layer, f"{n} x {channels} x {size} x {size}", spread(over_zennit),
                 spread(ratios), f"{from_peer:.0e}", f"{difference:.0e}", "" if missed is None else f"{missed:.0e}"]
            )  # fmt: skip
    head = [
        "explainer",
        "net",
        "layer",
        "batch",
        "64 at once over one backward of zennit each",
        "over one backward of our own each",
        "difference from zennit",
        "from our own",
        "sum misses",
    ]
    table("CRP, float32, one thread", head, rows)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
