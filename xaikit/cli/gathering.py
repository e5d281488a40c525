"""The samples of a data set that one piece of work needs together, with what could not be read left out and told."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import typer
from torch import Tensor, nn
from torch.utils.data import Subset, TensorDataset

from xaikit.core import Int
from xaikit.core.errors import InvalidInputError
from xaikit.core.structure import flatten
from xaikit.runs.source import Source

SHOWN = 10  # unreadable samples that are named


@dataclasses.dataclass(frozen=True)
class Gathered:
    """Samples in memory.

    Attributes:
        inputs: as the model takes them, (n, ...).
        labels: class of each, (n,), or None.
        indices: of the samples in the data, (n,).
        total: samples in the data.
        skipped: why others could not be read, by index.
        masks: one for each sample, or None.
    """

    inputs: Any
    labels: Tensor | None
    indices: Tensor
    total: int
    skipped: dict[int, str]
    masks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def rows(self, chosen: Tensor) -> Gathered:
        """Some of the samples, by their places here."""
        tensors, rebuild = flatten(self.inputs)
        return dataclasses.replace(
            self,
            inputs=rebuild(tuple(t[chosen] for t in tensors)),
            labels=None if self.labels is None else self.labels[chosen],
            indices=self.indices[chosen],
            masks=None if self.masks is None else self.masks[chosen],
        )

    def batches(self, size: int) -> Iterator[Gathered]:
        """The samples in order, at most so many at a time."""
        for rows in torch.arange(len(self)).split(size):
            yield self.rows(rows)

    def with_masks(self, masks: Tensor | None) -> Gathered:
        """The same with masks: one map for all, or one for each sample of the data, in its order.

        Raises:
            InvalidInputError: for masks of another number.
        """
        if masks is None:
            return self
        shape = flatten(self.inputs)[0][0].shape
        one = 1 if len(shape) == 2 else len(shape) - 2  # axes of a map without samples and channels
        if masks.ndim == one:
            masks = masks.expand(len(self), *masks.shape)
        elif len(masks) == self.total:
            masks = masks[self.indices]
        else:
            raise InvalidInputError(
                f"--mask holds {tuple(masks.shape)}; it takes one map for all samples, or one for each of {self.total}"
            )
        return dataclasses.replace(self, masks=masks)


def gather(data: Any, *, batch_size: int = 32, limit: int = 0) -> Gathered:
    """Read the samples; at most `limit` of them, evenly spread over the data.

    Raises:
        InvalidInputError: when none can be read, or they do not stack.
    """
    Int(ge=1).check(batch_size, "--batch-size")
    Int(ge=0).check(limit, "--limit")
    dataset = TensorDataset(*data) if isinstance(data, (tuple, list)) else data
    total = Source(dataset).n
    chosen = list(range(total))
    if limit and limit < total:
        chosen = [i * total // limit for i in range(limit)]
        dataset = Subset(dataset, chosen)
    source = Source(dataset, batch_size)
    found = list(source.parts([0], source.n))
    skipped = {chosen[i]: reason for part in found for i, reason in part.skipped.items()}
    read = [part for part in found if part.inputs is not None]
    if not read:
        raise InvalidInputError(f"none of the {source.n} samples can be read: {next(iter(skipped.values()))}")
    flat = [flatten(part.inputs) for part in read]
    inputs = flat[0][1](tuple(_joined(parts) for parts in zip(*(tensors for tensors, _ in flat), strict=True)))
    labels = [part.labels for part in read if part.labels is not None]
    indices = torch.tensor(chosen)[torch.cat([part.indices for part in read])]
    return Gathered(inputs, torch.cat(labels) if labels else None, indices, total, skipped)


def _joined(parts: tuple[Tensor, ...]) -> Tensor:
    shapes = sorted({tuple(p.shape[1:]) for p in parts})
    if len(shapes) > 1:
        raise InvalidInputError(f"the samples have several shapes ({shapes[0]}, {shapes[-1]}); bring them to one size")
    return torch.cat(parts)


def tell_skipped(found: Gathered) -> None:
    """A line for each of the first samples that could not be read, and their number."""
    for reason in list(found.skipped.values())[:SHOWN]:
        typer.echo(f"xaikit: skipped: {reason}", err=True)
    if found.skipped:
        typer.echo(f"xaikit: note: {len(found.skipped)} of {found.total} samples were skipped", err=True)


def read_masks(path: Path | None) -> Tensor | None:
    """The masks in a file or a folder; None for none."""
    if path is None:
        return None
    from xaikit.shortcuts import load_masks

    return load_masks(path)


def targets_for(target: str, found: Gathered, model: nn.Module, head: str | int) -> Any:
    """What is explained in some samples: the label, one class, or (no word) the predicted class.

    Raises:
        InvalidInputError: for a target that is none of these, or labels that are not there.
    """
    from xaikit.cli.options import targets_of

    if target == "label":
        if found.labels is None:
            raise InvalidInputError("--target label needs data with labels")
        return found.labels
    if target and not target.isdecimal():
        raise InvalidInputError(f"--target of a data set is one class or 'label', got {target!r}")
    where = next((p.device for p in model.parameters()), torch.device("cpu"))
    tensors, rebuild = flatten(found.inputs)
    inputs = rebuild(tuple(t.to(where) for t in tensors))
    return targets_of([int(target)] if target else [], model, inputs, head)
