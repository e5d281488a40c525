"""assess: accuracy with the shortcut kept, randomised, flipped and removed, and the relevance in its mask."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.core import EXPLAINERS, Explainer, Int
from xaikit.core.batch import Batch, count_batches
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.mask_shapes import fit_masks
from xaikit.core.masks import place_of_mask
from xaikit.core.renames import renamed_arguments
from xaikit.core.structure import Tensors, by_row, flatten
from xaikit.factors import Factor, MaskedRegion, read_factor
from xaikit.factors.facts import known_facts
from xaikit.mitigation.assessment import Assessment
from xaikit.mitigation.decoys import FLIPPED, KEPT, REMOVED, Decoy, Exchange, Exchanges, Flip, Variant, decoys
from xaikit.mitigation.evaluation import (
    by_group,
    check_all_used,
    check_read_twice,
    class_batches,
    group_names,
)
from xaikit.mitigation.forward import check_rows, class_logits, evaluating, is_single, logits_of
from xaikit.mitigation.groups import refuse_loader_order
from xaikit.mitigation.penalties import check_labels
from xaikit.mitigation.reliance import RelianceTally, by_class


@renamed_arguments(masks="shortcut_masks")
def assess(  # noqa: PLR0913
    model: nn.Module,
    data: Any,
    *,
    groups: Any = None,
    shortcut_masks: Any = None,
    factor: Any = None,
    facts: Any = None,
    decoy: Decoy | Mapping[str, Decoy] | None = None,
    explainers: Sequence[Any] | Mapping[str, Any] = ("gradient",),
    head: str | int = "logits",
    seed: int = 0,
    progress: bool = True,
) -> Assessment:
    """Accuracy of a model, and how much of it depends on a shortcut.

    `decoy` makes the variants of the shortcut. If only masks are given, the masked region is the shortcut:
    "randomised" takes the region from a random other sample, "removed" fills it with 0. For "flipped", all samples get
    the region of one sample of another class. This is done with up to 4 samples of each class, 40 in all, and the one
    with the lowest accuracy on the samples of other classes is shown; samples of its own class get the worst one of the
    others. A region that lies elsewhere is moved to where the sample's own mask is. The donors, at most 512 (or one for
    each class), are the first samples of each class in the data. The data are read a second time for them.

    Each sample is also paired twice with a donor of another class and one of its own class. What the first changes
    beyond the second is the `reliance`: a model relies on the shortcut if more than a tenth of its predictions change
    so. With a decoy there are no donors, and all that change count.

    Args:
        model: returns logits (N, C), or holds them under `head`.
        data: test samples: (x, y) or (x, y, masks) as tensors, arrays or lists, a loader or another iterable of such
            batches, or a data set, in an order that stays.
        groups: (N,) names or numbers, or a function (x, y) -> (N,); None takes the classes.
        shortcut_masks: where the shortcut lies, one for each sample or one for all, in the forms that `Mitigator.fit`
            takes; in place of those in the data.
        factor: the shortcut, in place of masks: a factor that is exchanged with the donors, such as "hue",
            "words:names=[text,video]" or an object.
        facts: what a factor must know beside the samples, such as ``{"vocabulary": tokenizer}``; see `DataFacts`.
        decoy: a function (x, classes) that returns x with the shortcut of these classes (N,), or without a shortcut
            if `classes` is None; or a dict of functions (x, y) by the name of their variant.
        explainers: explainers whose relevance in the mask is measured: names, spec strings or objects in a list, or in
            a dict by a name for each. They explain the label's score.
        head: which output holds the logits.
        seed: of all random numbers.
        progress: show a progress bar.

    Returns:
        Accuracies in all variants of the shortcut, shares of changed predictions, and relevance in the mask.

    Raises:
        InvalidInputError, InvalidTypeError: for data, groups, masks or a decoy that cannot be right.

    >>> model = nn.Linear(2, 2)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[2.0, 1.0], [-2.0, -1.0]]), "bias": torch.zeros(2)})
    >>> x, y = torch.tensor([[1.0, 0.5], [1.0, -0.5], [-1.0, 0.5], [-1.0, -0.5]]), torch.tensor([0, 0, 1, 1])
    >>> assess(model, (x, y), shortcut_masks=torch.tensor([1.0, 0.0]), progress=False)
    Assessment of 4 samples
    still relies on it: 100.0 % of predictions change when it is exchanged; accuracy on exchanged data 0.0 %
    shortcut    accuracy  worst group  changed
    kept         100.0 %  100.0 % (0)
    randomised    50.0 %   50.0 % (0)   50.0 %
    flipped        0.0 %    0.0 % (0)  100.0 %
    removed       50.0 %   50.0 % (0)   50.0 %
    relevance in the mask, 50.0 % of the features: gradient 66.7 %
    """
    seed = Int(ge=0).check(seed, "seed")
    refuse_loader_order(groups, data)
    if factor is not None:
        factor, shortcut_masks = _factor(factor, decoy, shortcut_masks)
    if decoy is None:
        check_read_twice(data, "assess")
    chosen = _by_name(explainers, model, head)
    tally, facts = _Tally(groups), known_facts(facts, data, model)
    maker, single = None, False

    def predict(batch: Batch) -> Tensor:
        with evaluating(model) as device:
            return class_logits(model, batch.to(device).inputs, head).argmax(1).cpu()

    with tqdm(total=count_batches(data), disable=not progress, unit="batch", desc="assess") as bar:
        for batch in class_batches(model, data, shortcut_masks):
            with evaluating(model) as device:
                moved = batch.to(device)
                x, y, mask = moved[:3]
                if maker is None:
                    logits, single = class_logits(model, x, head), is_single(logits_of(model, x, head))
                    check_rows(model, moved, logits, head)
                    check_labels(y, logits)
                    samples = partial(class_batches, model, data, shortcut_masks)
                    maker = decoys(decoy, logits.shape[1], seed, samples, factor, facts, predict=predict)
                tally.begin(x, y)
                for name, changed in maker.variants(x, y, mask):
                    tally.note_change(name, x, changed)
                    tally.count(name, class_logits(model, changed, head).argmax(1), y)
            tally.is_shown = tally.is_shown or mask is None or decoy is not None or factor is not None
            if mask is not None:
                tally.weigh(chosen, x, None if single else y, mask, seed)
            bar.update()
    return dataclasses.replace(tally.result(maker), seed=seed)


def _inside(mask: Any, attributed: Any, x: Any) -> Tensors:
    """The masks of what was explained; nothing is marked in an input that one mask is not over."""
    attributions, tensors = flatten(attributed, "attributions")[0], flatten(x)[0]
    place = place_of_mask(mask, x)
    if place is None or len(attributions) == 1 or len(attributions) != len(tensors):
        return fit_masks(mask, attributions, tensors, what="shortcut_masks")
    (fitted,) = fit_masks(mask, (attributions[place],), (tensors[place],), what="shortcut_masks")
    return tuple(fitted if i == place else torch.zeros_like(a) for i, a in enumerate(attributions))


class _Tally:
    """The counts of `assess`, batch by batch."""

    def __init__(self, groups: Any) -> None:
        self._groups = groups
        self.is_shown = False  # a factor or a decoy, or a masked region that is not the same in all samples
        self._names: list[Any] = []
        self._labels: list[Tensor] = []
        self._right: dict[Variant, list[Tensor]] = {}
        self._changed: dict[Variant, list[Tensor]] = {}
        self._reliance = RelianceTally()
        self._kept = torch.empty(0, device="cpu")
        self._predicted: list[Tensor] = []
        self._mass: dict[str, list[Tensor]] = {}
        self._area: list[Tensor] = []

    def begin(self, x: Any, y: Tensor) -> None:
        self._labels.append(y.cpu())
        self._names += group_names(self._groups, x, y, len(self._names))

    def note_change(self, name: Variant, x: Any, changed: Any) -> None:
        """Note whether an exchange makes a difference to some sample; one of equal things says nothing of the model."""
        if not self.is_shown and name not in (KEPT, REMOVED):
            pairs = zip(flatten(x)[0], flatten(changed)[0], strict=True)
            self.is_shown = any(not torch.equal(before, after) for before, after in pairs)

    def count(self, name: Variant, predicted: Tensor, y: Tensor) -> None:
        if isinstance(name, Exchange):
            self._reliance.count(name, predicted != self._kept)
            return
        if name == KEPT:
            self._kept = predicted
            self._predicted.append(predicted.cpu())
        else:
            self._changed.setdefault(name, []).append((predicted != self._kept).cpu())
        self._right.setdefault(name, []).append((predicted == y).cpu())

    def weigh(self, explainers: Mapping[str, Explainer], x: Any, y: Tensor | None, mask: Any, seed: int) -> None:
        """The share of each sample's relevance that lies in its mask."""
        for name, explainer in explainers.items():
            attributed = explainer.attribute(x, y, seed=seed)
            attributions = flatten(attributed, "attributions")[0]
            inside = _inside(mask, attributed, x)
            parts = [by_row(m * a.abs()).sum(1).cpu() for a, m in zip(attributions, inside, strict=True)]
            sums = [by_row(a.abs()).sum(1).cpu() for a in attributions]
            part, total = torch.stack(parts).sum(0).double(), torch.stack(sums).sum(0).double()
            has_mask = torch.stack([by_row(m != 0).any(1).cpu() for m in inside]).any(0)
            self._mass.setdefault(name, []).append((part / total.clamp_min(torch.finfo(total.dtype).tiny))[has_mask])
            if name == next(iter(explainers)):
                features = sum(m[0].numel() for m in inside)
                area = torch.stack([by_row(m).sum(1).cpu().double() for m in inside]).sum(0) / features
                self._area.append(area[has_mask])

    def result(self, maker: Any) -> Assessment:
        check_all_used(self._groups, len(self._names))
        right = {name: torch.cat(parts) for name, parts in self._right.items()}
        changed = {name: torch.cat(parts) for name, parts in self._changed.items()}
        uneven = [
            str(FLIPPED if isinstance(name, Flip) else name)
            for name, hits in right.items()
            if len(hits) != len(self._names)
        ]
        if uneven:
            raise InvalidInputError(
                f"some batches have a mask and others none, so that {', '.join(uneven)} is for a part"
            )
        labels = torch.cat(self._labels)
        accurate, moved = _worst_flip(right, changed, labels)
        if not self.is_shown:
            accurate, moved = {KEPT: accurate[KEPT]}, {}
        lends = self.is_shown and isinstance(maker, Exchanges)
        area = torch.cat(self._area) if self._area else torch.empty(0, device="cpu")
        masses = {name: torch.cat(parts) for name, parts in self._mass.items()}
        return Assessment(
            accuracy={name: _mean(hits) for name, hits in accurate.items()},
            groups={name: by_group(hits, self._names) for name, hits in accurate.items()},
            changed={name: _mean(parts) for name, parts in moved.items()},
            mass={name: _mean(values) for name, values in masses.items() if len(values)},
            area=_mean(area) if len(area) else None,
            samples=len(self._names),
            reliance=self._reliance.interval(maker.donor_labels, labels) if lends else None,
            follows=self._reliance.follows(maker.donor_predictions, torch.cat(self._predicted)) if lends else None,
            changed_by_class={name: by_class(parts, labels) for name, parts in moved.items()},
        )


