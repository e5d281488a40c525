"""Contextual decomposition of 44 architectures: how steady the relevance is, what a floor costs, and the time per mask.

    python -m benchmarks.cd_zoo [stability|time] [NAME ...]

stability: a last-bit change of the float32 input (of the embeddings, for text) moves the output by `own`, over its
scale, and the relevance by what the column of each floor says; `change` is what the floor changes the relevance by, in
mean size, against floor 0. time: one mask among 16, over one plain forward pass of the same batch.
"""

from __future__ import annotations

import statistics
import sys
import warnings

import torch
from torch import Tensor, nn

from benchmarks.measure import seconds, table
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers import ContextualDecomposition

FLOORS = (0.0, 0.1, 0.2, 0.3)
MASKS = 16
ROUNDS = 3


class FromEmbeddings(nn.Module):
    """A text model as a function of its embeddings."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, embeddings: Tensor) -> Tensor:
        return self.model.from_emb(embeddings)


def reference(names: list[str]) -> list[tuple[str, nn.Module, Tensor]]:
    """The models, in evaluation mode with biases and statistics that matter, and a batch of two for each."""
    import_torchvision()
    from tests import zoo

    for name in names or zoo.ZOO:
        entry, model, x = zoo.get(name)
        if entry.is_text:
            model, x = FromEmbeddings(model).eval(), entry.embedding(model)(x).detach()
        yield name, model, x


def masks_for(x: Tensor, count: int) -> Tensor:
    """Random masks, of whole tokens where the input is a sequence."""
    shape = (x.shape[1], 1) if x.dim() == 3 else x.shape[1:] if x.dim() == 2 else (1, *x.shape[2:])
    return (torch.rand(count, *shape, generator=torch.Generator().manual_seed(1)) < 0.4).float()


def stability(names: list[str]) -> None:
    rows, steady = [], dict.fromkeys(FLOORS, 0)
    changes: dict[float, list[float]] = {value: [] for value in FLOORS}
    for name, model, x in reference(names):
        masks = masks_for(x, 2)
        nudged = torch.nextafter(x, x + torch.randn_like(x).sign())
        with torch.no_grad():
            output = model(x)
            own = float((model(nudged) - output).abs().max() / output.abs().max())
        row: list[object] = [name, own]
        first = ContextualDecomposition(model, floor=0.0).decompose(x, masks).relevant
        for value in FLOORS:
            explainer = ContextualDecomposition(model, floor=value)
            found = explainer.decompose(x, masks).relevant
            moved = float((explainer.decompose(nudged, masks).relevant - found).abs().max() / output.abs().max())
            steady[value] += moved <= 1e-4
            changes[value].append(float((found - first).abs().mean() / first.abs().mean()))
            row.append(moved)
        rows.append([*row, *(changes[value][-1] for value in FLOORS[1:])])
        print(rows[-1], file=sys.stderr, flush=True)
    head = ["model", "own", *(f"floor {value:g}" for value in FLOORS), *(f"change, {value:g}" for value in FLOORS[1:])]
    table("A last-bit change of the input", head, rows)
    summary = [
        [value, f"{steady[value]} of {len(rows)}", statistics.median(changes[value]), max(changes[value])]
        for value in FLOORS
    ]
    table("By floor", ["floor", "moved by at most 1e-4", "change, median", "change, largest"], summary)


def time(names: list[str]) -> None:
    rows = []
    for name, model, x in reference(names):
        masks, explainer = masks_for(x, MASKS), ContextualDecomposition(model)

        def plain(model: nn.Module = model, x: Tensor = x) -> None:
            with torch.no_grad():
                model(x)

        def ours(explainer: ContextualDecomposition = explainer, x: Tensor = x, masks: Tensor = masks) -> None:
            explainer.decompose(x, masks)

        ours()
        plain()
        spent = [(seconds(ours), min(seconds(plain) for _ in range(5))) for _ in range(ROUNDS)]
        rows.append([name, min(s for s, _ in spent) / MASKS / min(p for _, p in spent)])
        print(rows[-1], file=sys.stderr, flush=True)
    rows.append(["median", statistics.median(float(str(row[1])) for row in rows)])
    table(f"One of {MASKS} masks over one plain forward", ["model", "ratio"], rows)


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    chosen = {"stability": stability, "time": time}
    wanted = [name for name in sys.argv[1:] if name in chosen] or list(chosen)
    for which in wanted:
        torch.manual_seed(0)
        chosen[which]([name for name in sys.argv[1:] if name not in chosen])
