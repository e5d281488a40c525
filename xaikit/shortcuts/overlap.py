"""Overlap: the share of an explanation in a region, with a test whether the share is larger than by chance."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.mask_shapes import fit_masks
from xaikit.core.masks import marked, read_masks
from xaikit.core.pandas_import import import_pandas
from xaikit.core.params import Int
from xaikit.core.results import Result
from xaikit.shortcuts.maps import distributions, relevance_maps


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Overlap(Result):
    """How much relevance lies in a region, as `mask_overlap` measures it.

    Attributes:
        share: of each sample's relevance that lies in the mask, (N,), from 0 to 1.
        expected: the same averaged over all placements of the mask, (N,).
        p_values: of each sample, (N,).
        p_value: of the mean share over the samples.
        seed: of the permutations; None where all shifts were tried, which draws nothing.
    """

    share: Tensor
    expected: Tensor
    p_values: Tensor
    p_value: float
    seed: int | None = None

    def to_pandas(self) -> Any:
        """A table with one row for each sample: share, expected, p_value.

        Raises:
            MissingDependencyError: without pandas.
        """
        columns = {"share": self.share, "expected": self.expected, "p_value": self.p_values}
        return import_pandas().DataFrame({name: values.tolist() for name, values in columns.items()})

    def __repr__(self) -> str:
        return (
            f"Overlap(share {float(self.share.mean()):.3f}, expected {float(self.expected.mean()):.3f}, "
            f"p = {self.p_value:.2g}, {len(self.share)} samples)"
        )


def mask_overlap(
    attributions: Any,
    masks: Any,
    *,
    sign: str = "absolute",
    null: str = "shift",
    n_permutations: int = 999,
    seed: int = 0,
) -> Overlap:
    """The share of each explanation inside a region, with a permutation test against the region elsewhere.

    share = sum(mask * r) / sum(r), with r the relevance at each position (channels added). The relevance of a sample
    without any counts as uniform.

    The null hypothesis is that the explanation does not depend on where the region lies. The p value is the share of
    all placements of the mask, the true one included, whose overlap is at least the observed one:

    * ``null="shift"``: the mask is moved over the map by every offset, borders wrapping round, so that its shape and
      the map's smoothness stay as they are. All offsets are evaluated, so the test is exact and draws nothing; its
      smallest p is one over the number of positions.
    * ``null="positions"``: positions are permuted at random, `n_permutations` times. Use it for tables, whose columns
      have no neighbours. Relevance of images is smooth, so their p values would be too small.

    In the test of the mean over samples, all masks move together. So relevance that all samples have in the same place,
    such as the middle of the image, does not make the p value small.

    Args:
        attributions: of any explainer, (N, C, ...) or (N, F), or an `Attribution`.
        masks: 1 inside the region: one map (...) for all samples, or one for each (N, ...).
        sign: "absolute" relevance, or only the "positive" part.
        null: what is permuted.
        n_permutations: for "positions".
        seed: for "positions".

    Returns:
        The share, the expected share and the p value of each sample, and the p value of the mean share.

    Raises:
        InvalidInputError: for no masks, for masks that do not fit, are empty or cover everything; no relevance at all.

    >>> import torch
    >>> corner = torch.zeros(8, 8)
    >>> corner[:2, :2] = 1
    >>> found = mask_overlap(torch.rand(20, 1, 8, 8) + 9 * corner, corner)
    >>> bool(found.share.mean() > 0.4), found.p_value == 1 / 64
    (True, True)
    """
    seed = Int(ge=0).check(seed, "seed")
    maps = distributions(relevance_maps(attributions, sign=sign))
    mask = _fit(masks, maps)
    if null == "shift":
        placed = _all_shifts(maps, mask)
    elif null == "positions":
        placed = _permuted(maps, mask, Int(ge=1).check(n_permutations, "n_permutations"), seed)
    else:
        raise InvalidInputError(f"null must be 'shift' or 'positions', got {null!r}")
    # Placements that give the observed share must count although they round differently.
    slack = 1e-9
    share = placed[:, 0]
    mean = placed.mean(0)
    return Overlap(
        share=share,
        expected=placed.mean(1),
        p_values=(placed >= share[:, None] - slack).double().mean(1),
        p_value=float((mean >= mean[0] - slack).double().mean()),
        seed=seed if null == "positions" else None,
    )


def _fit(masks: Any, maps: Tensor) -> Tensor:
    """Masks (N or 1, ...) of the maps' shape."""
    if masks is None:
        raise InvalidInputError("mask_overlap must be told which region: pass masks, 1 inside and 0 outside, got None")
    samples = maps.unsqueeze(1) if maps.ndim > 2 else maps
    aligned = read_masks(masks, samples)
    (fitted,) = fit_masks(aligned, (samples,))
    mask = fitted[:, 0] if maps.ndim > 2 else fitted
    mask = mask[:1] if marked(aligned) is not aligned else mask
    covered = mask.flatten(1).mean(1)
    for bad, problem in ((covered == 0, "is zero everywhere"), (covered == 1, "covers everything")):
        if bool(bad.any()):
            which = "the mask" if len(mask) == 1 else f"the mask of sample {int(bad.nonzero()[0])}"
            raise InvalidInputError(f"{which} {problem}, so there is no region to compare with the rest")
    return mask


def _all_shifts(maps: Tensor, mask: Tensor) -> Tensor:
    """The share inside the mask moved by every offset, (N, offsets); offset 0 stands first."""
    axes = tuple(range(1, maps.ndim))
    spectrum = torch.fft.rfftn(maps, dim=axes) * torch.fft.rfftn(mask, dim=axes).conj()
    return torch.fft.irfftn(spectrum, s=maps.shape[1:], dim=axes).flatten(1)


def _permuted(maps: Tensor, mask: Tensor, n: int, seed: int) -> Tensor:
    """The share inside the mask, first as it is, then with the positions of all maps permuted alike."""
    generator = torch.Generator().manual_seed(seed)
    flat, mask = maps.flatten(1), mask.flatten(1).expand(len(maps), -1)
    orders = [torch.arange(flat.shape[1], device="cpu")]
    orders += [torch.randperm(flat.shape[1], generator=generator, device="cpu") for _ in range(n)]
    return torch.stack([(flat[:, order] * mask).sum(1) for order in orders], 1)
