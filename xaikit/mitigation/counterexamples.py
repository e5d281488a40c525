"""Counterexamples: samples whose masked region is replaced in every batch, so it says nothing about the label."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from xaikit.core import MITIGATORS, Float
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.mask_shapes import fit_masks
from xaikit.core.masks import leaves_of
from xaikit.core.structure import flatten
from xaikit.factors.exchange import exchanged, is_text
from xaikit.mitigation.changed import ChangedMitigator

FILLS = ("permute", "uniform", "noise", "colour")


def _fill(value: Any, where: str) -> Any:
    if callable(value) or value in FILLS:
        return value
    if isinstance(value, str):
        raise InvalidInputError(f"{where} must be one of {', '.join(map(repr, FILLS))} or a function, got {value!r}")
    raise InvalidTypeError(f"{where} must be one of {', '.join(map(repr, FILLS))} or a function, got {value!r}")


@MITIGATORS.register("counterexamples")
class Counterexamples(ChangedMitigator):
    """Mean cross-entropy + lambda_ce * mean cross-entropy of the samples with their masked region replaced.

    From "Explanatory interactive machine learning" (Teso and Kersting 2019, AIES). It needs no explanation and one more
    pass. Compare other mitigators with it wherever a region can be replaced. What the region is replaced by:

    * ``fill="permute"``: the same region of another sample of the batch, drawn at random; for tokens, those that
      another text has in its own mask, wherever they stand;
    * ``fill="uniform"``: uniform noise over the batch's range in each channel;
    * ``fill="noise"``: normal noise with the batch's mean and standard deviation in each channel;
    * ``fill="colour"``: one value for each sample and channel, uniform over the batch's range;
    * a function ``(x, mask, generator) -> tensor like x``, such as one that paints the object in another colour.

    >>> import torch
    >>> x, y, mask = torch.rand(8, 4), torch.tensor([0, 1] * 4), torch.tensor([1.0, 0, 0, 0])
    >>> history = Counterexamples(lr=0.1, random_state=0).fit(torch.nn.Linear(4, 2), x, y, mask, progress=False)
    >>> history["penalty"][-1] < history["penalty"][0]
    True
    """

    WEIGHT: ClassVar[str] = "lambda_ce"
    EMPTY_MASK_WARNING: ClassVar[str | None] = "no sample is changed"

    lambda_ce: Annotated[float, Float(low=1e-2, high=1e2, log=True, ge=0), "weight of the counterexamples"] = 1.0
    fill: Annotated[Any, _fill, "what stands in the region: 'permute', 'uniform', 'noise', 'colour', a function"] = (
        "permute"
    )

    def _full_mask_warning(self) -> str | None:
        return "the counterexamples hold nothing of the samples: mask what must not matter"

    def _changed_logits(self, model: nn.Module, x: Any, masks: Any, seed: int) -> Tensor:
        tensors, rebuild = flatten(x)
        # One mask beside several inputs, such as a text's ids, attention mask and types, is over the first of them.
        count = 1 if len(leaves_of(masks)) == 1 else len(tensors)
        # Masks are of floating-point tensors; tokens have positions like them.
        forms = tuple(t if t.is_floating_point() else t.float() for t in tensors[:count])
        generator = torch.Generator().manual_seed(seed)
        fitted = fit_masks(masks, forms, what=self.MASK_NAME)
        changed = [self._changed(t, m, generator) for t, m in zip(tensors[:count], fitted, strict=True)]
        return self._logits(model, rebuild((*changed, *tensors[count:])))

    def _changed(self, x: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
        if not x.is_floating_point() and self.fill != "permute" and not callable(self.fill):
            raise InvalidInputError(
                f"fill={self.fill!r} makes no tokens of {x.dtype}; use fill='permute' or a function"
            )
        fill = self.fill if callable(self.fill) else _MAKERS[self.fill]
        filled = fill(x, mask, generator)
        if not isinstance(filled, Tensor) or filled.shape != x.shape:
            got = tuple(filled.shape) if isinstance(filled, Tensor) else type(filled).__name__
            raise InvalidInputError(f"a fill function must return a tensor of shape {tuple(x.shape)}, got {got}")
        return x + mask * (filled - x) if x.is_floating_point() else torch.where(mask > 0.5, filled, x)


def _permute(x: Tensor, mask: Tensor, generator: torch.Generator) -> Tensor:
    if not is_text(x):
        return x[torch.randperm(len(x), generator=generator).to(x.device)]
    donors = (mask > 0.5).any(1).nonzero()[:, 0]  # a text without a masked token has none to lend
    other = torch.arange(len(x), device=x.device)
    other[donors] = donors[torch.randperm(len(donors), generator=generator).to(x.device)]
    return exchanged(x, mask, x[other], mask[other])


def _uniform(x: Tensor, _mask: Tensor, generator: torch.Generator) -> Tensor:
    low, high = _range(x)
    return low + (high - low) * torch.rand(x.shape, generator=generator).to(x)


def _noise(x: Tensor, _mask: Tensor, generator: torch.Generator) -> Tensor:
    axes = _within_channel(x)
    normal = torch.randn(x.shape, generator=generator).to(x)
    return x.mean(axes, keepdim=True) + x.std(axes, correction=0, keepdim=True) * normal


def _colour(x: Tensor, _mask: Tensor, generator: torch.Generator) -> Tensor:
    low, high = _range(x)
    shape = (*x.shape[:2], *[1] * (x.ndim - 2))
    return (low + (high - low) * torch.rand(shape, generator=generator).to(x)).expand_as(x)


def _within_channel(x: Tensor) -> tuple[int, ...]:
    return (0, *range(2, x.ndim))


def _range(x: Tensor) -> tuple[Tensor, Tensor]:
    axes = _within_channel(x)
    return x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)


_MAKERS: dict[str, Callable[[Tensor, Tensor, torch.Generator], Tensor]] = {
    "permute": _permute,
    "uniform": _uniform,
    "noise": _noise,
    "colour": _colour,
}
