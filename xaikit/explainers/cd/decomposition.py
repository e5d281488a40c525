"""Running a model on decomposed inputs, many masks at a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from xaikit.core.call import Call
from xaikit.core.errors import InvalidTypeError, UnsupportedOperationError
from xaikit.core.inputs import complex_inputs_error
from xaikit.core.results import Result
from xaikit.core.rows import CPU_VALUES, LEAST_ROWS, even_ranges, rows_per_pass
from xaikit.explainers.cd.decomposed import Decomposed, constant_like
from xaikit.explainers.cd.rules.embedding import MaskedTokens
from xaikit.explainers.cd.ruleset import Approximation, Context
from xaikit.explainers.cd.shares import ShareLostError
from xaikit.explainers.cd.splits import Split, common_count
from xaikit.explainers.cd.storage import WrittenTensors
from xaikit.explainers.cd.unwrapping import observers_see_totals


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Decomposition(Result):
    """The contributions of the relevant part of the input and of the rest to the output.

    Attributes:
        relevant: (masks, N, ...), for an output (N, ...).
        irrelevant: the same shape; relevant + irrelevant is the output.
        approximations: the ops that were split in proportion, for want of a rule (``on_missing="proportional"``).
    """

    relevant: Tensor
    irrelevant: Tensor
    approximations: tuple[Approximation, ...] = ()

    @property
    def total(self) -> Tensor:
        """The sum relevant + irrelevant, (masks, N, ...)."""
        return self.relevant + self.irrelevant

    def gap(self, output: Tensor) -> Tensor:
        """Largest |relevant + irrelevant - output| over masks and outputs, (N,).

        Args:
            output: of the model, (N, ...).
        """
        miss = (self.total - output).abs().amax(0)
        return miss.flatten(1).amax(1) if miss.dim() > 1 else miss


# Measured with benchmarks/cd.py on one CPU thread: a LeNet is fastest with 128 rows, a mobilenet on large images with
# two samples; buffers beyond 32 MiB are handed back to the system after each step, which costs more than the step.
MOST_ROWS = 128

OutputFunction = Callable[[Call, Tensor], Tensor]


def decompose_call(
    call: Call,
    splits: Sequence[Split | None],
    context: Context,
    *,
    max_rows: int | None = None,
    output: OutputFunction = lambda _call, value: value,
) -> Decomposition:
    """Decompose the output of a call.

    Args:
        call: the call, whose inputs are to be decomposed.
        splits: one for each input; None leaves an input as a constant, which is shared like a bias.
        context: the rules.
        max_rows: most rows (masks times samples) in a pass.
        output: what to decompose: the model's output, or some function of it, such as a score for each sample.
    """
    if any(x.is_complex() for x in call.inputs):
        raise complex_inputs_error(next(x.dtype for x in call.inputs if x.is_complex()))
    samples, masks = _per_pass(call, common_count(splits), max_rows)
    of_samples = []
    for part in samples:
        one = slice(part.start, part.stop)
        part_call = call if len(part) == call.n else call.at(one)
        part_splits = [s and s.of_samples(one) for s in splits]
        pieces = [
            _parts(part_call, [s and s.take(some) for s in part_splits], context.take(some, one), output)
            for some in (slice(r.start, r.stop) for r in masks)
        ]
        of_samples.append(pieces[0] if len(pieces) == 1 else torch.cat(pieces, 1))
    parts = of_samples[0] if len(of_samples) == 1 else torch.cat(of_samples, 2)
    return Decomposition(parts[0], parts[1], tuple(dict.fromkeys(context.approximations)))


def _per_pass(call: Call, count: int, max_rows: int | None) -> tuple[list[range], list[range]]:
    """The samples and the masks of each pass: all masks of a few samples together, since they share the totals."""
    if max_rows is None and call.inputs[0].device.type == "cpu":
        budget = CPU_VALUES // max(1, sum(x[0].numel() for x in call.inputs))
        rows = min(MOST_ROWS, max(LEAST_ROWS, 4 * budget))
        limit = min(rows // max(count, 2), max(2, budget))
    else:
        rows = max_rows or 4 * rows_per_pass(call.inputs)
        limit = rows // count
    limit = max(1, limit)
    all_samples = any(map(callable, call.targets)) or not call.rule.independent
    samples = call.n if all_samples else min(call.n, limit)
    return even_ranges(call.n, samples), even_ranges(count, max(1, rows // samples))


def _parts(call: Call, splits: Sequence[Split | None], context: Context, output: OutputFunction) -> Tensor:
    """(2, masks, N, ...) for one pass; sample by sample where their own masks cannot be followed through the model."""
    written = WrittenTensors()
    pass_context = dataclasses.replace(context, written=written)
    try:
        inputs = tuple(
            x if split is None else split.apply(x, pass_context) for x, split in zip(call.inputs, splits, strict=True)
        )
        with written, observers_see_totals(call.modules):
            result = written.current(output(call, call.run(inputs)))
    except ShareLostError:
        if call.n == 1:
            raise
        alone = [
            _parts(call.at(one), [s and s.of_samples(one) for s in splits], context.take(slice(None), one), output)
            for one in (slice(i, i + 1) for i in range(call.n))
        ]
        return torch.cat(alone, 2)
    except RuntimeError as error:
        if "TorchScript interpreter" not in str(error):
            raise
        raise UnsupportedOperationError(
            "contextual decomposition cannot look inside a scripted function, which this model calls; pass the model "
            "as it was before torch.jit.script"
        ) from error
    if isinstance(result, Decomposed):
        return _of_precision(result.parts, inputs)
    decomposed = next(x for x in inputs if isinstance(x, Decomposed | MaskedTokens))
    if isinstance(decomposed, MaskedTokens):
        raise InvalidTypeError(
            f"token ids of {decomposed.ids.dtype} must reach an embedding layer as they are or moved about; this "
            f"{type(call.model).__name__} has none that they reach; else pass inputs.float()"
        )
    share = decomposed.share.flatten(1).mean(1) if decomposed.share.dim() > 1 else decomposed.share
    like = Decomposed(torch.zeros(2, len(share), 0, dtype=result.dtype, device=result.device), share, context)
    return _of_precision(constant_like(result, like).parts, inputs)


def _of_precision(parts: Tensor, inputs: Sequence[Tensor]) -> Tensor:
    """The parts in the precision of the inputs, where autocast made them coarser; tokens have torch's default."""
    if not torch.is_autocast_enabled(parts.device.type):
        return parts
    floats = [x.dtype for x in inputs if x.is_floating_point()]
    return parts.to(torch.promote_types(parts.dtype, floats[0] if floats else torch.get_default_dtype()))
