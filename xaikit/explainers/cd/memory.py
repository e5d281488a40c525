"""Where the numbers of a tensor lie, by which views are known."""

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
        raise UnsupportedOperationError(
            f"contextual decomposition does not see through transforms of torch.func such as jvp and vmap, called in "
            f"{calling_module()}; write the derivative out, or take another explainer"
        ) from None
