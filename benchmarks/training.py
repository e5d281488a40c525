"""What the training loop costs beside the steps: `fit` against a bare loop over the same `loss`, time and memory.

python -m benchmarks training
"""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path

import torch
from torch import nn

from benchmarks.measure import lenet, paired, peak_memory, resnet18, table
from xaikit import RRR

SETTINGS = {"lr": 1e-4, "n_epochs": 1, "random_state": 0}


def bare(model: nn.Module, mitigator: RRR, x, y, mask, *, fused: bool = False) -> None:
    """The least that a loop does: order, loss, backward, step, and a mean loss to show."""
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=mitigator.lr, fused=fused)
    torch.manual_seed(1)
    total = 0.0
    for rows in torch.randperm(len(x)).split(mitigator.batch_size):
        loss = mitigator.loss(model, (x[rows], y[rows], mask))
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        total += loss.task.item()


def mlp() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 30), nn.ReLU(), nn.Linear(30, 10))


def cases():
    for name, make, shape, n, size in (
        ("MLP 784-50-30-10", mlp, (1, 28, 28), 2048, 64),
        ("LeNet", lenet, (1, 28, 28), 512, 64),
        ("resnet18 at 64", resnet18, (3, 64, 64), 32, 8),
    ):
        torch.manual_seed(0)
        x, y = torch.rand(n, *shape), torch.arange(n) % 10
        mask = torch.zeros(shape[1:])
        mask[:4, :4] = 1
        yield name, make, x, y, mask, size


def epoch_of(model: nn.Module, mitigator: RRR, given, **more) -> None:
    mitigator.fit(model, *given, progress=False, **more)


def main() -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.pt"

        def saved(run):
            file.unlink(missing_ok=True)
            run(checkpoint=file)

        for name, make, x, y, mask, size in cases():
            for weight in (0.0, 1.0):
                mitigator, model = RRR(lambda_rrr=weight, batch_size=size, **SETTINGS), make().train()
                fit = partial(epoch_of, model, mitigator, (x, y, mask))
                limit = partial(bare, model, mitigator, x, y, mask)
                ratios = paired({"fit": fit, "saved": partial(saved, fit)}, limit, rounds=7)
                fused = paired({"fit": fit}, partial(limit, fused=True), rounds=7)["fit"]
                memory = peak_memory(fit) / peak_memory(limit)
                rows.append(
                    [f"{name}, weight {weight:g}", len(x) // size, ratios["fit"], fused, ratios["saved"], memory]
                )
    head = ["", "steps", "time", "the bare loop's Adam fused, too", "time with a checkpoint", "memory"]
    table("One epoch of `fit` over a bare loop", head, rows)


if __name__ == "__main__":
    main()
