"""DecoyMNIST, Ross's network: a grey patch in a corner tells the label in training and the opposite in the test.

The patch is that of the CDEP repository (Rieger et al. 2020): 5 x 5 in one of four corners, grey 255 - 25 * label in
training and 25 * label in the test, pixels in [-1, 1]; one mask with all four corners. The network is Ross et al.'s
784-50-30-10. The weight is chosen on held-out training digits whose corners a user who knows the mask can randomise.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor, nn

from benchmarks.papers import data
from benchmarks.papers.harness import PUBLISHED_RULES, Batches, Benchmark, Method, accuracy, fit, main
from xaikit import CDEP, RRR

SIZE = 5


def corners() -> Tensor:
    """(28, 28), 1 in the four corners."""
    mask = torch.zeros(28, 28)
    for rows in (slice(0, SIZE), slice(-SIZE, None)):
        for columns in (slice(0, SIZE), slice(-SIZE, None)):
            mask[rows, columns] = 1
    return mask


def decoyed(images: Tensor, told: Tensor, seed: int) -> Tensor:
    """Images (N, 1, 28, 28) in [-1, 1] whose patch, in a random corner, has the grey 255 - 25 * told."""
    images = images.clone()
    generator = torch.Generator().manual_seed(seed)
    where = torch.randint(0, 2, (2, len(images)), generator=generator) * (28 - SIZE)
    inside = torch.arange(SIZE)
    rows, columns = (where[i][:, None] + inside for i in (0, 1))
    n = torch.arange(len(images))[:, None, None]
    images[n, rows[:, :, None], columns[:, None, :]] = (255 - 25 * told).float()[:, None, None]
    return (images / 255 * 2 - 1)[:, None]


class DecoyMnist(Benchmark):
    """DecoyMNIST with Ross's network."""

    NAME = "decoy_mnist"
    FIGURES = ("reversed", "same", "no patch")
    EPOCHS, BATCH, LR = 10, 512, 2e-3
    COPIES = 4  # of SmoothGrad, steps of integrated gradients
    WEIGHTS: ClassVar[tuple[float, ...]] = (1e1, 1e2, 1e3)
    WEIGHTS_CDEP: ClassVar[tuple[float, ...]] = (1e-1, 1e0, 1e1)

    def __init__(self, path: Path, device: str = "cpu") -> None:
        super().__init__(path, device)
        self.parts = data.mnist(path)
        self.mask = corners()
        x, y = self.parts["train"]
        self.plain = (x / 255 * 2 - 1)[:, None]
        self.same = decoyed(x, y, seed=1)
        self.labels = y

    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Flatten(), nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 30), nn.ReLU(), nn.Linear(30, 10)
        )

    def methods(self) -> Mapping[str, Method]:
        rows = self.COPIES * self.BATCH  # one pass for all copies: faster where memory is no matter

        def rrr(explainer: str, output: str = "logit") -> Method:
            form = {"explainer": explainer, "output": output, "target": "label", "reduction": "mean"}
            return Method(lambda w: self.mitigator(RRR, lambda_rrr=w, **form), self.WEIGHTS)

        return {
            "no decoy": Method(data="none"),
            "vanilla": Method(),
            "counterexamples": Method(data="random"),
            "RRR": rrr("gradient", output="log_probability"),
            "CDEP, as published": Method(
                lambda w: self.mitigator(CDEP.published, lambda_cdep=w),
                (1e0, 1e1, 1e2),
            ),
            "CDEP, irrelevant part": Method(
                lambda w: self.mitigator(CDEP, explainer=PUBLISHED_RULES, lambda_cdep=w),
                self.WEIGHTS_CDEP,
            ),
            "LRP epsilon": rrr("lrp_uniform_epsilon:epsilon=0.1"),
            "integrated gradients": rrr(f"integrated_gradients:n_steps={self.COPIES},max_rows={rows}"),
            "SmoothGrad": rrr(f"smoothgrad:n_iter={self.COPIES},max_rows={rows}"),
            "gradient x input": rrr("gradient_x_input"),
        }

    def training(self, name: str, seed: int) -> Tensor:
        """The training images: with the shortcut, without a patch, or with the masked region randomised."""
        if name == "none":
            return self.plain
        if name == "shortcut":
            return self.same
        # A counterexample shows the corners of another image: no knowledge of patches, only of the mask.
        generator = torch.Generator().manual_seed(1000 + seed)
        other = self.same[torch.randperm(len(self.same), generator=generator)]
        return torch.where(self.mask > 0, other, self.same)

    def train(self, model: nn.Module, method: Method, weight: float, seed: int) -> None:
        mitigator = None if method.mitigator is None else method.mitigator(weight)
        batches = Batches(self.training(method.data, seed), self.labels, self.mask, self.BATCH)
        fit(self, model, mitigator, batches, seed)

    def validate(self, model: nn.Module) -> dict[str, float]:
        x, y = self.parts["validation"]
        own = decoyed(x, y, seed=2)
        swapped = torch.where(
            self.mask > 0, own[torch.randperm(len(x), generator=torch.Generator().manual_seed(3))], own
        )
        return {"accuracy": accuracy(model, swapped, y), "same": accuracy(model, own, y)}

    def measure(self, model: nn.Module) -> dict[str, float]:
        x, y = self.parts["test"]
        return {
            "reversed": accuracy(model, decoyed(x, 255 / 25 - y, seed=4), y),
            "same": accuracy(model, decoyed(x, y, seed=4), y),
            "no patch": accuracy(model, (x / 255 * 2 - 1)[:, None], y),
        }

    def check(self, table: Mapping[str, Mapping[str, float]]) -> list[tuple[str, bool]]:
        assert table["vanilla"]["reversed"] < 50, "the plain model is not fooled, so nothing is shown"
        goal = table["no decoy"]["no patch"] - 0.3
        rows = [name for name in table if name not in ("no decoy", "vanilla", "counterexamples", "CDEP, as published")]
        return [
            (
                f"{name}: {table[name]['reversed']:.1f} >= {goal:.1f}, the model without decoy - 0.3",
                table[name]["reversed"] >= goal,
            )
            for name in rows
        ]


if __name__ == "__main__":
    main(DecoyMnist)
