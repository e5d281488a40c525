"""Marks: facts about the tensors that depend on the explained input."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from xaikit.core.torch_private import batch_of, is_batched, version_of, view_base
from xaikit.torch_ops import base_of


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """Facts about a tensor that depends on the explained input."""

    # In [0, 1] up to a constant factor by construction (sigmoid, softmax): in a product it lets the other factor
    # through and takes no relevance itself.
    gate: bool = False
    odd: bool = False  # tanh or erf, of which 1 + y is a gate
    layer: Any = None  # the `Affine` operation whose output it is, for a BatchNorm that follows
    norm: Any = None  # the `StandaloneBatchNorm` whose output it is, for an affine operation that follows
    logits: tuple[Tensor, int] | None = None  # of the softmax whose output it is, with the version that they had then
    # The same tensor, where it is a layer's output that is explained, with relevance to the place where it is read off
    # and no further: for rules that pass by this tensor, since a BatchNorm is folded in or out.
    tap: Tensor | None = None
    fixed: bool = False  # an input of the model by which nothing will be differentiated


PLAIN = Mark()
GATE = Mark(gate=True)


class Marks:
    """The marks of the tensors of one forward pass.

    A mark tells about the values that a tensor had when it was marked. Once they are written over, by this tensor or by
    another one that shares the memory, only the dependence on the explained input is left of it. What a model sees as
    one example under torch.vmap is marked at the batch behind it.
    """

    def __init__(self) -> None:
        self._marks: Any = WeakIdKeyDictionary()  # tensor -> its mark, its version then, whether it was an example

    def __contains__(self, x: Any) -> bool:
        """Whether x is a tensor that depends on the explained input."""
        if not isinstance(x, Tensor):
            return False
        x = batch_of(x)
        if x in self._marks:
            return True
        # A view that was taken before something was written into its base, or into another view of that.
        base = view_base(x)
        return base is not None and x.requires_grad and base in self._marks

    def __iter__(self) -> Iterator[Tensor]:
        return iter(self._marks)

    def __getitem__(self, x: Tensor) -> Mark:
        """The mark of x; `PLAIN` if it has none."""
        batch = batch_of(x)
        mark, version, example = self._marks.get(batch, (PLAIN, -1, False))
        if version != version_of(batch):
            return PLAIN
        return mark if example == is_batched(x) else Mark(gate=mark.gate, odd=mark.odd)

    def set(self, output: Any, mark: Mark = PLAIN) -> Any:
        """Note that a result, or each tensor of it, depends on the explained input; what has no gradient does not."""
        if isinstance(output, Tensor):
            batch = batch_of(output)
            if batch.requires_grad:
                self._marks[batch] = (mark, version_of(batch), is_batched(output))
        elif isinstance(output, (tuple, list)):
            for item in output:
                self.set(item, mark)
        return output

    def set_written(self, x: Tensor, mark: Mark = PLAIN) -> Tensor:
        """Note that a value which depends on the explained input was written into x, and so into the base of x."""
        base = base_of(batch_of(x))
        if base is not x:
            self.set(base)
        self.set(x, mark)
        return x

    def among(self, *places: Any) -> list[Tensor]:
        """The tensors in arguments, lists and dictionaries that depend on the explained input."""
        tensors: list[Tensor] = []
        for place in places:
            if isinstance(place, Tensor):
                if place in self:
                    tensors.append(place)
            elif isinstance(place, (tuple, list)):
                tensors += self.among(*place)
            elif isinstance(place, dict):
                tensors += self.among(*place.values())
        return tensors
