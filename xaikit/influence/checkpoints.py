"""Weights that a training has passed, put back into a model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError
from xaikit.files.weights import read_weights


def load_weights(model: nn.Module, weights: Mapping[str, Tensor] | str | Path, what: str) -> None:
    """Give a model the weights of a state dict, or of the file of one.

    Args:
        model: whose weights change.
        weights: the state dict or file.
        what: name of the weights in messages.

    Raises:
        InvalidInputError: for weights that do not fit the model, and files that hold none.
    """
    if isinstance(weights, (str, Path)):
        weights = read_weights(Path(weights))
    try:
        model.load_state_dict(weights)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise InvalidInputError(f"{what} do not fit the model: {str(error).splitlines()[-1].strip()}") from None
