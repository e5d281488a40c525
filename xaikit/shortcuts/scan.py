"""The scan: each factor of the data is exchanged between samples, and the predictions that follow it are counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.core.batch import Batch, count_batches
from xaikit.core.errors import InvalidInputError
from xaikit.core.params import Int
from xaikit.factors.donors import DonorPool, Donors
from xaikit.factors.facts import facts_fields, known_facts
from xaikit.mitigation.evaluation import check_read_twice, class_batches
from xaikit.mitigation.forward import check_rows, class_logits, evaluating
from xaikit.mitigation.penalties import check_labels
from xaikit.shortcuts.effects import Scan
from xaikit.shortcuts.members import scan_members
from xaikit.shortcuts.tallies import BaseTally, FactorTally, PairedBatch

PICTURED_FACTORS = 6  # factors of which exchanged samples are kept


def scan(  # noqa: PLR0913
    model: nn.Module,
    data: Any,
    factors: Any = None,
    *,
    shortcut_masks: Any = None,
    modality: str | None = None,
    facts: Any = None,
    head: str | int = "logits",
    seed: int = 0,
    progress: bool = True,
) -> Scan:
    """Which factors of the data a model follows: hue, border, frequencies, words, columns and others.

    Each factor is exchanged: a sample gets that of a donor of another class, all else stays. A prediction follows the
    factor if it becomes the donor's class. Damage alone may do that, too, and with two classes every change does; so
    each sample also gets the factor of a donor of its own class, and what becomes the other class by that is taken off.
    The classes are those that the model predicts of samples and donors; so a shortcut is found, too, in samples in
    which it tells nothing of the label, such as a balanced test set.
    A factor that should not matter (its nature is "nuisance") is a suspect if more than a tenth of the predictions
    follow it, by the low end of the interval. What may matter ("content") is listed for a person to judge.

    No explanation and no mask take part, so what is spread over a sample is found as well as what has a place. Two
    passes are made over the data for each factor. The donors, at most 512, are the first samples of each class; the
    data are read once more for them.

    Args:
        model: returns logits (N, C), or holds them under `head`.
        data: test samples: (x, y) or (x, y, masks) as tensors, arrays or lists, a loader or another iterable of such
            batches, or a data set, in an order that stays.
        factors: what to exchange: factors as names, spec strings such as ``"corner:where=top-left,size=6"``, objects or
            masks; one or several. None takes those that suit the data.
        shortcut_masks: for the factor "region": one for each sample or one for all, in place of those in the data.
        modality: the kind of the data, "image", "text", "time_series" or "tabular"; None goes by their form.
        facts: what else is known of the data, a dict with fields of `xaikit.factors.DataFacts`: the `vocabulary` (or
            the tokenizer), `columns`, `padding`, `channel_axis`, `low` and `high` of each channel.
        head: which output holds the logits.
        seed: of the pairing with donors.
        progress: show a progress bar.

    Raises:
        InvalidInputError, InvalidTypeError: for data of a single class, a factor of another kind of data, a factor that
            no sample shows.
        UnknownNameError: for an unknown factor, word or column.

    >>> x, y = torch.randn(64, 3), torch.arange(64) % 2
    >>> x[:, 0] = 2.0 * y - 1
    >>> model = nn.Linear(3, 2)
    >>> _ = model.load_state_dict({"weight": torch.tensor([[-1.0, 0, 0], [1, 0, 0]]), "bias": torch.zeros(2)})
    >>> result = scan(model, (x, y), facts={"columns": ["age", "priors", "sex"]}, progress=False)
    >>> result.effects[0].sentence()
    '100 % of predictions follow the column age'
    """
    seed = Int(ge=0).check(seed, "seed")
    check_read_twice(data, "scan")
    batches = partial(class_batches, model, data, shortcut_masks)
    pool, class_of = _donors(model, batches, head)
    members = scan_members(pool, factors, {"kind": modality, **facts_fields(known_facts(facts, data, model))})
    tallies = [FactorTally(member) for member in members]
    generator = torch.Generator().manual_seed(seed)
    baseline = BaseTally()
    total = count_batches(data)
    steps = None if total is None else total * len(tallies)
    with tqdm(total=steps, disable=not progress, unit="batch", desc="scan") as bar, evaluating(model) as device:
        for batch in batches():
            x, y, mask = batch.to(device)[:3]
            logits = class_logits(model, x, head)
            y, predicted = check_labels(y, logits), logits.argmax(1)
            paired = PairedBatch(x, y, mask, predicted, *_paired(pool, class_of(y, predicted), generator, baseline))
            baseline.count(paired)
            for tally in tallies:
                tally.count(paired, lambda changed: class_logits(model, changed, head).argmax(1))
                bar.update()
    effects = sorted((tally.effect(baseline, len(tallies)) for tally in tallies), key=lambda effect: effect.rank)
    pictures = {t.title: t.pictures() for t in tallies if t.title in [e.title for e in effects[:PICTURED_FACTORS]]}
    return Scan(
        tuple(effects), members[0].facts.kind, baseline.accuracy, baseline.samples, seed,
        pictures={title: picture for title, picture in pictures.items() if picture is not None},
    )  # fmt: skip


def _donors(
    model: nn.Module, batches: Callable[[], Iterator[Batch]], head: str | int
) -> tuple[DonorPool, Callable[[Tensor, Tensor], Tensor]]:
    """Samples of each class that the model predicts; and which classes count, from labels and predictions.

    Where the model predicts one class for all, these are the labels.
    """
    with evaluating(model) as device:
        first = next(batches()).to(device)
        logits = class_logits(model, first.inputs, head)
        check_rows(model, first, logits, head)

    def predicted(labels: set[int]) -> Iterator[Batch]:
        for batch in batches():
            labels.update(batch.labels.tolist())
            with evaluating(model) as device:
                classes = class_logits(model, batch.to(device).inputs, head).argmax(1).cpu()
            yield batch._replace(labels=classes)

    labels: set[int] = set()
    pool = DonorPool(predicted(labels), logits.shape[1])
    if len(labels) < 2 and len(labels := {label for batch in batches() for label in batch.labels.tolist()}) < 2:
        raise InvalidInputError(
            f"a scan exchanges factors between samples of different classes, and all of these are of class "
            f"{labels.pop()}"
        )
    if len(pool.classes) < 2:
        return DonorPool(batches(), logits.shape[1]), lambda labels, predicted: labels
    return pool, lambda labels, predicted: predicted


def _paired(pool: DonorPool, classes: Tensor, generator: torch.Generator, baseline: BaseTally) -> tuple[Donors, Donors]:
    """A donor of another class and one of the same class for each sample."""
    labels, numbers = classes.cpu(), baseline.samples + torch.arange(len(classes), device="cpu")
    others = pool.of_other_classes(labels, generator)
    same = pool.of_same_class(labels, numbers, generator)
    return pool.take(others, classes.device), pool.take(same, classes.device)
