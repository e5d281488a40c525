"""How exact d penalty / d parameters is: every registered mitigator over every differentiable explainer, float64.

    python -m benchmarks.penalties [MITIGATOR ...]

Central differences along three random directions of all parameters, at the best of three steps (see
`xaikit.testing.penalty_derivative_error`), on the three nets of `benchmarks.exactness`, with a random mask for each
sample. Each figure is the largest relative error over nets and directions; the aim is 1e-5.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.exactness import cases
from benchmarks.measure import table
from xaikit import Concept, Mitigator
from xaikit.core import EXPLAINERS, MITIGATORS
from xaikit.core.errors import InvalidInputError
from xaikit.mitigation.changed import ChangedMitigator
from xaikit.testing import penalty_derivative_error

LAYERS = {"MLP": "2", "conv-BatchNorm-residual": "conv2", "1-D conv": "3"}  # where the concepts are
STEPS = (1e-6, 1e-7, 1e-8)


def made(name: str, explainer: str, net: str, model: nn.Module, x: Tensor) -> Mitigator:
    """The mitigator over the explainer, with a random concept where it needs one."""
    cls, settings = MITIGATORS.get(name), {"explainer": explainer}
    if "concept" in cls.SETTINGS:
        generator = torch.Generator().manual_seed(0)
        weight = model.get_submodule(LAYERS[net]).weight
        absent, present, along = torch.randn(3, len(weight), generator=generator, dtype=x.dtype)
        settings["concept"] = Concept(LAYERS[net], F.normalize(along, dim=0), absent, present)
    if name == "attribution_prior" and x.ndim == 2:
        settings["prior"] = "sparsity"  # a table has no neighbours
    return cls(**settings)


def error(name: str, explainer: str) -> str:
    """The largest over the nets that the pair takes, or nothing."""
    y, found = torch.tensor([0, 2]), []
    for net, (model, x) in cases().items():
        shape = x.shape if x.ndim == 2 else (len(x), *x.shape[2:])
        mask = torch.rand(shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
        try:
            mitigator = made(name, explainer, net, model, x)
            found.append(penalty_derivative_error(mitigator, model, (x, y, mask), directions=3, steps=STEPS))
        except InvalidInputError:  # a table has no positions for a map, and some penalties take one explainer alone
            continue
    return f"{max(found):.0e}" if found else ""


def main() -> None:
    names = sys.argv[1:] or list(MITIGATORS)
    unexplained = [name for name in names if issubclass(MITIGATORS.get(name), ChangedMitigator)]
    explained = [name for name in names if name not in unexplained]
    rows: list[list[object]] = []
    for explainer in EXPLAINERS:
        if EXPLAINERS.get(explainer).DIFFERENTIABLE and explained:
            rows.append([explainer, *(error(name, explainer) for name in explained)])
            print("measured:", rows[-1], file=sys.stderr, flush=True)
    title = "d penalty / d parameters: largest relative error against finite differences, float64"
    table(title, ["explanation in the penalty", *explained], rows)
    alone = [[name, error(name, "gradient")] for name in unexplained]
    table("Mitigators without an explanation", ["", "error"], alone)


if __name__ == "__main__":
    main()
