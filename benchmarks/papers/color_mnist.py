"""ColorMNIST: in training every digit has a colour of its own, in the test digit k has that of digit 9 - k.

Ten colours from red to purple, linear in hue, saturation and lightness; standardised per channel; the published network
Conv 20 - Conv 50 - 500 - 10 and optimizer (Adam, weight decay 1e-3, batches of 256; Rieger et al. 2020).

The colour is spread over a hundred lit pixels, so penalties on single pixels, the published form, teach nothing,
whatever the explanation. What must not matter is the colour subspace of the attribution: the deviation of each channel
from the mean of the channels, at lit pixels; for contextual decomposition and integrated gradients it is what the
colour adds to a grey image of the same brightness for every digit. A grey image that keeps its colour's own brightness
leaves that to learn from: contextual decomposition then got 72 % instead of 98 (weight 10, first seed).

The weight is the largest that keeps 95 % on validation digits coloured as in training; reversed ones are never asked.
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.papers import data
from benchmarks.papers.decoy_cnn import lenet
from benchmarks.papers.harness import PUBLISHED_RULES, Benchmark, Method, accuracy, fit, main
from xaikit import CDEP, RRR
from xaikit.explainers import IntegratedGradients
from xaikit.transforms.baselines import Baseline

N_PIXELS = 8  # single-pixel masks in a batch, as published
KEPT = 95.0  # least accuracy on colours as in training


def palette() -> Tensor:
    """(10, 3), red to purple (#800080)."""
    ends = (0.0, 0.5), (5 / 6, 64 / 255)  # hue, lightness
    steps = torch.linspace(0, 1, 10, dtype=torch.float64).tolist()
    rows = [[(1 - t) * a + t * b for a, b in zip(*ends, strict=True)] for t in steps]
    return torch.tensor([colorsys.hls_to_rgb(hue, lightness, 1.0) for hue, lightness in rows])


class Painted:
    """Shuffled batches, painted when they are asked for: all of them at once would be half a gigabyte."""

    def __init__(self, benchmark: ColorMnist, *, random: bool, masks: Callable[[Tensor], Tensor]) -> None:
        self.benchmark, self.random, self.masks = benchmark, random, masks

    def __len__(self) -> int:
        return len(range(0, len(self.benchmark.labels), self.benchmark.BATCH))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        b = self.benchmark
        for rows in torch.randperm(len(b.labels)).split(b.BATCH):
            grey, y = b.grey[rows], b.labels[rows]
            told = torch.randint(10, y.shape) if self.random else y
            yield b.paint(grey, told), y, self.masks(grey)


class ColorMnist(Benchmark):
    """ColorMNIST with the published network."""

    NAME = "color_mnist"
    FIGURES = ("reversed", "same", "random")
    EPOCHS, BATCH, LR, WEIGHT_DECAY = 2, 256, 2e-3, 1e-3

    def __init__(self, path: Path, device: str = "cpu") -> None:
        super().__init__(path, device)
        self.parts = {name: (x / 255, y) for name, (x, y) in data.mnist(path).items()}
        self.grey, self.labels = self.parts["train"]
        self.colours = palette().float()
        # Mean and deviation of the painted training images, channel by channel, without painting them.
        first, second = (
            torch.stack([(self.grey[self.labels == k] ** p).sum() for k in range(10)]) / self.grey.numel()
            for p in (1, 2)
        )
        self.mean = (first @ self.colours).view(3, 1, 1)
        self.std = (second @ self.colours**2 - self.mean.flatten() ** 2).sqrt().view(3, 1, 1)
        self.lit = (self.grey > 0).float().mean(0).flatten()

    def paint(self, grey: Tensor, told: Tensor) -> Tensor:
        """Standardised images (N, 3, 28, 28) in the colours of the digits `told`."""
        return (grey[:, None] * self.colours[told][:, :, None, None] - self.mean) / self.std

    def decoloured(self, x: Tensor) -> Tensor:
        """The image in grey, of one brightness for all: a colour's own brightness would tell the digit as well."""
        mean, std = self.mean.to(x), self.std.to(x)
        grey = (x * std + mean).mean(1, keepdim=True)
        return (grey / grey.amax((2, 3), keepdim=True) / 2 - mean) / std

    def network(self) -> nn.Module:
        return lenet(3, 500)

    def methods(self) -> Mapping[str, Method]:
        weights = (1e2, 3e2, 1e3)
        form = {"output": "logit", "target": "random", "reduction": "mean"}

        def chroma(explainer: str) -> Method:
            return Method(
                lambda w: self.mitigator(RRR, explainer=explainer, what="chroma", lambda_rrr=w, **form), weights, "lit"
            )

        added = IntegratedGradients(n_steps=2, max_rows=2 * self.BATCH, baseline=Decoloured(self))
        return {
            "vanilla": Method(),
            "counterexamples": Method(data="random"),
            "RRR, as published": Method(
                lambda w: self.mitigator(RRR, what="channel_sum", score_reduction="mean", lambda_rrr=w),
                (1e2, 1e3, 1e4),
                "pixels",
            ),
            "CDEP, as published": Method(
                lambda w: self.mitigator(CDEP.published, lambda_cdep=w),
                (1e3,),
                "pixels",
            ),
            "CDEP, irrelevant part": Method(
                lambda w: self.mitigator(CDEP, explainer=PUBLISHED_RULES, lambda_cdep=w, keep=self.decoloured),
                (1e0, 1e1, 1e2),
                "everywhere",
            ),
            "gradient, chroma": chroma("gradient"),
            "SmoothGrad, chroma": chroma(f"smoothgrad:n_iter=2,max_rows={2 * self.BATCH}"),
            "VarGrad, chroma": chroma(f"vargrad:n_iter=2,max_rows={2 * self.BATCH}"),
            "integrated gradients": Method(
                lambda w: self.mitigator(RRR, explainer=added, what=_total, lambda_rrr=w, **form),
                (1e0, 1e1),
                "everywhere",
            ),
        }

    def masks(self, name: str) -> Callable[[Tensor], Tensor]:
        """What the penalty looks at, from a batch of grey images."""

        def pixels(_grey: Tensor) -> Tensor:
            chosen = torch.multinomial(self.lit, N_PIXELS)
            return torch.eye(784)[chosen].view(N_PIXELS, 1, 1, 28, 28)

        return {
            "lit": lambda grey: (grey > 0).float()[:, None],
            "pixels": pixels,
            "everywhere": lambda _grey: torch.ones(28, 28),
        }.get(name, lambda _grey: torch.ones(28, 28))

    def train(self, model: nn.Module, method: Method, weight: float, seed: int) -> None:
        mitigator = None if method.mitigator is None else method.mitigator(weight)
        masks = self.masks(method.data)
        if isinstance(mitigator, RRR) and method.data == "pixels":
            # RRR takes the pixels as one mask, contextual decomposition one by one.
            several, masks = masks, lambda grey: several(grey).amax((0, 1, 2))
        fit(self, model, mitigator, Painted(self, random=method.data == "random", masks=masks), seed)

    def validate(self, model: nn.Module) -> dict[str, float]:
        x, y = self.parts["validation"]
        return {"accuracy": accuracy(model, self.paint(x, y), y)}

    def choose(self, tried: Mapping[float, Mapping[str, float]]) -> float:
        return max((w for w in tried if tried[w]["accuracy"] >= KEPT), default=min(tried))

    def measure(self, model: nn.Module) -> dict[str, float]:
        x, y = self.parts["test"]
        random = torch.randint(10, y.shape, generator=torch.Generator().manual_seed(0))
        told = {"reversed": 9 - y, "same": y, "random": random}
        return {name: accuracy(model, self.paint(x, colour), y) for name, colour in told.items()}

    def check(self, table: Mapping[str, Mapping[str, float]]) -> list[tuple[str, bool]]:
        assert table["vanilla"]["reversed"] < 20, "the plain model is not fooled, so nothing is shown"
        reached = {name: row["reversed"] for name, row in table.items()}
        best = max((n for n in reached if n not in ("vanilla", "counterexamples")), key=lambda n: reached[n])
        goals = {best: 95.5, "SmoothGrad, chroma": 93.0, "integrated gradients": 93.0, "CDEP, irrelevant part": 93.0}
        return [(f"{name}: {reached[name]:.1f} >= {goal}", reached[name] >= goal) for name, goal in goals.items()]


class Decoloured(Baseline):
    """The grey image as the start of the path of integrated gradients."""

    def __init__(self, benchmark: ColorMnist) -> None:
        super().__init__()
        object.__setattr__(self, "benchmark", benchmark)

    def __call__(self, x: Tensor) -> Tensor:
        return self.benchmark.decoloured(x).expand_as(x)

    def __repr__(self) -> str:
        return "Decoloured()"


def _total(attribution: Tensor) -> Tensor:
    """What the colour of the whole image adds to the score."""
    return attribution.sum((1, 2, 3), keepdim=True)


if __name__ == "__main__":
    main(ColorMnist)
