"""The value that each tensor of a forward pass has for the baseline."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from xaikit.core.errors import UnsupportedOperationError
from xaikit.core.torch_private import tree_iter, tree_map_only
from xaikit.torch_ops import base_of


class References:
    """For each tensor that depends on the explained input its reference: the same tensor of the pass on the baseline.

    Both passes run the same operations in the same order, so what is a view of something, or is written into, is so in
    both.
    """

    def __init__(self) -> None:
        self._of: Any = WeakIdKeyDictionary()
        self._grown: Any = WeakIdKeyDictionary()  # tensors that had no graph when they were noted

    def of(self, x: Tensor) -> Tensor | None:
        """The reference of x; None for a tensor that does not depend on the explained input.

        Args:
            x: any tensor.
        """
        reference: Tensor | None = self._of.get(x)
        if reference is not None:
            return reference
        base = base_of(x)
        base_reference: Tensor | None = None if base is x else self._of.get(base)
        if base_reference is None:
            return None
        # A view that was taken before something was written into its base, or into another view of that.
        if base_reference.stride() != base.stride():
            raise UnsupportedOperationError(
                "DeepLIFT cannot follow a model that writes into a view of a tensor which is laid out in another way "
                "for the baseline; use integrated_gradients, or the step that makes a new tensor"
            )
        shift = base_reference.storage_offset() - base.storage_offset()
        return base_reference.as_strided(x.shape, x.stride(), x.storage_offset() + shift)

    def pair(self, output: Any, reference: Any, name: str) -> Any:
        """Note the references of a result, tensor by tensor.

        Args:
            output: what an operation gave for the input.
            reference: what it gave for the baseline.
            name: of the operation, for messages.

        Returns:
            The output.

        Raises:
            UnsupportedOperationError: when the two differ in shape.
        """
        pairs = zip(_tensors(output), _tensors(reference), strict=False)
        for x, r in pairs:
            if x.shape != r.shape:
                raise UnsupportedOperationError(
                    f"DeepLIFT compares each step for the input with the same step for the baseline, and {name} gives "
                    f"{tuple(x.shape)} for the one, {tuple(r.shape)} for the other; use integrated_gradients"
                )
            self._of[x] = r
            if not x.requires_grad:
                self._grown[x] = True
        return output

    def grown(self, x: Tensor) -> bool:
        """Whether x has got a graph since it was noted: from a function of autograd, whose gradient it then has.

        Args:
            x: any tensor.
        """
        return x.grad_fn is not None and self._grown.pop(x, False)

    def adopt(self, x: Tensor) -> None:
        """Give a tensor a reference of the same values, before something that depends on the input is written into it.

        Args:
            x: the tensor, which may be a view.
        """
        base = base_of(x)
        if base not in self._of:
            self._of[base] = base.clone()


class PairedCall:
    """One call of a torch function: what it gets for the input, and for the baseline.

    Args:
        function: the function, which writes nothing.
        args: its arguments by position.
        kwargs: its arguments by name.
        references: those of the pass.
    """

    def __init__(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], references: References
    ) -> None:
        self.function, self.args, self.kwargs = function, args, kwargs
        self.tensors = _tensors((args, kwargs))
        self.known = [references.of(t) for t in self.tensors]

    @property
    def references(self) -> list[Tensor]:
        """The tensors that it gets for the baseline."""
        return [t if r is None else r for t, r in zip(self.tensors, self.known, strict=True)]

    @property
    def is_constant(self) -> bool:
        """Whether nothing that it gets depends on the explained input."""
        return all(r is None for r in self.known)

    @property
    def moving(self) -> list[int]:
        """The positions of the tensors by which the result can be differentiated."""
        return [i for i, (t, r) in enumerate(zip(self.tensors, self.known, strict=True)) if r is not None and _flows(t)]

    @property
    def switches(self) -> bool:
        """Whether it gets something that depends on the input in steps: a condition, indices, a count."""
        return any(r is not None and not _flows(t) for t, r in zip(self.tensors, self.known, strict=True))

    def run(self, tensors: list[Tensor]) -> Any:
        """The result for other tensors in the places of its own.

        Args:
            tensors: one for each of `tensors`.
        """
        replacements = iter(tensors)
        args, kwargs = tree_map_only(Tensor, lambda _: next(replacements), (self.args, self.kwargs))
        return self.function(*args, **kwargs)

    def with_function(self, function: Callable[..., Any]) -> PairedCall:
        """Another function of the same arguments.

        Args:
            function: takes the same arguments.
        """
        other = object.__new__(PairedCall)
        other.__dict__.update(self.__dict__, function=function)
        return other


def _tensors(value: Any) -> list[Tensor]:
    return [t for t in tree_iter(value) if isinstance(t, Tensor)]


def _flows(x: Tensor) -> bool:
    return (x.is_floating_point() or x.is_complex()) and x.requires_grad
