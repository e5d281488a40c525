"""Call: what an explainer's mathematics sees of one attribution call, with nothing left to check or unpack."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from xaikit.core import targets as target_rules
from xaikit.core.errors import InvalidInputError
from xaikit.core.isolation import differentiable_kernels
from xaikit.core.rows import even_ranges, rows_per_pass
from xaikit.core.structure import Tensors


@dataclasses.dataclass(frozen=True)
class Call:
    """One attribution call on N samples.

    Attributes:
        model: the model, in evaluation mode.
        inputs: what is explained, each tensor shaped (N, ...): the inputs, or a layer's activations.
        target: class indices (N,), a function of the output, or None.
        create_graph: whether the attribution must stay differentiable.
        seed: of every random number.
        forward: runs the model on stand-ins for `inputs` and on the samples that they stand for.
        record: takes the output on `inputs` themselves, with its graph, when `grad` computes it.
        surroundings: what holds while the model runs, for a pass that is repeated after the call.
        recompute: whether `grad` drops its graph and builds it again in the loss's backward pass.
    """

    model: nn.Module
    inputs: Tensors
    target: target_rules.Target
    create_graph: bool
    seed: int
    forward: Callable[[Tensors, Tensor | None], Any]
    head: str | int = "logits"
    n_classes: int | None = None
    samples: Tensor | None = None
    record: Callable[[Tensor], None] | None = None
    surroundings: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    recompute: bool = False

    @property
    def n(self) -> int:
        """Number of samples N."""
        return len(self.inputs[0])

    def run(self, inputs: Tensors, copies: int = 1) -> Tensor:
        """The model's output on `copies` stacked versions of the batch: tensors (copies * N, ...), copy by copy."""
        samples = self.samples
        if copies > 1:
            one = torch.arange(self.n, device=inputs[0].device) if samples is None else samples
            samples = one.repeat(copies)
        output = target_rules.pick_head(self.forward(inputs, samples), self.head)
        if output.ndim == 0 or len(output) != copies * self.n:
            raise InvalidInputError(
                f"the model must return one row per sample, got {tuple(output.shape)} for a batch of {copies * self.n}"
            )
        return output

    def score(self, output: Tensor, copies: int = 1) -> Tensor:
        """The explained score of each row of an output, shape (copies * N,)."""
        if callable(self.target):
            # A target function may hold values per sample, so it always gets the batch as it is.
            return torch.cat([target_rules.score(part, self.target) for part in output.split(self.n)])
        target = self.target if self.target is None or copies == 1 else self.target.repeat(copies)
        return target_rules.score(output, target, self.n_classes)

    def scores(self, inputs: Tensors, copies: int = 1) -> Tensor:
        """The explained score of each row, shape (copies * N,)."""
        return self.score(self.run(inputs, copies), copies)

    def grad(self, inputs: Tensors, copies: int = 1) -> Tensors:
        """Return d score / d input of each row; the library's one first-order autograd call.

        With `create_graph` the result is differentiable with respect to the parameters, and to the inputs that
        require a gradient.
        """
        if self.recompute:
            found: Tensors = checkpoint(self._repeatable_grad, copies, *inputs, use_reentrant=False)
            return found
        return self._grad(inputs, copies)

    def _repeatable_grad(self, copies: int, *inputs: Tensor) -> Tensors:
        with self.surroundings():
            return self._grad(inputs, copies)

    def _grad(self, inputs: Tensors, copies: int) -> Tensors:
        with torch.enable_grad(), differentiable_kernels(self.create_graph):
            leaves = tuple(x if self.create_graph and x.requires_grad else x.detach().requires_grad_() for x in inputs)
            output = self.run(leaves, copies)
            if self.record is not None and inputs is self.inputs:
                self.record(output)
            scores = self.score(output, copies)
            if not scores.requires_grad:
                raise InvalidInputError(
                    "the model's output does not depend on its input through autograd; "
                    "is it detached, or computed under no_grad?"
                )
            start, seeds = scores, torch.ones_like(scores)
            if self.create_graph and not self.recompute:  # one derivative, since each has the pass computed again
                (seeds,) = torch.autograd.grad(scores, output, seeds, create_graph=True)
                # Backward hooks (zennit's rules) build a graph only for a gradient that requires one.
                start, seeds = output, seeds if seeds.requires_grad else seeds.detach().requires_grad_()
            grads = torch.autograd.grad(start, leaves, seeds, create_graph=self.create_graph, allow_unused=True)
        return tuple(torch.zeros_like(x) if g is None else g for x, g in zip(leaves, grads, strict=True))

    def at(self, samples: slice) -> Call:
        """The same call on some of the samples."""
        index = torch.arange(self.n, device=self.inputs[0].device) if self.samples is None else self.samples
        target = self.target[samples] if isinstance(self.target, Tensor) else self.target
        return dataclasses.replace(
            self, inputs=tuple(x[samples] for x in self.inputs), target=target, samples=index[samples]
        )

    def passes(self, copies: int, max_rows: int | None = None) -> Iterator[tuple[Call, list[range]]]:
        """The work of evaluating `copies` versions of every sample, cut into forward passes of a bounded size.

        Args:
            copies: versions of each sample.
            max_rows: most rows in a pass; None lets `rows.rows_per_pass` choose.

        Yields:
            A call on some of the samples, and the ranges of copies to stack, one range for each pass. A target
            function needs the whole batch, so then the samples stay together.
        """
        limit = rows_per_pass(self.inputs, max_rows)
        whole = callable(self.target) or self.n <= limit
        for samples in [range(self.n)] if whole else even_ranges(self.n, limit):
            part = self if whole else self.at(slice(samples.start, samples.stop))
            ranges = even_ranges(copies, max(1, limit // part.n))
            if self.create_graph and (not whole or len(ranges) > 1):
                # Else the graphs of all passes would be alive at once, and memory would grow with the copies.
                part = dataclasses.replace(part, recompute=True)
            yield part, ranges
