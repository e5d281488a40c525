"""The groups of `mend`: their names, the samples of each that are held out, and the worst of them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from xaikit.core.batch import Batch
from xaikit.core.errors import InvalidInputError
from xaikit.mitigation.groups import groups_of_function, read_group_names

HELD_BACK = 0.2  # share of the data that is held out, where no validation data are named


def group_list(groups: Any, batch: Batch) -> list[Any]:
    """The name of each sample's group.

    Args:
        groups: (N,) names or numbers, or a function (x, y) -> (N,).
        batch: the samples.

    Raises:
        InvalidInputError, InvalidTypeError: for another number of names, or what is none.
    """
    if groups is None:
        raise InvalidInputError(
            "the groups of the validation samples are unknown; name them with validation_groups=, or leave validation "
            "out, so that a fifth of the data is held back"
        )
    if callable(groups):
        return groups_of_function(groups, batch.inputs, batch.labels, batch.size)
    return read_group_names(groups, batch.size)


def split_rows(labels: Tensor, groups: list[Any] | None, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of samples to train on, and of others: the same share of each class, and of each group.

    Args:
        labels: classes, (N,).
        groups: of the samples; None where they are not known.
        seed: of the choice.

    Raises:
        InvalidInputError: for too few samples.
    """
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed), device="cpu")
    parts: dict[Any, list[int]] = {}
    for row in order.tolist():
        parts.setdefault((int(labels[row]), None if groups is None else groups[row]), []).append(row)
    held_rows: list[int] = []
    for key in sorted(parts, key=lambda key: (key[0], str(key[1]))):
        least = int(groups is not None and len(parts[key]) > 1)  # one of each group, so that small ones are judged
        held_rows += parts[key][: max(least, round(HELD_BACK * len(parts[key])))]
    if not held_rows:
        raise InvalidInputError(
            f"data of {len(labels)} samples are too few to hold a fifth of each class out; pass validation=(x, y), in "
            "the shell --validation"
        )
    held_out = torch.tensor(sorted(held_rows), device="cpu")
    is_training = torch.ones(len(labels), dtype=torch.bool, device="cpu")
    is_training[held_out] = False
    return is_training.nonzero()[:, 0], held_out


def check_groups(training: list[Any], held_out: list[Any]) -> None:
    """Refuse groups of which there are no samples to train on, or to judge by.

    Args:
        training: names of the samples' groups.
        held_out: likewise.

    Raises:
        InvalidInputError: for such a group, or a single group.
    """
    counts, held_counts = Counter(training), Counter(held_out)
    if len(counts) < 2:
        raise InvalidInputError(
            f"groups must tell at least two groups of samples apart, and all are of {next(iter(counts))!r}; a group is "
            "a class together with its shortcut"
        )
    for name in [*counts, *held_counts]:
        if not counts[name] or not held_counts[name]:
            which, n = "to train on" if not counts[name] else "held out", counts[name] + held_counts[name]
            raise InvalidInputError(
                f"the group {name!r} is empty among the samples {which} ({n} in all); join it with another, or pass "
                "validation= and validation_groups= that have it"
            )


def worst_mean(values: Tensor, groups: list[Any]) -> float:
    """The lowest mean over the samples of a group.

    Args:
        values: of the samples, (N,).
        groups: of the samples.
    """
    return min(_means(values, groups))


def highest_mean(values: Tensor, groups: list[Any]) -> float:
    """The highest mean over the samples of a group.

    Args:
        values: of the samples, (N,).
        groups: of the samples.
    """
    return max(_means(values, groups))


def _means(values: Tensor, groups: list[Any]) -> list[float]:
    numbers = {name: number for number, name in enumerate(dict.fromkeys(groups))}
    codes = torch.tensor([numbers[name] for name in groups], device="cpu")
    return [float(values[codes == number].double().mean()) for number in numbers.values()]
