"""Targets: the number that is explained for each sample, picked out of the model's output.

A target is a class index for all samples, one index per sample, a pair (position, index) or one per sample, a target
object or its spec string, a function ``output -> (N,)``, or None for a model with a single output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from xaikit.core.arrays import to_tensor
from xaikit.core.errors import InvalidInputError, XaikitError
from xaikit.core.labels import label_values, read_classes
from xaikit.core.registries import TARGETS
from xaikit.core.structure import split_rows
from xaikit.core.target_rows import Rows, pick_head

__all__ = ["CallTarget", "RowTarget", "is_several", "normalise", "pick_head", "score"]


@dataclasses.dataclass(frozen=True)
class RowTarget:
    """A target object and the sample of each row; a target may hold a value for each sample, rows come in any order.

    Attributes:
        target: the target.
        rows: the sample that each row stands for.
    """

    target: Any
    rows: Rows

    def of(self, index: Tensor | slice) -> RowTarget:
        """The target of some of the rows."""
        return dataclasses.replace(self, rows=dataclasses.replace(self.rows, samples=self.rows.samples[index]))

    def repeat(self, copies: int) -> RowTarget:
        """The target of so many versions of the rows."""
        return dataclasses.replace(self, rows=dataclasses.replace(self.rows, samples=self.rows.samples.repeat(copies)))

    def scores(self, output: Any) -> Tensor:
        """One score for each row, (R,)."""
        scores: Tensor = self.target.scores(output, self.rows)
        return scores

    def __repr__(self) -> str:
        return repr(self.target)


CallTarget = Tensor | RowTarget | Callable[[Any], Tensor] | None


def of_samples(target: CallTarget, samples: slice) -> CallTarget:
    """A target of some of the samples; a function stays as it is."""
    if isinstance(target, RowTarget):
        return target.of(samples)
    return target[samples] if isinstance(target, Tensor) else target


def of_copies(target: CallTarget, copies: int, n: int) -> CallTarget:
    """A target of so many versions of a batch of n samples, stacked copy by copy; a function sees each version."""
    if isinstance(target, (Tensor, RowTarget)):
        return target.repeat(copies)
    if target is None or copies == 1:
        return target
    return lambda output: torch.cat([target(_writable(part)) for part in split_rows(output, n)])


def is_several(targets: Any) -> bool:
    """Whether targets are a list of targets, each for all samples, and not one class for each sample.

    Beside targets a class may stand as its number.
    """
    if not isinstance(targets, list) or not any(_is_one(item) for item in targets):
        return False
    if not all(_is_one(item) or type(item) is int for item in targets):
        return False
    # Text that names no target at all is a label for each sample, which the reader of labels refuses.
    return not all(isinstance(item, str) and item.partition(":")[0] not in TARGETS for item in targets)


def _is_one(item: Any) -> bool:
    if isinstance(item, Tensor):
        return False
    return isinstance(item, str) or callable(item) or hasattr(item, "looks_at_all_heads")


def normalise(targets: Any, n: int, device: torch.device, *, output_axes: Callable[[], int] = lambda: 2) -> CallTarget:
    """A target in its normal form: a LongTensor (N,), a `RowTarget`, a function, or None.

    Args:
        targets: as for `Explainer.attribute`.
        n: number of samples, N.
        device: where the scores are computed.
        output_axes: gives the number of axes of the model's output; asked where two whole numbers for two samples may
            be one class for each, or a position and an index.

    Raises:
        InvalidTypeError: for floating-point or boolean targets.
        InvalidInputError: for a wrong shape; one-hot rows are named as such.
    """
    if isinstance(targets, (str, Mapping)) or hasattr(targets, "looks_at_all_heads"):
        return _of_object(TARGETS.create(targets), n, device)
    if targets is None or (callable(targets) and not isinstance(targets, Tensor)):
        return targets
    if _is_pair(targets) and (n != 2 or output_axes() == 3):
        return _of_object(TARGETS.create(targets), n, device)
    if isinstance(targets, (list, tuple)) and targets and all(_is_pair(t) for t in targets):
        positions, indices = zip(*targets, strict=True)
        settings = {"position": torch.tensor(positions, device="cpu"), "index": torch.tensor(indices, device="cpu")}
        pairs = TARGETS.get("position")(**settings)
        return _of_object(pairs, n, device)
    return _classes(targets, n, device)


def shares_head(target: CallTarget) -> bool:
    """Whether a target looks at the one head that the explainer names."""
    return not (isinstance(target, RowTarget) and target.target.looks_at_all_heads)


def target_value(targets: Any) -> Any:
    """The target object that a spec string, a spec dict or an object means; None for anything else.

    Raises:
        InvalidInputError, UnknownNameError: for a text or a dict that describes no target.
    """
    if isinstance(targets, (str, Mapping)):
        return TARGETS.create(targets)
    return targets if hasattr(targets, "looks_at_all_heads") else None


def looks_at_all_heads(targets: Any) -> bool:
    """Whether targets, as the user passes them, look at all that the model returns."""
    return bool(getattr(target_value(targets), "looks_at_all_heads", False))


def described(targets: Any) -> Any:
    """The targets as an `Attribution` keeps them: numbers, or the spec of a target; None for a function."""
    if hasattr(targets, "looks_at_all_heads"):
        return targets.spec()
    if targets is None or callable(targets) or isinstance(targets, (str, Mapping)):
        return None if callable(targets) else targets
    return to_tensor(targets, "targets").tolist()


def _is_pair(targets: Any) -> bool:
    return isinstance(targets, tuple) and len(targets) == 2 and all(type(t) is int for t in targets)


def _of_object(target: Any, n: int, device: torch.device) -> CallTarget:
    if target.NAME == "class":
        return _classes(target.index, n, device)
    return RowTarget(target, Rows(torch.arange(n, device=device), n))


def _classes(targets: Any, n: int, device: torch.device) -> Tensor:
    raw = label_values(targets, "targets")
    if raw.ndim == 0:
        raw = raw.expand(n)
    return read_classes(raw, n, what="targets").to(device)


def score(output: Any, target: CallTarget, n_classes: int | None = None, *, n: int | None = None) -> Tensor:
    """One score per sample, shape (N,), of an output (N, C).

    Args:
        output: the picked head (N, ...), or whatever the model returned where a function or a target looks at all.
        target: in its normal form.
        n_classes: number of classes that the output must have; None leaves it open.
        n: number of rows; None reads it off the output.

    Raises:
        InvalidInputError: when the target is missing, out of range, or a function returns another shape; for complex
            scores. Whole numbers and booleans become numbers of torch's default type.
    """
    scores = _picked(output, target, n_classes, len(output) if n is None else n)
    if scores.is_complex():
        raise InvalidInputError(
            f"the explained score must be a real number, got {scores.dtype}; pass a function that makes it one as the "
            "target, such as lambda output: output[:, 0].abs()"
        )
    return scores if scores.is_floating_point() else scores.to(torch.get_default_dtype())


def _of_function(target: Callable[[Any], Any], output: Any) -> Any:
    """What a target function returns; what it raises on such an output is told with the output's form."""
    try:
        return target(_writable(output))
    except (IndexError, KeyError, AttributeError, TypeError) as error:
        if isinstance(error, XaikitError):
            raise
        form = f"of shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"of type {type(output).__name__}"
        raise InvalidInputError(
            f"the target function ended in {type(error).__name__} ({error}) on the model's output {form}; it must "
            "return one score for each row"
        ) from error


