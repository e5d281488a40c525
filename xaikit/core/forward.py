"""Running the user's model on stand-ins for its inputs."""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import inspect
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core import checkpointing, torch_private
from xaikit.core.errors import InvalidInputError, InvalidTypeError, XaikitError
from xaikit.core.image_forms import order_hint
from xaikit.core.inputs import complex_inputs_error
from xaikit.core.modes import is_training
from xaikit.core.private_arguments import private_copy
from xaikit.core.replica import original_of
from xaikit.core.rows import RowRule
from xaikit.core.structure import Tensors, map_tensors
from xaikit.core.target_rows import pick_head

SHAPE_WORDS = re.compile(r"shape|size|dimension|channel|multiplied|unflatten|must match|\dD input", re.IGNORECASE)
# Words of torch's errors about images whose axes are not in the order that a convolution or BatchNorm expects.
LAYOUT_WORDS = re.compile(r"channel|conv|batched|running_mean|\dD input", re.IGNORECASE)

# The forward passes of explained models that run in this context.
_RUNNING: contextvars.ContextVar[tuple[nn.Module, ...]] = contextvars.ContextVar("running", default=())


def is_running() -> bool:
    """Whether the forward pass of an explained model runs in this context."""
    return bool(_RUNNING.get())


@contextlib.contextmanager
def checkpoints_off(model: nn.Module) -> Iterator[None]:
    """While active, activation checkpoints run their part of the model once, as in an explained pass.

    Args:
        model: what runs.
    """
    checkpointing.install(is_running)
    token = _RUNNING.set((*_RUNNING.get(), model))
    try:
        yield
    finally:
        _RUNNING.reset(token)


def refuse_inside(model: nn.Module) -> None:
    """Refuse to explain a model from inside its own forward pass, which would never end.

    Raises:
        InvalidInputError: when the model's explained forward pass is running.
    """
    original = original_of(model)
    if any(original_of(m) is original for running in _RUNNING.get() for m in running.modules()):
        raise InvalidInputError(
            f"this {type(model).__name__} is being explained, and its forward pass calls an explainer on it again; "
            "compute the explanation outside the model's forward"
        )