def _worst_flip(
    right: dict[Variant, Tensor], changed: dict[Variant, Tensor], labels: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Both, with the worst of the tried regions under "flipped"; the other variants are unchanged."""
    flips = [name for name in right if isinstance(name, Flip) and bool((labels != name.label).any())]
    order = sorted(flips, key=lambda flip: _mean(right[flip][labels != flip.label]))
    second = next((flip for flip in order if flip.label != order[0].label), None)

    def with_worst(values: dict[Variant, Tensor]) -> dict[str, Tensor]:
        result: dict[str, Tensor] = {}
        for name, value in values.items():
            if isinstance(name, str):
                result[name] = value
            elif second is not None:
                result[FLIPPED] = torch.where(labels == order[0].label, values[second], values[order[0]])
        return result

    return with_worst(right), with_worst(changed)


def _factor(factor: Any, decoy: Any, masks: Any) -> tuple[Factor | None, Any]:
    """The factor, unless masks say it all; and the masks."""
    if isinstance(factor, (list, tuple)) and not factor:
        raise InvalidInputError("factor must name at least one factor, got an empty list")
    factor = read_factor(factor)
    if decoy is not None:
        raise InvalidTypeError("assess takes a factor or a decoy, got both")
    if factor.IS_FAMILY:
        raise InvalidInputError(f"the factor {factor.NAME!r} stands for several; name one of them, or scan all")
    if isinstance(factor, MaskedRegion):
        return None, masks if factor.mask is None else factor.mask
    return factor, masks


def _mean(values: Tensor) -> float:
    return values.double().mean().item()


def _by_name(explainers: Any, model: nn.Module, head: str | int) -> dict[str, Explainer]:
    """Explainers bound to the model, by a name each."""
    if isinstance(explainers, Mapping):
        return {name: EXPLAINERS.create(e).set_kwargs(model=model, head=head) for name, e in explainers.items()}
    by_name: dict[str, Explainer] = {}
    for item in (explainers,) if isinstance(explainers, (str, Explainer)) else explainers:
        explainer = EXPLAINERS.create(item)
        short = explainer.NAME or type(explainer).__name__
        name = short if short not in by_name else repr(explainer.set_kwargs(model=None))
        by_name[name] = explainer.set_kwargs(model=model, head=head)
    return by_name
