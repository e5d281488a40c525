"""How much a model relies on a shortcut: what its exchange changes, beyond what an exchange within a class does."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from xaikit.core.intervals import difference_interval, paired_interval
from xaikit.core.percentages import percent
from xaikit.core.results import Interval
from xaikit.mitigation.decoys import Exchange

RELIES = 0.1  # if the shortcut changes more than this share of the predictions, the model relies on it
LEVEL = 0.95  # of the interval


class RelianceTally:
    """The predictions that change by the exchange with samples of another class, and of the same class."""

    def __init__(self) -> None:
        self._changed: dict[Exchange, list[Tensor]] = {}

    def count(self, name: Exchange, changed: Tensor) -> None:
        """Add a batch.

        Args:
            name: of the variant.
            changed: whether each prediction is another one, bool (N,).
        """
        self._changed.setdefault(name, []).append(changed.cpu())

    def follows(self, donor_predictions: Mapping[Exchange, list[Tensor]], predicted: Tensor) -> Interval | None:
        """What `followed` gives for these exchanges; None where nothing was exchanged.

        Args:
            donor_predictions: the classes that the model predicts of the donors, batch by batch.
            predicted: those of the samples, (N,).
        """
        if not self._changed:
            return None
        changed = torch.stack([torch.cat(self._changed[name]) for name in donor_predictions])
        differs = torch.stack([torch.cat(parts) for parts in donor_predictions.values()]) != predicted
        return followed(changed, differs)

    def interval(self, donor_labels: Mapping[int, list[Tensor]], own_labels: Tensor) -> Interval | None:
        """The difference of both shares, with its interval; None where nothing was exchanged.

        It is taken over all samples, over those whose donor is of one class, for what only one class shows, and over
        those of one class themselves, which may be rare; these intervals allow for the choice among them. The one that
        says most of a reliance is returned.

        Args:
            donor_labels: by draw, the classes of the donors of another class, batch by batch.
            own_labels: the samples' own classes, (N,).
        """
        if not self._changed:
            return None
        parts = {name: torch.cat(changes).double() for name, changes in self._changed.items()}
        draws = sorted(donor_labels)
        other, same = (torch.stack([parts[Exchange(draw, kind)] for draw in draws]) for kind in (False, True))
        labels = torch.stack([torch.cat(donor_labels[draw]) for draw in draws])
        intervals = [paired_interval(other.mean(0), same.mean(0), LEVEL)]
        classes, receiving = labels.unique().tolist(), own_labels.unique().tolist()
        level = 1 - (1 - LEVEL) / (len(classes) + len(receiving))
        intervals += [paired_interval(other[labels == c], same[labels == c], level) for c in classes]
        of_class = [(other[:, own_labels == c].mean(0), same[:, own_labels == c].mean(0)) for c in receiving]
        intervals += [paired_interval(*both, level) for both in of_class]
        return max(intervals, key=lambda interval: (is_reliance(interval), interval.low))


def followed(changed: Tensor, differs: Tensor) -> Interval | None:
    """How much more predictions change by the exchange with a sample of another predicted class than of the same one.

    What a model goes by changes its predictions so, also where it tells nothing of the label in these samples. None
    where there are no donors of the one or of the other.

    Args:
        changed: whether the prediction changes, by draw, (draws, N).
        differs: whether the model predicts another class of the donor than of the sample, bool (draws, N).
    """
    other, same = (_share_by_sample(changed, pairs) for pairs in (differs, ~differs))
    return difference_interval(other, same, LEVEL) if len(other) and len(same) else None


def _share_by_sample(changed: Tensor, pairs: Tensor) -> Tensor:
    """For each sample that has some of these pairs, the share of them that changes its prediction."""
    number = pairs.sum(0)
    return ((changed.double() * pairs).sum(0) / number.clamp_min(1))[number > 0]


def by_class(values: Tensor, labels: Tensor) -> float:
    """The mean of values over the samples of each class, averaged over the classes: a rare one counts as much.

    Args:
        values: (N,).
        labels: classes, (N,).
    """
    means = [values[labels == label].double().mean() for label in labels.unique()]
    return float(torch.stack(means).mean())


def doubt_of_few(samples: int) -> str:
    """What a verdict adds where samples are too few to see that a tenth of the predictions change.

    Of n samples of which none changes, up to 3 / n may (the rule of three, at 95 %).

    Args:
        samples: that were judged.
    """
    if samples * RELIES >= 3:
        return ""
    return f"; {samples} samples are few: where none changes, up to {percent(min(1.0, 3 / samples))} of all may"


def is_reliance(interval: Interval) -> bool:
    """Whether more than a tenth of the predictions change by the shortcut, and more than by chance.

    Args:
        interval: of `RelianceTally`.
    """
    return interval.mean > RELIES and interval.low > 0