@dataclasses.dataclass
class Forward:
    """The model as a function of stand-ins for its inputs, and of the samples that they stand for.

    Attributes:
        model: what runs.
        rebuild: puts tensors in the place of the user's.
        extras: the further arguments: a value, a sequence, or a mapping of keywords.
        n: the number of samples.
        explained: the inputs as the user gave them: the entries of a dict are passed by name, those of a tuple or a
            list in order.
        head: which output is explained.
        rule: how rows may be stacked.
        as_one: whether the whole dict or list is the model's one argument.
        restart: gives a context for each pass, so that what the model writes into itself does not reach the next one.
        guard: gives a context in which each pass runs.
        differentiates: whether the model takes a derivative itself, and so must run with gradients.
    """

    model: nn.Module
    rebuild: Callable[[Tensors], Any]
    extras: Any
    n: int
    explained: Any
    head: str | int | None
    rule: RowRule = RowRule()
    as_one: bool = False
    restart: Callable[[], contextlib.AbstractContextManager[None]] | None = None
    guard: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    differentiates: bool = False

    def __call__(self, inputs: Tensors, samples: Tensor | None) -> Any:
        """Run the model on `inputs`, with the further arguments of the samples that they stand for."""
        return self.run(inputs, samples, self.rule)

    def takes_one_argument(self) -> bool:
        """Whether the inputs are a dict or a list that the model might take as its one argument."""
        return self.structure() is not None and not self.as_one

    def structure(self) -> Hashable:
        """The names of a dict, or the length of a list, that may be the model's one argument; None for other inputs."""
        if isinstance(self.explained, Mapping):
            return tuple(self.explained)
        return len(self.explained) if isinstance(self.explained, list) else None

    def run(self, inputs: Tensors, samples: Tensor | None, rule: RowRule) -> Any:
        """The same under another row rule."""
        if self.differentiates and not torch.is_grad_enabled():
            with torch.enable_grad():  # the model may call requires_grad_ on its inputs, so they are not the caller's
                output = self.run(tuple(x.detach() for x in inputs), samples, rule)
            return map_tensors(output, Tensor.detach)
        # Clones, since the model may work in place on what it is given.
        stand_ins = self.rebuild(tuple(x.clone() for x in inputs))
        extras = private_copy(self.extras if samples is None else self._of_samples(samples, rule))
        keywords = dict(extras) if isinstance(extras, Mapping) else {}
        positional: Sequence[Any] = (
            ()
            if extras is None or isinstance(extras, Mapping)
            else extras
            if isinstance(extras, (tuple, list))
            else (extras,)
        )
        by_name = isinstance(self.explained, Mapping) and not self.as_one
        in_order = isinstance(stand_ins, (tuple, list)) and not self.as_one
        first = () if by_name else stand_ins if in_order else (stand_ins,)
        token = _RUNNING.set((*_RUNNING.get(), self.model))
        try:
            with self.guard(), contextlib.nullcontext() if self.restart is None else self.restart():
                return self.model(*first, *positional, **(stand_ins if by_name else {}), **keywords)
        except TypeError as error:
            keyword_arguments = {**(stand_ins if by_name else {}), **keywords}
            explain_arguments(self.model, (*first, *positional), keyword_arguments, error)
            raise
        except (RuntimeError, ValueError, IndexError) as error:
            explain_failure(self.model, inputs, error)
            raise
        finally:
            _RUNNING.reset(token)

    def output(self, inputs: Tensors, samples: Tensor | None, rule: RowRule) -> Tensor:
        """The explained head of what the model returns; where all heads are looked at, all of them side by side."""
        n = len(inputs[0])
        output = with_rows(pick_head(self.run(inputs, samples, rule), self.head), n)
        if isinstance(output, Tensor):
            return output
        parts: list[Tensor] = []
        map_tensors(output, lambda t: parts.append(t.reshape(n, -1)) if t.ndim and len(t) == n else None)
        dtype = next((t.dtype for t in parts if t.is_floating_point()), torch.float32)
        return torch.cat([t.to(dtype) for t in parts], 1)

    def ambiguous(self) -> int:
        """Number of further arguments whose length is N: one value for each sample, or one of that length for all."""
        return sum(1 for _ in self._of_length_n(self.extras))

    def _of_length_n(self, extras: Any) -> Iterator[Tensor]:
        if isinstance(extras, Tensor):
            if extras.ndim > 0 and len(extras) == self.n:
                yield extras
        elif isinstance(extras, Mapping):
            for value in extras.values():
                yield from self._of_length_n(value)
        elif isinstance(extras, (tuple, list)):
            for value in extras:
                yield from self._of_length_n(value)

    def _of_samples(self, samples: Tensor, rule: RowRule) -> Any:
        position = -1

        def rows(value: Any) -> Any:
            nonlocal position
            if isinstance(value, Tensor):
                if value.ndim == 0 or len(value) != self.n:
                    return value
                position += 1
                return value if position in rule.shared else value[samples.to(value.device)]
            if isinstance(value, Mapping):
                return {k: rows(v) for k, v in value.items()}
            if isinstance(value, (tuple, list)):
                items = [rows(v) for v in value]
                return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
            return value

        return rows(self.extras)

    def form(self, inputs: Tensors) -> Hashable:
        """The form of input that a row rule is for: shapes, types, and the further arguments but for their numbers."""
        extras = tuple(_forms(self.extras))
        modes = is_training(self.model)
        return tuple((tuple(x.shape), x.dtype) for x in inputs), extras, self.head, modes, self.as_one


