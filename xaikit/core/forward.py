"""Running the user's model on stand-ins for its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from xaikit.core.errors import InvalidTypeError
from xaikit.core.structure import Tensors


def run_on(
    model: nn.Module,
    rebuild: Callable[[Tensors], Any],
    extras: Any,
    n: int,
    by_name: bool,
    inputs: Tensors,
    samples: Tensor | None,
) -> Any:
    """Run the model on `inputs`, with the further arguments of the samples that they stand for.

    A tensor of length `n` holds something for each sample; any other (an attention mask, a scalar) is for all.
    """
    # Clones, since the model may work in place on what it is given.
    given = rebuild(tuple(x.clone() for x in inputs))

    def rows(value: Any) -> Any:
        each = samples is not None and isinstance(value, Tensor) and value.ndim > 0 and len(value) == n
        return value[samples] if each else value

    keywords = {k: rows(v) for k, v in extras.items()} if isinstance(extras, Mapping) else {}
    items: Sequence[Any] = (
        ()
        if extras is None or isinstance(extras, Mapping)
        else extras
        if isinstance(extras, (tuple, list))
        else (extras,)
    )
    positional = [rows(v) for v in items]
    first = () if by_name else given if isinstance(given, (tuple, list)) else (given,)
    try:
        return model(*first, *positional, **(given if by_name else {}), **keywords)
    except (RuntimeError, ValueError) as error:
        raise_on_dtype_mismatch(model, inputs, error)
        raise


def raise_on_dtype_mismatch(model: nn.Module, inputs: Tensors, error: Exception) -> None:
    """Say so where a model failed since its parameters and its inputs differ in precision.

    Raises:
        InvalidTypeError: with both types and the remedy.
    """
    own = next((p.dtype for p in model.parameters() if p.is_floating_point()), None)
    given = next((x.dtype for x in inputs if x.is_floating_point()), None)
    if own is not None and given is not None and own != given and "type" in str(error):
        raise InvalidTypeError(
            f"the model holds {own} parameters and fails on {given} inputs; pass inputs.to({own})"
        ) from error
