"""After a training with masks: whether the predictions still follow what must not matter."""

from __future__ import annotations

import contextlib
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from xaikit.core.batch import Batch
from xaikit.core.errors import XaikitError
from xaikit.core.percentages import percent
from xaikit.core.structure import by_row, flatten
from xaikit.factors import MaskedRegion
from xaikit.factors.exchange import mask_like
from xaikit.mitigation.forward import class_logits, evaluating
from xaikit.mitigation.pairing import donors_of, donors_within, lenders
from xaikit.mitigation.sources import InMemorySource, Source

if TYPE_CHECKING:
    from xaikit.mitigation.base import Mitigator

STILL = 0.25  # if more than this share of the predictions follows the region, the penalty has not removed the shortcut
LEAST, MOST = 64, 256  # samples that are looked at; with fewer the share is not known to a tenth


def warn_if_followed(mitigator: Mitigator, model: nn.Module, source: Source, *, stacklevel: int) -> None:
    """Warn where more than a quarter of the predictions still follow what must not matter.

    Samples in memory alone are looked at, with one input and a class each. What the exchange of the region with
    a sample of another class changes counts, less what the exchange within a class does, as for `assess`.

    Args:
        mitigator: that trained the model.
        model: after the training.
        source: what it was trained on.
        stacklevel: of the warning.
    """
    if not isinstance(source, InMemorySource) or mitigator.weight == 0:
        return
    share = None
    # There may be no classes, masks that are no region, a model that takes certain batches only. The training must not
    # fail for that.
    with contextlib.suppress(RuntimeError, ValueError, TypeError, IndexError, XaikitError):
        share = _followed(mitigator, model, source.samples)
    if share is not None and share > STILL:
        now = f"now n_epochs={mitigator.n_epochs}, lr={mitigator.lr:g}, {mitigator.WEIGHT}={mitigator.weight:g}"
        warnings.warn(
            f"after {type(mitigator).__name__} {percent(share)} of the predictions still follow what must not matter "
            "where it is exchanged with samples of other classes; train longer, at a higher rate or weight "
            f"({now}), or use mend, which exchanges it: also what is no place, by its factor, such as 'hue'",
            stacklevel=stacklevel + 1,
        )


def _followed(mitigator: Mitigator, model: nn.Module, samples: Batch) -> float | None:
    """The share of predictions that follow the region; None where it cannot be told."""
    labels = samples.labels
    if len(flatten(samples.inputs)[0]) != 1 or samples.masks is None or labels.is_floating_point() or labels.ndim != 1:
        return None
    masks = mask_like(samples.masks, flatten(samples.inputs)[0][0])
    masks = masks if mitigator.MASK_NAME == "shortcut_masks" else 1 - masks
    rows = (by_row(masks) != 1).any(1).nonzero()[:, 0]
    rows = rows[:: max(1, len(rows) // MOST)][:MOST]
    batch, masks = samples.take(rows), masks[rows]
    if len(rows) < LEAST or len(batch.labels.unique()) < 2:
        return None
    generator, region, labels = torch.Generator().manual_seed(0), MaskedRegion(), batch.labels.cpu()
    lends = lenders(labels, (by_row(masks) != 0).any(1))

    def exchanged(donors: Tensor) -> Batch:
        donors = donors.to(rows.device)
        tensors, rebuild = flatten(batch.inputs)
        others = rebuild(tuple(t[donors] for t in tensors))
        changed = region.exchange(batch.inputs, others, masks=masks, donor_masks=masks[donors])
        return Batch(changed, batch.labels)

    def predicted(part: Batch) -> Tensor:
        with evaluating(model) as device:
            return class_logits(model, part.to(device).inputs, mitigator.head).argmax(1).cpu()

    as_is = predicted(batch)
    changes = [
        (predicted(exchanged(pair(labels, generator, lends))) != as_is).double().mean()
        for pair in (donors_of, donors_within)
    ]
    return float(changes[0] - changes[1])
