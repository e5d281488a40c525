"""Where the numbers of a tensor lie, by which views are known; under transforms of torch.func nobody can tell."""

from __future__ import annotations

from torch import Tensor

from xaikit.core.errors import UnsupportedOperationError
from xaikit.torch_ops.location import calling_module


def memory_of(tensor: Tensor) -> int:
    """Where the numbers of a tensor lie; views of it lie at the same place.

    Raises:
        UnsupportedOperationError: for a tensor of a transform of torch.func, which hides what it holds.
    """
    try:
        return tensor.untyped_storage().data_ptr()
    except NotImplementedError:
        raise transformed("jvp and vmap", "write the derivative out") from None


def transformed(transforms: str, remedy: str) -> UnsupportedOperationError:
    """The error for a decomposed value that meets an operation under a transform of torch.func."""
    return UnsupportedOperationError(
        f"contextual decomposition does not see through transforms of torch.func such as {transforms}, called in "
        f"{calling_module()}; {remedy}, or take another explainer"
    )