def _writable(output: Any) -> Any:
    """An output that a target function may write into: the same output serves other targets and the task loss."""
    return output.clone() if isinstance(output, Tensor) else output


def _picked(output: Any, target: CallTarget, n_classes: int | None, n: int) -> Tensor:
    if isinstance(target, RowTarget):
        return target.scores(output)
    if not isinstance(output, Tensor) and not callable(target):
        raise InvalidInputError(
            f"the model returns a {type(output).__name__}; name one of its outputs with head=, or pass a function of "
            "all that it returns as the target"
        )
    if callable(target):
        picked = _of_function(target, output)
        if not isinstance(picked, Tensor) or picked.shape != (n,):
            got = tuple(picked.shape) if isinstance(picked, Tensor) else type(picked).__name__
            raise InvalidInputError(f"a target function must return one score per sample, shape ({n},), got {got}")
        return picked
    shape = Rows.form(output)  # a pass may hold several copies of the batch
    if n_classes is not None and (output.ndim != 2 or output.shape[1] != n_classes):
        raise InvalidInputError(f"n_classes={n_classes} but the model returns {shape}")
    if target is None:
        if output.numel() != n:
            raise InvalidInputError(
                f"the model returns {shape}, several outputs per sample: pass targets "
                f"(a class, one class per sample, or a function of the output)"
            )
        return output.reshape(n)
    if output.ndim == 1:
        output = output[:, None]
    if output.ndim != 2:
        raise InvalidInputError(
            f"class targets need an output of shape (N, classes), got {shape}; "
            f"pass a target such as Position(position, index) or Region(class_, mask), or a function of the output "
            f"that returns (N,) scores"
        )
    low, high = torch.stack(torch.aminmax(target)).tolist()  # one value to wait for on a GPU, not two
    if low < 0 or high >= output.shape[1]:
        remedy = "; pass None to explain a single output" if output.shape[1] == 1 else ""
        raise InvalidInputError(
            f"targets must lie in 0..{output.shape[1] - 1} for a model with {output.shape[1]} outputs, "
            f"got {low if low < 0 else high}{remedy}"
        )
    return output.gather(1, target[:, None])[:, 0]
