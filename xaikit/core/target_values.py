"""Targets as values: what is explained, as an object with a spec string, so that files and the shell can hold it."""

from __future__ import annotations

import abc
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from xaikit.core.arrays import to_tensor
from xaikit.core.configured import Configured, positional
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.params import Choice
from xaikit.core.registries import TARGETS
from xaikit.core.target_rows import Rows, pick_head


def whole(value: Any, where: str) -> Any:
    """A whole number, or a tensor (N,) of them: one for each sample.

    Raises:
        InvalidTypeError: for anything else.
    """
    if value is None or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    tensor = to_tensor(value, where)
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool or tensor.ndim > 1:
        raise InvalidTypeError(f"{where} must be a whole number, or one for each sample (N,), got {value!r}")
    return int(tensor) if tensor.ndim == 0 else tensor.long()


def _mask(value: Any, where: str) -> Any:
    if value is None:
        return None
    mask = to_tensor(value, where)
    if not bool((mask != 0).any()):
        raise InvalidInputError(
            f"{where} must mark a place, got a mask {tuple(mask.shape)} without any; leave it out to sum over all"
        )
    return mask


class Target(Configured, abc.ABC):
    """Picks one score for each sample out of a model's output."""

    REGISTRY: ClassVar[Any] = TARGETS
    CLASS_AXIS: ClassVar[int] = 1  # of the output, over which probabilities sum to 1

    if not TYPE_CHECKING:

        def __init__(self, *values: Any, **settings: Any) -> None:
            if len(values) > len(self.SETTINGS):
                names = ", ".join(self.SETTINGS)
                raise InvalidTypeError(f"{type(self).__name__} takes {names}, got {len(values)} values")
            super().__init__(**dict(zip(self.SETTINGS, values, strict=False)), **settings)

    @abc.abstractmethod
    def scores(self, output: Any, rows: Rows) -> Tensor:
        """One score for each row, shape (R,).

        Args:
            output: the picked head, (R, ...); for `Heads` whatever the model returned.
            rows: the sample that each row stands for.

        Raises:
            InvalidInputError: when the output has another form, or lacks what is picked.
        """

    @property
    def looks_at_all_heads(self) -> bool:
        """Whether `scores` gets whatever the model returned, instead of one head of it."""
        return False


def _picked(values: Tensor, index: Tensor, what: str) -> Tensor:
    """Entry `index` of each row of (R, K); a position is counted from the end where it is negative."""
    size = values.shape[1]
    lowest = -size if what == "position" else 0
    outside = (index < lowest) | (index >= size)
    if bool(outside.any()):
        wrong = index[outside][0]
        raise InvalidInputError(f"target {what} must lie in 0..{size - 1} of an output with {size}, got {int(wrong)}")
    rest = [1] * (values.ndim - 2)
    chosen = (index % size).view(-1, 1, *rest).expand(-1, 1, *values.shape[2:])
    return values.gather(1, chosen)[:, 0]


@TARGETS.register("class")
class Class(Target):
    """The output of a class: output[:, index], of an output (N, C) or (N,).

    >>> import torch
    >>> from xaikit import Gradient
    >>> model = torch.nn.Linear(3, 2)
    >>> Gradient(model).attribute(torch.rand(4, 3), Class(1))[0].equal(model.weight[1])
    True
    """

    index: Annotated[Any, whole, "the class, or one for each sample"] = positional(default=0, kw_only=False)

    def scores(self, output: Any, rows: Rows) -> Tensor:
        """The entry output[r, index] of each row r.

        Args:
            output: as for `Target.scores`.
            rows: as for `Target.scores`.

        Raises:
            InvalidInputError: for an output of another form than (N, C) or (N,), or a class that it does not have.
        """
        if output.ndim == 1:
            output = output[:, None]
        if output.ndim != 2:
            raise InvalidInputError(
                f"target {self!r} needs an output of shape (N, classes), got {rows.form(output)}; Position(position, "
                "index) explains outputs (N, T, V), Region(class_, mask) those of segmentation (N, C, H, W)"
            )
        return _picked(output, rows.values(self.index, "class"), "class")


@TARGETS.register("position")
class Position(Target):
    """The output at a position: output[:, position, index] of (N, T, V), or output[:, position] of (N, T).

    A language model's next token after the whole text is ``Position(-1, token)``.
    """

    CLASS_AXIS = -1

    position: Annotated[Any, whole, "the position, or one for each sample; -1 is the last"] = positional(
        default=-1, kw_only=False
    )
    index: Annotated[Any, whole, "the token or class there, or one for each sample"] = positional(
        default=None, kw_only=False
    )

    def scores(self, output: Any, rows: Rows) -> Tensor:
        """The entry output[r, position, index] of each row r.

        Args:
            output: as for `Target.scores`.
            rows: as for `Target.scores`.

        Raises:
            InvalidInputError: for an output of another form than (N, T, V) or (N, T), or one without this position.
        """
        axes = 2 if self.index is None else 3
        if output.ndim != axes:
            form = "(N, T)" if self.index is None else "(N, T, V)"
            raise InvalidInputError(f"target {self!r} needs an output of shape {form}, got {rows.form(output)}")
        picked = _picked(output, rows.values(self.position, "position"), "position")
        return picked if self.index is None else _picked(picked, rows.values(self.index, "index"), "index")


