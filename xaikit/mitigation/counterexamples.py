"""Counterexamples: samples whose masked region is replaced in every batch, so it says nothing about the label."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from xaikit.core import MITIGATORS, Float
from xaikit.core.errors import InvalidInputError
from xaikit.core.mask_shapes import fit_masks
from xaikit.core.masks import place_of_mask
from xaikit.core.structure import flatten
from xaikit.factors import Factor
from xaikit.factors.facts import known_facts, read_facts
from xaikit.mitigation.changed import ChangedMitigator
from xaikit.mitigation.fills import MAKERS, balanced_donors, check_facts, check_fill, with_arguments


@MITIGATORS.register("counterexamples")
class Counterexamples(ChangedMitigator):
    """Mean cross-entropy + lambda_ce * mean cross-entropy of the samples with their masked region replaced.

    From "Explanatory interactive machine learning" (Teso and Kersting 2019, AIES). It needs no explanation and one more
    pass. Compare other mitigators with it wherever a region can be replaced. What the region is replaced by:

    * ``fill="permute"``: the same region of another sample of the batch, drawn at random so that every class of the
      batch lends equally often; for tokens, those that another text has in its own mask, wherever they stand;
    * ``fill="uniform"``: uniform noise over the batch's range in each channel;
    * ``fill="noise"``: normal noise with the batch's mean and standard deviation in each channel;
    * ``fill="colour"``: one value for each sample and channel, uniform over the batch's range;
    * a factor, such as ``fill="hue"`` or ``fill="words:names=[text,video]"``, is exchanged with another sample of the
      batch, drawn likewise; no mask is needed then. `facts` says what a factor must know beside the batch;
    * a function ``(x, mask, generator) -> tensor like x``, such as one that paints the object in another colour. One
      that names ``model`` or ``labels`` among its arguments gets these too; one without masks gets a mask of ones.

    >>> import torch
    >>> x, y, mask = torch.rand(8, 4), torch.tensor([0, 1] * 4), torch.tensor([1.0, 0, 0, 0])
    >>> history = Counterexamples(lr=0.1, random_state=0).fit(torch.nn.Linear(4, 2), x, y, mask, progress=False)
    >>> history["penalty"][-1] < history["penalty"][0]
    True
    """

    WEIGHT: ClassVar[str] = "lambda_ce"
    EMPTY_MASK_WARNING: ClassVar[str | None] = "no sample is changed"

    lambda_ce: Annotated[float, Float(low=1e-2, high=1e2, log=True, ge=0), "weight of the counterexamples"] = 1.0
    fill: Annotated[
        Any, check_fill, "what is drawn anew: 'permute', 'uniform', 'noise', 'colour', a factor, a function"
    ] = "permute"
    facts: Annotated[Any, check_facts, "of the data, for a factor: {'vocabulary': tokenizer}, {'channel_axis': 3}"] = (
        None
    )

    @property
    def needs_mask(self) -> bool:
        """Whether only masks say what is drawn anew."""
        return isinstance(self.fill, str) or (isinstance(self.fill, Factor) and self.fill.needs_masks)

    @property
    def exchanges_within_batch(self) -> bool:
        """Whether a sample gets the shortcut of another sample of its batch: with "permute", and with a factor."""
        return self.fill == "permute" or isinstance(self.fill, Factor)

    def _full_mask_warning(self) -> str | None:
        return "the counterexamples hold nothing of the samples: mask what must not matter" if self.needs_mask else None

    def _changed_logits(self, model: nn.Module, x: Any, y: Tensor, masks: Any, seed: int) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        if isinstance(self.fill, Factor):
            return self._logits(model, self._exchanged(model, x, y, masks, generator))
        tensors, rebuild = flatten(x)
        # One mask beside several inputs, such as a text's ids, attention mask and types, is over one of them.
        place = place_of_mask(masks, x)
        changed = list(tensors)
        inside = range(len(tensors)) if place is None else (place,)
        # Masks are of floating-point tensors; tokens have positions like them.
        forms = tuple(tensors[i] if tensors[i].is_floating_point() else tensors[i].float() for i in inside)
        for i, mask in zip(inside, fit_masks(masks, forms, what=self.MASK_NAME), strict=True):
            changed[i] = self._filled(tensors[i], mask, generator, {"model": model, "labels": y.clone()})
        return self._logits(model, rebuild(tuple(changed)))

    def _exchanged(self, model: nn.Module, x: Any, y: Tensor, masks: Any, generator: torch.Generator) -> Any:
        """The samples with their factor taken from others of the batch."""
        tensors, rebuild, factor = *flatten(x), self.fill
        order = balanced_donors(y, tensors[0].device, generator)
        donors = rebuild(tuple(t[order.to(t.device)] for t in tensors))
        place = 0 if factor.needs_masks else factor.place(tensors, None)
        if factor.needs_masks and place_of_mask(masks, x) != place:
            raise InvalidInputError(f"{factor.title} is exchanged in the first input, and the masks are over others")
        facts = read_facts(known_facts(self.facts, x, model), tensors[place])
        if masks is None or not factor.needs_masks:
            return factor.exchange(x, donors, facts=facts)
        form = tensors[place] if tensors[place].is_floating_point() else tensors[place].float()
        (inside,) = fit_masks(masks, (form,), what=self.MASK_NAME)
        other = inside[order.to(inside.device)]
        return factor.exchange(x, donors, masks=inside, donor_masks=other, facts=facts)

    def _filled(self, x: Tensor, mask: Tensor, generator: torch.Generator, offered: dict[str, Any]) -> Tensor:
        if not x.is_floating_point() and self.fill != "permute" and not callable(self.fill):
            raise InvalidInputError(
                f"fill={self.fill!r} makes no tokens of {x.dtype}; use fill='permute', a factor of words or a function"
            )
        fill = with_arguments(MAKERS[self.fill] if isinstance(self.fill, str) else self.fill, **offered)
        filled = fill(x.clone(), mask.clone(), generator)  # a function may write into it
        if not isinstance(filled, Tensor) or filled.shape != x.shape:
            got = tuple(filled.shape) if isinstance(filled, Tensor) else type(filled).__name__
            raise InvalidInputError(f"a fill function must return a tensor of shape {tuple(x.shape)}, got {got}")
        return x + mask * (filled - x) if x.is_floating_point() else torch.where(mask > 0.5, filled, x)