def call_model(model: nn.Module, inputs: Any) -> Any:
    """What a model returns on inputs as users have them.

    Args:
        model: of the user; it runs as it is, on copies of the inputs, into which it may write.
        inputs: a tensor; a tuple or a list of arguments in order; a dict of arguments by name. A dict or a list is its
            one argument where the model's signature does not take the items.

    Raises:
        InvalidTypeError: for arguments that the model does not take.
    """
    inputs = private_copy(inputs)
    by_name = isinstance(inputs, Mapping)
    positional = () if by_name else tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    keywords = dict(inputs) if by_name else {}
    is_one = isinstance(inputs, (Mapping, list)) and not _takes(model, positional, keywords)
    try:
        return model(inputs) if is_one and _takes(model, (inputs,), {}) else model(*positional, **keywords)
    except TypeError as error:
        explain_arguments(model, positional, keywords, error)
        raise


def _takes(model: nn.Module, positional: Sequence[Any], keywords: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(model.forward).bind(*positional, **keywords)
    except (TypeError, ValueError):  # a ValueError: it has no signature
        return False
    return True


def with_rows(output: Any, n: int) -> Any:
    """An output with its rows first: a model that squeezes returns (C,) or a number for a batch of one."""
    squeezed = n == 1 and isinstance(output, Tensor) and (output.ndim == 0 or (output.ndim == 1 and len(output) > 1))
    return output[None] if squeezed else output


def _forms(value: Any) -> Iterator[Any]:
    """Shapes and types of the tensors, the switches (texts, booleans) as they are, of all else the type."""
    if isinstance(value, Tensor):
        yield tuple(value.shape), value.dtype
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield name
            yield from _forms(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _forms(item)
    else:
        yield value if type(value) in (bool, str) else type(value)


def explain_arguments(
    model: nn.Module, positional: Sequence[Any], keywords: Mapping[str, Any], error: TypeError
) -> None:
    """Raise an error that says which arguments a model got, if its forward pass does not take them.

    Raises:
        InvalidTypeError: with the signature, what came, and what the items of a list or a dict stand for.
    """
    try:
        signature = inspect.signature(model.forward)
        signature.bind(*positional, **keywords)
    except ValueError:  # it has no signature
        return
    except TypeError as reason:
        came = [f"{len(positional)} by position"] * bool(positional)
        came += [f"{', '.join(map(repr, keywords))} by name"] * bool(keywords)
        raise InvalidTypeError(
            f"the model's forward{signature} does not take the arguments {' and '.join(came)} ({reason}); each item of "
            "a tuple, a list or a dict is an input of its own; the samples of one input are one tensor, "
            "torch.stack(inputs)"
        ) from error


def explain_failure(model: nn.Module, inputs: Tensors, error: Exception) -> None:
    """Raise an error that says why a model failed on its inputs, if their form or precision explains it.

    Raises:
        InvalidTypeError: when parameters and inputs differ in precision.
        InvalidInputError: when the error is about shapes, it says what a convolution of the model takes; when the
            model has no weights yet.
    """
    weights = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    dtype = next((x.dtype for x in (*filter(torch.is_floating_point, inputs), *inputs)), None)
    if weights is not None and dtype is not None and weights != dtype and "type" in str(error):
        if dtype.is_complex and not weights.is_complex:
            raise complex_inputs_error(dtype) from error
        remedy = "dequantize()" if any(x.is_quantized for x in inputs) else f"to({weights})"
        raise InvalidTypeError(
            f"the model holds {weights} parameters and fails on {dtype} inputs; pass inputs.{remedy}"
        ) from error
    if isinstance(error, XaikitError):
        return
    empty = [name for name, p in model.named_parameters() if p.is_meta]
    if empty and "meta" in str(error):
        raise InvalidInputError(
            f"{len(empty)} parameters of the model, {empty[0]!r} first, are on the device 'meta', which holds no "
            "numbers; load its weights first (model.to_empty(device=...), model.load_state_dict(...))"
        ) from error
    if not SHAPE_WORDS.search(str(error)):
        return
    shapes = " and ".join(str(tuple(x.shape)) for x in inputs)
    convolution: Any = next((m for m in model.modules() if isinstance(m, torch_private.Convolution)), None)
    hint = ""
    if convolution is not None and LAYOUT_WORDS.search(str(error)):
        hint = order_hint(convolution.in_channels, convolution.weight.ndim, inputs[0])
    raise InvalidInputError(f"the model fails on inputs of shape {shapes}{hint}: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
