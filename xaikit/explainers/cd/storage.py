"""Plain tensors into which a model writes decomposed values: buffers, states of a scan, caches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

from xaikit.core import torch_private
from xaikit.core.errors import UnsupportedOperationError
from xaikit.core.torch_private import tree_iter, tree_map_only
from xaikit.explainers.cd.decomposed import Decomposed, constant_like
from xaikit.explainers.cd.memory import transformed
from xaikit.torch_ops import calling_module
from xaikit.torch_ops.in_place import base_of


class WrittenTensors(TorchFunctionMode):
    """While it is active, a plain tensor that a decomposed value was written into is replaced wherever it is used.

    Its decomposition takes its place. The tensor itself, which may be a buffer of the model, keeps its values.
    """

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[int, tuple[Tensor, Decomposed]] = {}  # the tensor is held so that its id stays its own

    def __torch_function__(
        self, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if torch_private.is_mapped() and any(
            isinstance(x, Tensor) and isinstance(torch_private.batch_of(x), Decomposed)
            for x in tree_iter((args, kwargs))
        ):
            raise transformed("torch.vmap", "let the model run its members or samples in a loop")
        if self._written:
            args, kwargs = tree_map_only(Tensor, self.current, (args, kwargs))
        return func(*args, **kwargs)

    def current(self, tensor: Tensor) -> Tensor:
        """The tensor, or the decomposition of what was written into it."""
        if isinstance(tensor, Decomposed) or not self._written:
            return tensor
        base = base_of(tensor)
        entry = self._written.get(id(base))
        if entry is None:
            return tensor
        return entry[1] if tensor is base else _view(entry[1], tensor)

    def decomposed(self, target: Tensor, like: Decomposed) -> Decomposed:
        """The decomposition of a plain tensor that is about to be written into; its values so far are a constant."""
        base = base_of(target)
        if id(base) not in self._written:
            if not base.is_contiguous():
                raise UnsupportedOperationError(
                    "a decomposed value cannot be written into a tensor that is not contiguous (strides "
                    f"{base.stride()}, in {calling_module()}); call .contiguous() on it first"
                )
            entry = constant_like(base.detach().to(like.dtype), like)
            entry.parts = entry.parts.contiguous()
            self._written[id(base)] = base, entry
        entry = self._written[id(base)][1]
        return entry if target is base else _view(entry, target)


def _view(base: Decomposed, view: Tensor) -> Any:
    """The decomposition of a view that was made before its base was written into."""
    return base.as_strided(view.shape, view.stride(), view.storage_offset())
