"""The number of rows in one forward pass, and whether rows of a model may be stacked at all."""

from __future__ import annotations

import dataclasses
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core import torch_private
from xaikit.core.errors import InvalidInputError
from xaikit.core.structure import Tensors, join_rows

# Measured with benchmarks/noise.py on one CPU thread: a resnet18 on 64 x 64 images is within 7 % of its best speed
# from 16 rows on, a LeNet fastest at 32; larger passes leave the cache and cost memory. A GPU wants more rows.
CPU_VALUES, CPU_ROWS = 2**18, 32
GPU_VALUES, GPU_ROWS = 2**24, 512
LEAST_ROWS = 4
# Other kernels run for another number of rows, so results agree up to rounding (on a GPU with TF32, less).
TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 5e-2}
GPU_TOLERANCE = 1e-2
MAX_AMBIGUOUS = 4  # further arguments of length N for which both readings are tried


def rows_per_pass(inputs: Tensors, max_rows: int | None = None) -> int:
    """Most rows in a pass for inputs shaped (N, ...)."""
    if max_rows is not None:
        if max_rows < 1:
            raise InvalidInputError(f"max_rows must be at least 1, got {max_rows}")
        return max_rows
    values = max(1, sum(x[0].numel() for x in inputs))
    on_cpu = inputs[0].device.type == "cpu"
    budget, most = (CPU_VALUES, CPU_ROWS) if on_cpu else (GPU_VALUES, GPU_ROWS)
    return min(most, max(LEAST_ROWS, budget // values))


def even_ranges(total: int, limit: int) -> list[range]:
    """0..total cut into the fewest ranges of at most `limit`, of nearly equal length."""
    count = -(-total // limit)
    edges = [total * i // count for i in range(count + 1)]
    return [range(a, b) for a, b in zip(edges, edges[1:], strict=False)]


@dataclasses.dataclass(frozen=True)
class RowRule:
    """How the rows of a model may be stacked, for one form of input.

    Attributes:
        independent: whether a row's output depends on that row alone. Where it does not, every version of the batch
            runs by itself.
        shared: positions of the further arguments that all rows share although their length is N.
        certain: whether the model gave different outputs for different inputs when it was asked. One that does not,
            such as one whose last layer begins at 0, shows nothing of its rows.
    """

    independent: bool = True
    shared: frozenset[int] = frozenset()
    certain: bool = True


@dataclasses.dataclass(frozen=True)
class RememberedRule:
    """The row rule of a form of input, and when the model was asked.

    Rows that saw each other once may do so again. Rows that did not may begin to, as the weights change: behind a gate
    that begins at 0, all rows are independent. So a model is asked again when its weights have changed once, eight
    times as often, and so on, which costs little also in a long training.

    Attributes:
        rule: the answer.
        first: how often the weights had changed when the model was asked for the first time.
        last: the same for the last time.
    """

    rule: RowRule
    first: int
    last: int

    def is_stale(self, age: int) -> bool:
        """Whether to ask again.

        Args:
            age: how often the weights have changed by now.
        """
        if not self.rule.independent or age == self.last:
            return False
        return age < self.last or age - self.last >= 7 * (self.last - self.first)


def weights_age(modules: Iterable[nn.Module]) -> int:
    """How often the weights of a model have been written into.

    Args:
        modules: the user's, all of them.
    """
    parameters = (p for module in modules for p in torch_private.parameters_of(module).values() if p is not None)
    return sum(0 if p.is_inference() else torch_private.version_of(p) for p in parameters)


# From stand-ins for the inputs, the samples that they stand for, and a row rule to the model's output (rows, ...).
Outputs = Callable[[Tensors, Tensor | None, RowRule], Tensor]


def find_row_rule(outputs: Outputs, inputs: Tensors, ambiguous: int, limit: int) -> RowRule:
    """How rows may be stacked: two different versions of the batch in one pass must give what each gives alone.

    One row alone must also give what it gives inside the batch. This is asked last, and a graph has failed the first
    question by then: on a GPU, its indices that point at missing rows would end the process.

    Args:
        outputs: runs the model.
        inputs: the batch, tensors (N, ...).
        ambiguous: number of further arguments whose length is N, so that each may hold a value for every sample, or be
            shared by all.
        limit: most rows in a pass. A larger batch is asked about with its first rows.
    """
    n = len(inputs[0])
    count = n if n <= limit else max(1, limit // 2)
    first = torch.arange(count, device=inputs[0].device)
    batch = tuple(x[:count] for x in inputs)
    samples = None if count == n else first
    for shared in _readings(ambiguous):
        rule = RowRule(shared=shared)
        plain = _attempt(outputs, batch, samples, rule)
        if plain is None or plain.ndim == 0:
            continue
        for other in _versions(batch):
            alone = _attempt(outputs, other, samples, rule)
            if alone is not None:
                break
        else:
            continue
        both = tuple(torch.cat([x, y]) for x, y in zip(batch, other, strict=True))
        stacked = _attempt(outputs, both, first.repeat(2), rule)
        if (
            alone.shape == plain.shape
            and agree(stacked, torch.cat([plain, alone]))
            and agree(_attempt(outputs, tuple(x[:1] for x in inputs), first[:1], rule), plain[:1])
        ):
            return dataclasses.replace(rule, certain=not agree(alone, plain))
    return RowRule(independent=False)


def check_rows(output: Any, rows: int, inputs: Callable[[], Tensors]) -> None:
    """Refuse an output that has not one row for each row of the inputs.

    Args:
        output: what is explained of what the model returned.
        rows: how many there should be.
        inputs: gives those of the model, to name their shapes.

    Raises:
        InvalidInputError: naming the shapes.
    """
    if isinstance(output, Tensor) and (output.ndim == 0 or len(output) != rows):
        shapes = " and ".join(str(tuple(x.shape)) for x in inputs())
        raise InvalidInputError(
            f"the model must return one row per sample, got {tuple(output.shape)} for a batch of {rows} "
            f"(inputs of shape {shapes}); the first axis of inputs and output counts the samples"
        )


def warn_of_dependent_rows(
    model: str,
    consequence: str = "Methods that evaluate several versions of the batch run them one at a time, which is slower",
) -> None:
    """Say that a row's output changes with the other rows.

    Args:
        model: the name of its class.
        consequence: what this means for the caller, a sentence.
    """
    warnings.warn(
        f"the rows of this {model} are not independent: a row's output changes with the other rows of a pass, or with "
        f"their number. {consequence}",
        stacklevel=2,
    )


def _readings(ambiguous: int) -> Iterator[frozenset[int]]:
    """Which of the ambiguous arguments are shared: none, all, then every other choice."""
    everything = range(min(ambiguous, MAX_AMBIGUOUS))
    yield frozenset()
    for count in range(ambiguous, 0, -1) if ambiguous <= MAX_AMBIGUOUS else [ambiguous]:
        members = everything if ambiguous <= MAX_AMBIGUOUS else range(ambiguous)
        for choice in itertools.combinations(members, count):
            yield frozenset(choice)


def _versions(batch: Tensors) -> Iterator[Tensors]:
    """Other batches, the best first: where blending changes nothing, as in a batch of zeros, other numbers."""
    blended = tuple(map(_blended, batch))
    if all(torch.equal(x, y) for x, y in zip(batch, blended, strict=True)):
        yield tuple(map(_other_numbers, batch))
    yield blended


def _other_numbers(x: Tensor) -> Tensor:
    if x.dtype == torch.bool:
        return ~x
    if x.is_floating_point() or x.is_complex():
        steps = torch.arange(1, len(x) + 1, device=x.device) / (2 * len(x))
        steps = steps.to(x.dtype).view(-1, *[1] * (x.ndim - 1))
        return torch.where(x == 0, steps, x * (1 - steps))
    # An id minus 1 is a valid id, too. An id plus 1 may be invalid, and that ends the process on a GPU.
    less = x - (x > 0).to(x.dtype)
    return x + 1 if x.device.type == "cpu" and torch.equal(less, x) else less


def _blended(x: Tensor) -> Tensor:
    """Every row blended with its neighbour; whole numbers change places."""
    if x.is_floating_point() or x.is_complex():
        return (x + x.roll(1, 0)) / 2 if len(x) > 1 else x * 0.5
    if len(x) > 1:
        return x.roll(1, 0)
    return x.flip(1) if x.ndim > 1 else x


def _attempt(outputs: Outputs, rows: Tensors, samples: Tensor | None, rule: RowRule) -> Tensor | None:
    """The output, or None where the model does not take these rows."""
    try:
        return outputs(rows, samples, rule)
    except Exception:  # noqa: BLE001  (whatever a model raises on rows that it was not written for)
        return None


def agree(values: Tensor | None, true: Tensor) -> bool:
    """Whether values are those of the same rows in another pass, but for rounding.

    Args:
        values: to judge; None where the pass failed.
        true: what they should be.
    """
    if values is None or values.shape != true.shape or values.dtype != true.dtype:
        return False
    if values.is_complex():
        values, true = torch.view_as_real(values), torch.view_as_real(true)
    if not values.is_floating_point():
        return bool((values == true).all())
    tolerance = TOLERANCE.get(true.dtype, 1e-2)
    if true.device.type != "cpu":
        tolerance = max(tolerance, GPU_TOLERANCE)
    finite = true.isfinite()
    if not bool((values.isfinite() == finite).all()):
        return False
    error = (values - true)[finite].abs()
    scale = true[finite].abs()
    return error.numel() == 0 or bool(error.max() <= tolerance * scale.max().clamp_min(torch.finfo(true.dtype).tiny))


def run_by_batches(  # noqa: PLR0913
    run: Callable[[Tensors, Tensor | None], Any],
    inputs: Tensors,
    samples: Tensor,
    batch: Tensors,
) -> Any:
    """The outputs of rows of a model whose rows are not independent: each row runs inside a whole batch.

    Rows take their sample's place in the first version of the batch where that place is free; a place that stays empty
    holds the sample as it is.

    Args:
        run: gives the output (N, ...) of one version of the batch.
        inputs: rows (R, ...).
        samples: the sample that each row stands for, (R,).
        batch: the batch as it is, (N, ...).
    """
    n = len(batch[0])
    # How many rows before this one stand for the same sample.
    order = torch.argsort(samples, stable=True)
    ranks = torch.arange(len(samples), device=samples.device)
    ordered = samples[order]
    starts = torch.searchsorted(ordered, ordered)
    version = torch.empty_like(samples)
    version[order] = ranks - starts
    outputs = []
    count = int(version.max()) + 1
    for k in range(count):
        chosen = (version == k).nonzero()[:, 0]
        if len(chosen) == n and bool((samples[chosen] == torch.arange(n, device=samples.device)).all()):
            stand_ins = tuple(x[chosen] for x in inputs)
        else:
            stand_ins = tuple(b.index_copy(0, samples[chosen], x[chosen]) for b, x in zip(batch, inputs, strict=True))
        outputs.append(run(stand_ins, None))
    return join_rows(outputs, lambda t: t[version * n + samples])
