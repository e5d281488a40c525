"""Standard normal noise for perturbed copies: plain, antithetic, or from a scrambled Sobol sequence."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.quasirandom import SobolEngine

from xaikit.core.structure import row_ends


class NoiseStream:
    """Draws of the shape of one sample. They do not depend on the batch, the block size, the dtype or the device.

    Args:
        kind: "gaussian": independent draws. "antithetic": z, -z, z', -z', ... (Hammersley and Morton 1956).
            "sobol": normal quantiles of a scrambled Sobol sequence (Owen 1998); inputs with more features than the
            sequence has dimensions are cut into groups with sequences of their own (Latin supercube sampling).
        shapes: of one sample of each input.
        seed: of the draws.
    """

    def __init__(self, kind: str, shapes: Sequence[torch.Size], seed: int) -> None:
        self._kind, self._shapes, self._seed = kind, [tuple(s) for s in shapes], seed
        self._sizes = [math.prod(s) for s in self._shapes]
        self._engines: list[SobolEngine] = []
        if kind == "sobol":
            total, most = sum(self._sizes), SobolEngine.MAXDIM
            self._engines = [
                SobolEngine(min(most, total - start), scramble=True, seed=seed + i)
                for i, start in enumerate(range(0, total, most))
            ]
        self.restart()

    def restart(self) -> None:
        """Begin the same draws again."""
        self._generator = torch.Generator().manual_seed(self._seed)
        self._last: Tensor | None = None
        for engine in self._engines:
            engine.reset()

    def draw(self, copies: int) -> list[Tensor]:
        """The next `copies` draws for each input, shaped (copies, ...), float32 on the CPU."""
        if self._kind == "sobol":
            unit = torch.cat([engine.draw(copies, dtype=torch.float32) for engine in self._engines], 1)
            eps = torch.finfo(unit.dtype).eps
            flat = torch.special.ndtri(unit.clamp(eps, 1 - eps))
        else:
            # One draw at a time: torch's numbers depend on the size of a draw, and the size of blocks on the batch.
            flat = torch.empty(copies, sum(self._sizes), dtype=torch.float32, device="cpu")
            for row in flat:
                self._next(row)
        parts = flat.split(self._sizes, 1)
        return [part.reshape(copies, *shape) for part, shape in zip(parts, self._shapes, strict=True)]

    def _next(self, row: Tensor) -> None:
        if self._kind == "antithetic" and self._last is not None:
            torch.neg(self._last, out=row)
            self._last = None
            return
        torch.randn(row.shape, generator=self._generator, dtype=row.dtype, out=row, device=row.device)
        if self._kind == "antithetic":
            self._last = row.clone()


def value_range(x: Tensor) -> Tensor:
    """Max - min of each sample, shaped (N, 1, ...); 0 for samples of one number.

    Args:
        x: (N, ...).
    """
    low, high = row_ends(x)
    return high - low