@TARGETS.register("contrast")
class Contrast(Target):
    """The score of one target less that of another: why this class and not that one.

    >>> Contrast(3, 5) == Contrast(Class(3), Class(5))
    True
    """

    for_: Annotated[Any, Choice(TARGETS), "the target whose score counts positively"] = positional(
        default=0, kw_only=False
    )
    against: Annotated[Any, Choice(TARGETS), "the target whose score is subtracted"] = positional(
        default=1, kw_only=False
    )

    def _check_settings(self) -> None:
        if self.for_ == self.against:
            raise InvalidInputError(f"Contrast needs two targets that differ, got {self.for_!r} twice; its score is 0")

    def scores(self, output: Any, rows: Rows) -> Tensor:
        """The difference of both scores.

        Args:
            output: as for `Target.scores`.
            rows: as for `Target.scores`.
        """
        return self.for_.scores(output, rows) - self.against.scores(output, rows)

    @property
    def looks_at_all_heads(self) -> bool:
        """Whether one of the two targets does."""
        return bool(self.for_.looks_at_all_heads or self.against.looks_at_all_heads)


@TARGETS.register("log_probability")
class LogProbability(Target):
    """The log-probability of a target: its score in log_softmax(output).

    The softmax runs over the classes of an output (N, C) or (N, C, H, W), over the tokens of (N, T, V). A single
    output per sample is a logit: class 1 has log sigmoid(z), class 0 has log sigmoid(-z).
    """

    of: Annotated[Any, Choice(TARGETS), "whose probability"] = positional(default=1, kw_only=False)

    def scores(self, output: Any, rows: Rows) -> Tensor:
        """The target's score in the log-probabilities.

        Args:
            output: as for `Target.scores`.
            rows: as for `Target.scores`.
        """
        return self.of.scores(_classwise(output, self.of, F.log_softmax, F.logsigmoid), rows)


@TARGETS.register("probability")
class Probability(Target):
    """The probability of a target: its score in softmax(output); see `LogProbability`."""

    of: Annotated[Any, Choice(TARGETS), "whose probability"] = positional(default=1, kw_only=False)

    def scores(self, output: Any, rows: Rows) -> Tensor:
        """The target's score in the probabilities.

        Args:
            output: as for `Target.scores`.
            rows: as for `Target.scores`.
        """
        return self.of.scores(_classwise(output, self.of, F.softmax, torch.sigmoid), rows)


def _classwise(output: Any, of: Target, softmax: Callable[..., Tensor], sigmoid: Callable[[Tensor], Tensor]) -> Tensor:
    """A softmax over the classes of a head; for a single output the sigmoid of class 0 beside that of class 1."""
    if of.looks_at_all_heads or not isinstance(output, Tensor):
        raise InvalidInputError(f"a probability is one of a single head, got {of!r}; put the probability inside Heads")
    if output.ndim == 1 or (output.ndim == 2 and output.shape[1] == 1):
        z = output.reshape(-1)
        return torch.stack([sigmoid(-z), sigmoid(z)], 1)
    return softmax(output, of.CLASS_AXIS)


@TARGETS.register("region")
class Region(Target):
    """The sum of a class's output over a region: of segmentation, output (N, C, H, W) (or any places behind C).

    Without a mask the sum is over all places.
    """

    class_: Annotated[Any, whole, "the class, or one for each sample"] = positional(default=0, kw_only=False)
    mask: Annotated[Any, _mask, "which places count, (H, W), or (N, H, W) for each sample; None: all"] = positional(
        default=None, kw_only=False
    )

    def scores(self, output: Any, rows: Rows) -> Tensor:
        """The sum of the class's output over the mask.

        Args:
            output: as for `Target.scores`.
            rows: as for `Target.scores`.

        Raises:
            InvalidInputError: for an output without positions, a class that it does not have, or a mask that does not
                fit.
        """
        if output.ndim < 3:
            raise InvalidInputError(
                f"target {self!r} needs an output of shape (N, classes, height, width), got {rows.form(output)}"
            )
        picked = _picked(output, rows.values(self.class_, "class"), "class")
        if self.mask is None:
            return picked.flatten(1).sum(1)
        mask = self.mask.to(picked.device)
        places = tuple(picked.shape[1:])
        if mask.shape == (rows.n, *places):
            mask = mask[rows.samples]
        elif tuple(mask.shape) != places:
            raise InvalidInputError(
                f"the mask of target {self!r} must have the shape {places} of the output's places, or "
                f"{(rows.n, *places)}, got {tuple(self.mask.shape)}"
            )
        return (picked * mask.to(picked.dtype)).flatten(1).sum(1)


def _heads(value: Any, where: str) -> Any:
    if not isinstance(value, Mapping) or not value:
        raise InvalidTypeError(f'{where} must be a dict from heads to targets, such as {{"start": 3}}, got {value!r}')
    return {head: TARGETS.create(target) for head, target in value.items()}


@TARGETS.register("heads")
class Heads(Target):
    """The sum of scores over several outputs of a model: ``Heads({"start_logits": 3, "end_logits": 7})``.

    Each head, a name or a position in what the model returns, has a target of its own.
    """

    of: Annotated[Any, _heads, "head -> target"]

    if TYPE_CHECKING:  # required and by position, which PEP 681 has no way to say

        def __init__(self, of: Mapping[str | int, Any]) -> None: ...

    def scores(self, output: Any, rows: Rows) -> Tensor:
        """The sum of each head's score.

        Args:
            output: as for `Target.scores`.
            rows: as for `Target.scores`.
        """
        parts = [target.scores(pick_head(output, head), rows) for head, target in self.of.items()]
        return torch.stack(parts).sum(0)

    @property
    def looks_at_all_heads(self) -> bool:
        """True."""
        return True


@TARGETS.coerce
def from_value(value: Any) -> Target | None:
    """The target meant by a class, one class per sample, or a pair (position, index); None for anything else."""
    if isinstance(value, tuple) and len(value) == 2 and all(type(v) is int for v in value):
        return Position(*value)
    if isinstance(value, (int, Tensor, Sequence)) and not isinstance(value, (str, bool)):
        return Class(value)
    return None
