"""Expected gradients: integrated gradients averaged over references, such as training samples."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor

from xaikit.core import EXPLAINERS, Call, Explainer, Int
from xaikit.core.arrays import is_array, to_tensor
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.structure import Tensors, joined_parts


def checked_references(value: Any, where: str) -> Any:
    """Reference samples as a tuple, one tensor for each input; None for none.

    Args:
        value: what the user set: a tensor, an array, a DataFrame, a nested list, or several of them.
        where: the setting, for messages.

    Raises:
        InvalidTypeError: for something that is no floating-point tensor of samples.
    """
    if value is None:
        return None
    several = isinstance(value, (tuple, list)) and len(value) and all(is_array(item) for item in value)
    references = tuple(_samples(item, where) for item in (value if several else (value,)))
    if not all(item.is_floating_point() and item.ndim and len(item) for item in references):
        forms = " and ".join(f"{item.dtype} {tuple(item.shape)}" for item in references)
        raise InvalidTypeError(f"{where} must be floating-point samples (K, ...), or a tuple of them, got {forms}")
    return references


def _samples(value: Any, where: str) -> Tensor:
    tensor = to_tensor(value, where)
    return tensor.to(torch.get_default_dtype()) if isinstance(value, (tuple, list)) else tensor


@EXPLAINERS.register("expected_gradients")
class ExpectedGradients(Explainer):
    """Mean over references b and t in [0, 1] of (x - b) * dS/dx at b + t (x - b) (Erion et al. 2021, arXiv:1906.10670).

    Draw k of n takes t from the k-th of n equal parts of [0, 1] and a random reference; every sample gets the same
    draws. With many draws the attributions sum to S(x) minus the mean of S(b). Without references, zero is the only
    one.

    >>> import torch
    >>> model = torch.nn.Linear(3, 2)
    >>> x, references = torch.rand(1, 3), torch.rand(50, 3)
    >>> attribution = ExpectedGradients(model, references=references, n_iter=2000).attribute(x, 0)
    >>> attribution.allclose(model.weight[:1] * (x - references.mean(0)), atol=0.05)
    True
    """

    PASSES = ("n_iter",)
    USES_GLOBAL_RANDOM = False

    references: Annotated[
        Any, checked_references, "samples to compare with, (K, ...); a tuple of them for several inputs"
    ] = None
    n_iter: Annotated[int, Int(low=10, high=100, step=10, ge=1), "draws; training does with 1"] = 20
    max_rows: Annotated[int | None, Int(ge=1, optional=True), "most rows in one forward pass; None chooses"] = None

    def _attribute(self, call: Call) -> Tensors:
        return self._attribute_each(call)[0]

    def _attribute_each(self, call: Call) -> tuple[Tensors, ...]:
        references = references_of(self.references, call.inputs)
        count = len(references[0])
        generator = torch.Generator().manual_seed(call.seed)
        # Every reference is used once before one is used again.
        order = torch.cat(
            [torch.randperm(count, generator=generator, device="cpu") for _ in range(-(-self.n_iter // count))]
        )
        parts = (
            torch.arange(self.n_iter, device="cpu") + torch.rand(self.n_iter, generator=generator, device="cpu")
        ) / self.n_iter
        blocks = []
        for part, passes in call.passes(self.n_iter, self.max_rows):
            sums = [[torch.zeros_like(x) for x in part.inputs] for _ in part.targets]
            for copies in passes:
                drawn = order[copies.start : copies.stop]
                starts = [r[drawn.to(r.device)].to(x)[:, None] for r, x in zip(references, part.inputs, strict=True)]
                steps = [x - b for x, b in zip(part.inputs, starts, strict=True)]
                line = tuple(
                    (b + parts[copies.start : copies.stop].to(d).view(-1, *[1] * (d.ndim - 1)) * d).flatten(0, 1)
                    for b, d in zip(starts, steps, strict=True)
                )
                for totals, grads in zip(sums, part.grads_of(line, len(copies)), strict=True):
                    for i, (d, g) in enumerate(zip(steps, grads, strict=True)):
                        totals[i] = totals[i] + (d * g.view(d.shape)).sum(0)
            blocks.append([tuple(t / self.n_iter for t in totals) for totals in sums])
        return joined_parts(blocks)


def references_of(references: Tensors | None, inputs: Tensors) -> Tensors:
    """Reference samples (K, ...) for each input; one of zeros where none are set.

    Args:
        references: those that are set.
        inputs: what is explained.

    Raises:
        InvalidInputError: when the references are not like the samples.
    """
    references = tuple(torch.zeros_like(x[:1]) for x in inputs) if references is None else references
    needed_shapes, shapes_of_references = ([tuple(t.shape[1:]) for t in tensors] for tensors in (inputs, references))
    if needed_shapes != shapes_of_references or len({len(r) for r in references}) > 1:
        shapes = " and ".join(f"(K, {', '.join(map(str, s))})" for s in needed_shapes)
        raise InvalidInputError(
            f"references must be samples like those explained, {shapes}, "
            f"got {' and '.join(str(tuple(r.shape)) for r in references)}"
        )
    return references
