"""Attribution: the values together with where they come from."""

from __future__ import annotations

import dataclasses
import html
import warnings
from collections.abc import Mapping
from typing import Any, Self

import torch
from torch import Tensor

from xaikit import upward
from xaikit.core.errors import XaikitError
from xaikit.core.percentages import percent
from xaikit.core.result_files import ARRAY
from xaikit.core.results import Result
from xaikit.core.structure import flatten


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Attribution(Result):
    """An attribution with its scores, its settings and its gap; `Explainer.explain` returns it.

    Attributes:
        values: the attribution, in the structure of the inputs.
        spec: name and settings of the explainer.
        targets: the explained classes, or None where a function chose the score.
        scores: the explained score of each sample, (N,).
        gap: |sum of the attribution - what the method promises as its sum|, (N,); None where nothing is promised.
        absorbed: the part of the promised sums that the method's rules give to biases, constants and stabilizers,
            summed over the batch; at a layer also what reaches the score without passing that layer. LRP counts it;
            None for other methods.
        lost: the part that each operation lost against its rule, by the operation's name; empty if nothing was lost.
        tokens: the token ids (N, T), if the values are attributions of their embeddings (N, T, D); else None.
        seed: of the method's random numbers.
    """

    values: Any
    spec: dict[str, Any]
    targets: Any = None
    scores: Tensor | None = None
    gap: Tensor | None = None
    absorbed: float | None = None
    lost: dict[str, float] | None = None
    tokens: Tensor | None = None
    seed: int | None = None

    @property
    def n(self) -> int:
        """Number of samples."""
        return len(flatten(self.values, "values")[0][0])

    @classmethod
    def _decode(cls, state: Mapping[str, Any]) -> Self:
        values = tuple(state["values"]) if isinstance(state["values"], list) else state["values"]
        flatten(values, "values")
        return super()._decode({**state, "values": values})

    @classmethod
    def _upgrade(cls, state: Any, arrays: Mapping[str, Tensor]) -> Any:
        """Version 0.1 wrote the structure of the values by name, and the tensors under the names of their fields."""
        if not isinstance(state, Mapping) or "structure" not in state:
            return state
        tensors = {k: {ARRAY: k, "dtype": str(t.dtype).removeprefix("torch.")} for k, t in arrays.items()}
        values: Any = {k.removeprefix("values."): v for k, v in tensors.items() if k.startswith("values.")}
        if state["structure"] == "tensor":
            values = values["0"]
        elif state["structure"] == "tuple":
            values = [values[str(i)] for i in range(len(values))]
        plain = {k: v for k, v in state.items() if k != "structure"}
        return {**plain, "values": values, **{k: v for k, v in tensors.items() if not k.startswith("values.")}}

    def __repr__(self) -> str:
        name = self.spec.get("name", "an explainer")
        parts = [f"Attribution by {name} of {self.n} sample{'' if self.n == 1 else 's'}: values {_shapes(self.values)}"]
        if self.scores is not None and self.scores.numel():
            parts.append(f"scores {float(self.scores.min()):.3g} to {float(self.scores.max()):.3g}")
        if self.gap is not None and self.gap.numel():
            parts.append(f"largest gap {float(self.gap.max()):.2g}")
        return ", ".join(parts)

    def plot(self, inputs: Any = None, **options: Any) -> Any:
        """A figure of the attribution beside (or over) the inputs.

        Args:
            inputs: the explained inputs, drawn below or beside the attribution; None draws the attribution alone.
            options: of `xaikit.report.figures.plot`.

        Returns:
            A figure of matplotlib.
        """
        return upward.load("figures").plot(self, inputs, **options)

    def _repr_html_(self) -> str | None:
        """What a notebook shows: the figure of the attribution; None if no kind of figure fits its shape."""
        try:
            figure = self.plot()
        except XaikitError:
            return None
        picture = upward.load("pictures").drawing(figure)
        size = f'width="{round(96 * figure.get_figwidth())}" style="max-width: 100%"'
        return f'<img src="{picture}" {size} alt="attribution by {html.escape(str(self.spec.get("name")))}">'


# Measured: by every rule of LRP and by contextual decomposition the nets of tests/zoo stay below 1,000 times the score
# (resnext50 by AttnLRP, 890). Nets whose denominators nearly vanish reach 1e9 to 1e13. In float32 a sum of parts that
# are 1e7 times as large as itself is rounding.
FAR_ABOVE = 1e6
SMALL_SCORE = 1e-3  # the parts of a score near 0 (a difference of two equal pictures) cancel, and may well be large


@dataclasses.dataclass(frozen=True)
class Explained:
    """What an explainer measures inside its call for `Explainer.explain`.

    Attributes:
        values: the attribution, one tensor per explained input.
        scores: the explained score of each sample, (N,).
        gap: how far the attribution's sum is from the promised total, (N,); None where nothing is promised.
        promised: the promised total of each sample, (N,).
        absorbed: relevance that the method's rules keep back (biases, stabilizers), for `Attribution.absorbed`.
        lost: relevance that operations lose against their rules, for `Attribution.lost`.
    """

    values: tuple[Tensor, ...]
    scores: Tensor
    gap: Tensor | None = None
    promised: Tensor | None = None
    absorbed: float | None = None
    lost: dict[str, float] | None = None

    @property
    def is_far_above_scores(self) -> bool:
        """Whether parts that should add up to a score cancel so nearly that rounding decides what is left."""
        return self.promised is not None and self.size > FAR_ABOVE * max(SMALL_SCORE, float(self.scores.abs().max()))

    @property
    def size(self) -> float:
        """The largest sum of absolute values of a sample."""
        return float(
            torch.stack([v.detach().abs().reshape(len(v), -1).double().sum(1) for v in self.values]).sum(0).max()
        )

    def warn(self, name: str, tolerance: float | None, growth: str, *, remedy: str, stacklevel: int) -> None:
        """Warn where the attribution misses what the method promises, or is far larger than the scores.

        Args:
            name: of the explainer.
            tolerance: the share of the promised total above which its absence is told; None tells none.
            growth: where the attribution grows, and what helps; empty where nobody knows.
            remedy: of a missing part; empty where the method has none.
            stacklevel: of the warning, seen from the caller.
        """
        share = self.missing_share
        if share is not None and tolerance is not None and share > tolerance:
            warnings.warn(
                f"{name}: the attribution misses the explained score by {percent(share)}, "
                f"more than the tolerance of {percent(tolerance, 0)}{remedy and '; '}{remedy}",
                stacklevel=stacklevel + 1,
            )
        if self.is_far_above_scores:
            warnings.warn(
                f"{name}: the attribution adds up to {self.size:.1g} in absolute value, for scores up to "
                f"{float(self.scores.abs().max()):.1g}, so it says little.{growth}",
                stacklevel=stacklevel + 1,
            )

    @property
    def missing_share(self) -> float | None:
        """The largest gap as a share of the largest promised total of the batch."""
        if self.gap is None or self.promised is None:
            return None
        return float(self.gap.max() / self.promised.abs().max().clamp_min(torch.finfo(self.gap.dtype).tiny))


def _shapes(values: Any) -> str:
    if isinstance(values, Mapping):
        return ", ".join(f"{name} {tuple(value.shape)}" for name, value in values.items())
    return " and ".join(str(tuple(value.shape)) for value in flatten(values, "values")[0])
