"""What `mend` chooses by: accuracy on held-out samples with the shortcut kept, and with that of another class."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core.batch import ROWS, Batch
from xaikit.core.structure import flatten
from xaikit.mitigation.clarc import _moved
from xaikit.mitigation.forward import class_logits, evaluating
from xaikit.mitigation.mend_data import CONCEPT, GROUPS, MendData
from xaikit.mitigation.mend_groups import highest_mean, worst_mean
from xaikit.mitigation.pairing import donors_of, donors_within, lenders
from xaikit.mitigation.reliance import by_class, followed

DRAWS = 2  # donors that each held-out sample gets in turn
KEPT, EXCHANGED = "kept", "exchanged"


class Measured(NamedTuple):
    """Of one model, all as fractions.

    Attributes:
        accuracy_kept: with the shortcut as it is.
        accuracy_exchanged: with that of a sample of another class.
        changed: predictions that change by this.
        largest: share of the predictions with the shortcut exchanged that are one and the same class.
        changed_within: predictions that change with the shortcut of another sample of the same class: what a shortcut
            that tells the class cannot change.
        worst_group: accuracy in the worst group, with the shortcut exchanged where there is one; NaN without groups.
        n_outputs: not a fraction, but how many classes the model tells apart.
        reliance_by_class: `changed` less `changed_within`, the mean over the classes: a rare one counts as much.
        follows: predictions that change by the exchange with a sample of another predicted class, less those that
            change by the exchange with one of the same; 0 where that may be chance.
    """

    accuracy_kept: float
    accuracy_exchanged: float
    changed: float
    largest: float
    changed_within: float
    worst_group: float = math.nan
    n_outputs: int = 2
    reliance_by_class: float = 0.0
    follows: float = 0.0


class Judge:
    """The held-out samples, as they are and with their shortcut exchanged.

    Args:
        data: of `mend`.
        head: which output holds the logits.
        seed: of the donors.
    """

    def __init__(self, data: MendData, head: str | int, seed: int) -> None:
        self._data, self._head, self._groups = data, head, data.held_groups
        batch = data.held_out
        self._samples = batch
        self._variants: list[Any] = []
        if data.shortcut.kind not in (CONCEPT, GROUPS):
            generator = torch.Generator().manual_seed(seed)
            lends = lenders(batch.labels, data.shown(batch))
            self._donors = [donors_of(batch.labels, generator, lends) for _ in range(DRAWS)]
            self._variants = [data.exchanged(batch, donors) for donors in self._donors]
            self._donors.append(donors_within(batch.labels, generator, lends))
            self._within = data.exchanged(batch, self._donors[-1])

    @functools.cached_property
    def validation(self) -> tuple[tuple[Any, Tensor], list[str]]:
        """What early stopping looks at: all samples, kept and exchanged, and to which of these each belongs."""
        n, parts = self._samples.size, [self._samples.inputs, *self._variants]
        tensors = [flatten(part)[0] for part in parts]
        inputs = flatten(parts[0])[1](tuple(torch.cat(column) for column in zip(*tensors, strict=True)))
        suffixes = [""] * n if self._groups is None else [f" {name}" for name in self._groups]
        groups = [KEPT + name for name in suffixes] + [EXCHANGED + name for name in suffixes] * len(self._variants)
        return (inputs, self._samples.labels.repeat(len(parts))), groups

    def measure(self, model: nn.Module) -> Measured:
        """What becomes of the predictions of a model.

        Args:
            model: in any mode.
        """
        labels = self._samples.labels
        logits = self._logits(model, self._samples.inputs)
        as_is = logits.argmax(1)
        if self._data.shortcut.kind == CONCEPT:
            concept = self._data.shortcut.concept
            assert concept is not None
            others = []
            for to in (concept.present, concept.absent):
                with _moved(model, concept, to):
                    others.append(self._predicted(model, self._samples.inputs))
        else:
            others = [self._predicted(model, variant) for variant in self._variants] or [as_is]
        accuracies = [float((other == labels).double().mean()) for other in others]
        # For a concept the worse one of adding and removing counts; for donors that are drawn, their mean.
        is_concept = self._data.shortcut.kind == CONCEPT
        exchanged = min(accuracies) if is_concept else sum(accuracies) / len(accuracies)
        largest = float(torch.bincount(torch.cat(others)).max()) / (len(labels) * len(others))
        moved = torch.stack([other != as_is for other in others]).double()
        same, follows = torch.zeros(len(labels), device="cpu"), 0.0
        if self._variants:
            same = (self._predicted(model, self._within) != as_is).double()
            differs = torch.stack([as_is[donors] != as_is for donors in self._donors])
            interval = followed(torch.cat([moved, same[None]]), differs)
            follows = 0.0 if interval is None or interval.low <= 0 else interval.mean
        changed = float(moved.mean(1).max() if is_concept else moved.mean())
        beyond = max(by_class(part - same, labels) for part in (moved if is_concept else moved.mean(0, keepdim=True)))
        right = torch.stack([other == labels for other in others]).double().mean(0)
        worst = math.nan if self._groups is None else worst_mean(right, self._groups)
        accuracy, within = float((as_is == labels).double().mean()), float(same.double().mean())
        return Measured(accuracy, exchanged, changed, largest, within, worst, logits.shape[1], beyond, follows)

    def worst_loss(self, model: nn.Module) -> float:
        """The mean cross-entropy of the kept or of the exchanged samples, whichever is higher; of the worst group.

        Args:
            model: in any mode.
        """
        parts = [self._samples.inputs, *self._variants]
        losses = []
        for part in parts:
            values = F.cross_entropy(self._logits(model, part), self._samples.labels, reduction="none")
            losses.append(float(values.mean()) if self._groups is None else highest_mean(values, self._groups))
        return max(losses[0], sum(losses[1:]) / max(1, len(losses) - 1))

    @functools.cached_property
    def guessing(self) -> float:
        """The mean cross-entropy of always guessing by how frequent the classes are."""
        shares = torch.bincount(self._samples.labels).double() / len(self._samples.labels)
        return float(torch.special.entr(shares).sum())

    def _predicted(self, model: nn.Module, inputs: Any) -> Tensor:
        """The predicted classes, (N,)."""
        return self._logits(model, inputs).argmax(1)

    def _logits(self, model: nn.Module, inputs: Any) -> Tensor:
        """Those of the held-out samples, in single precision on the CPU, (N, classes)."""
        batch, parts = Batch(inputs, self._samples.labels), []
        with evaluating(model) as device:
            for rows in torch.arange(batch.size, device="cpu").split(ROWS):
                parts.append(class_logits(model, batch.take(rows).to(device).inputs, self._head).float().cpu())
        return torch.cat(parts)
