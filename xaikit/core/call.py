"""Call: one attribution call as `_attribute` sees it: the inputs are checked, and are a tuple of tensors."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from xaikit.core import targets as target_rules
from xaikit.core.convolutions import fast_convolutions
from xaikit.core.custom_functions import refuse_detached
from xaikit.core.errors import UnreachableError
from xaikit.core.forward import with_rows
from xaikit.core.kernels import check_second_derivative, sound_kernels
from xaikit.core.layer_gradients import read_layers
from xaikit.core.layers import LayerPoint, cut_at
from xaikit.core.model_facts import ModelFacts
from xaikit.core.model_state import Modules
from xaikit.core.reachability import missing_gradients, unreachable
from xaikit.core.recomputation import check_recomputable, recomputed
from xaikit.core.renames import renamed_attribute
from xaikit.core.rows import RowRule, check_rows, even_ranges, rows_per_pass, run_by_batches
from xaikit.core.structure import Tensors, as_leaf, split_rows
from xaikit.core.taps import Tap

Points = Callable[[Tensors], Tensors]
RENAMED = {"grad": "grad_of", "gradient": "grad_at_layers", "record": "on_output", "watched": "traced"}
RENAMED["surroundings"] = "recompute_context"


@dataclasses.dataclass(frozen=True)
class Call:
    """One attribution call on N samples.

    Attributes:
        model: the model, in evaluation mode; a private copy of the user's.
        inputs: what is explained, each tensor shaped (N, ...): the inputs, or a layer's activations.
        layers: the points of the model at which the call is cut, none where it explains the model's inputs.
        runs: how often each of them runs in a pass.
        uncut: the whole call at the model's own inputs, where this one is cut at layers.
        target: class indices (N,), a function of the output, or None.
        create_graph: whether the attribution must stay differentiable.
        seed: of every random number.
        forward: runs the model on stand-ins for `inputs` and on the samples that they stand for.
        rule: how rows may be stacked in one pass.
        batch: the tensors (N, ...) of the whole batch, among which a row runs where rows are not independent.
        facts: what earlier calls found out about the model.
        modules: the model's modules with their names, collected once.
        read_at: the layers whose gradients `grad_at_layers` computes; none if the inputs are explained.
        tap: from a layer's output and a leaf to what the model goes on with; the gradient arrives at the leaf, too.
        sample_major: whether a layer in `read_at` with several rows for each sample has these together.
        on_output: takes the output on `inputs`, with its graph, when `grad_of` or `grad_at_layers` computes it.
        input_names: of `own_inputs`, where the model takes them by name.
        extras: the model's further arguments, by name or in order, for the samples of the whole batch.
        recompute_context: the context in which the model runs, for a pass that is repeated after the call.
        passes_kept: passes on the plain inputs that serve several targets; None keeps none.
        more_targets: what else is explained at the same time; see `targets`.
        recompute: whether `grad_of` drops its graph and builds it again in the loss's backward pass.
        traced: whether each operation of the forward pass is intercepted (LRP), so that none may be replaced by ours.
        form: of the input, as `Forward.form` gives it.
    """

    model: nn.Module
    inputs: Tensors
    target: target_rules.CallTarget
    create_graph: bool
    seed: int
    forward: Callable[[Tensors, Tensor | None], Any]
    layers: tuple[LayerPoint, ...] = ()
    runs: tuple[int, ...] = ()
    uncut: Call | None = None
    head: str | int | None = "logits"
    n_classes: int | None = None
    samples: Tensor | None = None
    rule: RowRule = RowRule()
    batch: Tensors = ()
    facts: ModelFacts = dataclasses.field(default_factory=ModelFacts)
    modules: Modules = dataclasses.field(default_factory=dict)
    read_at: tuple[LayerPoint, ...] = ()
    tap: Callable[[Tensor, Tensor], Tensor] = Tap.apply
    sample_major: Callable[..., bool] = bool
    on_output: Callable[[Tensor], None] | None = None
    input_names: tuple[str, ...] = ()
    extras: Any = None
    recompute_context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext
    passes_kept: dict[Any, Any] | None = None
    more_targets: tuple[target_rules.CallTarget, ...] = ()
    recompute: bool = False
    traced: bool = False
    form: Hashable = None

    if not TYPE_CHECKING:  # a type checker would take any name to be there

        def __getattr__(self, name: str) -> Any:
            raise renamed_attribute("Call", name, RENAMED)

    @property
    def n(self) -> int:
        """Number of samples N."""
        return len(self.inputs[0])

    @property
    def targets(self) -> tuple[target_rules.CallTarget, ...]:
        """All that is explained at once."""
        return self.target, *self.more_targets

    def of_target(self, target: target_rules.CallTarget) -> Call:
        """The call for one of its targets.

        Args:
            target: one of `targets`.
        """
        return dataclasses.replace(self, target=target, more_targets=()) if self.more_targets else self

    @property
    def own_inputs(self) -> Tensors:
        """The model's own inputs of each row, also where the call is cut at layers."""
        if self.uncut is None:
            return self.inputs
        return self.uncut.inputs if self.samples is None else tuple(x[self.samples] for x in self.uncut.inputs)

    @property
    def tokens(self) -> tuple[bool, ...]:
        """Which inputs are vectors of tokens, (N, T, features) where the model reads whole numbers (N, T)."""
        ids = [x.shape[1:] for x in self.own_inputs if not x.is_floating_point()]
        return tuple(x.ndim == 3 and x.shape[1:2] in ids for x in self.inputs)

    def activations(self, inputs: Tensors) -> Tensors:
        """The activations of the call's layers for stand-ins of `own_inputs`.

        Args:
            inputs: tensors (N, ...) in the form of `own_inputs`.
        """
        forward = self.forward if self.uncut is None else self.uncut.forward
        run = lambda: forward(inputs, self.samples)  # noqa: E731
        return cut_at(self.model, self.layers, run, len(inputs[0]), self.create_graph)

    def run(self, inputs: Tensors, copies: int = 1) -> Tensor:
        """The model's output on stacked versions of the batch.

        Args:
            inputs: tensors (copies * N, ...), copy by copy.
            copies: number of versions.

        Returns:
            The explained head, (copies * N, ...).
        """
        samples = self.samples
        if copies > 1:
            one = torch.arange(self.n, device=inputs[0].device) if samples is None else samples
            samples = one.repeat(copies)
        return self.output_of(inputs, samples)

    def output_of(self, inputs: Tensors, samples: Tensor | None) -> Tensor:
        """The explained output of rows that stand for some samples; None means the samples of the batch in order.

        Where the model's rows are not independent, each row runs inside a whole batch.

        Args:
            inputs: rows (R, ...).
            samples: the sample that each row stands for, (R,), or None.

        Raises:
            InvalidInputError: when the model does not return one row per sample.
        """
        if samples is None or self.rule.independent:
            output = with_rows(target_rules.pick_head(self.forward(inputs, samples), self.head), len(inputs[0]))
            check_rows(output, len(inputs[0]), lambda: self.own_inputs)
            return output
        return run_by_batches(self.output_of, inputs, samples, self.batch)

    def score(self, output: Tensor, copies: int = 1) -> Tensor:
        """The explained score of each row of an output, shape (copies * N,).

        Args:
            output: the explained head, (copies * N, ...).
            copies: versions of the batch in it.
        """
        if callable(self.target):
            # A target function may hold values per sample, so it always gets the batch as it is.
            parts = split_rows(output, self.n) if copies > 1 else [output]
            return torch.cat([target_rules.score(part, self.target, n=self.n) for part in parts])
        target = self.target if self.target is None or copies == 1 else self.target.repeat(copies)
        return target_rules.score(output, target, self.n_classes, n=copies * self.n)

    def scores(self, inputs: Tensors, copies: int = 1) -> Tensor:
        """The explained score of each row, shape (copies * N,).

        Args:
            inputs: tensors (copies * N, ...), copy by copy.
            copies: versions of the batch in them.
        """
        return self.score(self.run(inputs, copies), copies)

    def grad_of(self, inputs: Tensors, copies: int = 1, at: Points | None = None) -> Tensors:
        """The derivative d score / d input of each row; the library's only first-order autograd call.

        With `create_graph` the result is differentiable with respect to the parameters, and to the inputs that
        require a gradient.

        Args:
            inputs: stand-ins for the call's inputs.
            copies: versions of the batch stacked in them.
            at: called with the leaves after the forward pass, gives the pass's tensors to differentiate by instead.
        """
        if self.recompute and at is None:
            check_recomputable(self, inputs)
            return recomputed(self._repeatable_grad, copies, *inputs)
        return self._grad(inputs, copies, at)

    def grads_of(self, inputs: Tensors, copies: int = 1, at: Points | None = None) -> Iterator[Tensors]:
        """As `grad_of`, for each of `targets` in turn: one forward pass, and a backward pass for each.

        Args:
            inputs: as for `grad_of`.
            copies: likewise.
            at: likewise.
        """
        calls = [self.of_target(target) for target in self.targets]
        if len(calls) == 1 or self.recompute:
            yield from (call.grad_of(inputs, copies, at) for call in calls)
            return
        with self._kernels():
            leaves, output = self._pass(inputs, copies)
            leaves = leaves if at is None else at(leaves)
        for call in calls:
            with self._kernels():
                grads = call._differentiated(output, leaves, copies, retain=call is not calls[-1])
            yield grads

    def _repeatable_grad(self, copies: int, *inputs: Tensor) -> Tensors:
        with self.recompute_context():
            return self._grad(inputs, copies)

    @contextlib.contextmanager
    def _kernels(self) -> Iterator[None]:
        """The context of a gradient: operations without a second derivative, or with a slow one, are replaced."""
        is_double = any(x.dtype == torch.float64 or not x.is_floating_point() for x in self.inputs)  # ids do not say
        with (
            torch.enable_grad(),
            sound_kernels(self.facts, self.form, create_graph=self.create_graph, is_double=is_double),
            contextlib.nullcontext() if self.traced else fast_convolutions(self.modules, twice=self.create_graph),
        ):
            yield

    def _grad(self, inputs: Tensors, copies: int, at: Points | None = None) -> Tensors:
        with self._kernels():
            plain = inputs is self.inputs and at is None
            leaves, output = self._kept("inputs", plain, lambda: self._pass(inputs, copies))
            if self.on_output is not None and inputs is self.inputs:
                self.on_output(output)
            try:
                return self._differentiated(output, leaves if at is None else at(leaves), copies)
            except UnreachableError as error:
                layers = UnreachableError("the explained score does not depend on the chosen layer's output")
                raise (error if at is None else layers) from None

    def _pass(self, inputs: Tensors, copies: int) -> tuple[Tensors, Any]:
        """Leaves with the inputs' values, and the model's output on them."""
        leaves = tuple(as_leaf(x, keep_graph=self.create_graph) for x in inputs)
        return leaves, self.run(leaves, copies)

    def _kept(self, kind: str, plain: bool, run: Callable[[], Any]) -> Any:
        """A pass on the plain inputs, run once for several targets."""
        if self.passes_kept is None or not plain:
            return run()
        key = kind, id(self.forward), id(self.tap)
        if key not in self.passes_kept:
            self.passes_kept[key] = run(), self.forward, self.tap  # held, so that no other object gets their ids
        return self.passes_kept[key][0]

    def grad_at_layers(self, points: Sequence[Tensor] = ()) -> tuple[Tensors, Tensors]:
        """The explained tensors and d score / d each of them, by one forward and one backward pass.

        At layers both are read off during the pass, so that one layer may feed another; with `create_graph` a
        derivative then reaches the parameters before a layer, too.

        Args:
            points: further tensors to which the backward pass must go, read once the forward pass is over.

        Returns:
            The explained tensors (the inputs, or the layers' activations), and the derivative by each.
        """
        if not self.read_at:
            return self.inputs, self.grad_of(self.inputs)
        layers = read_layers(self, points)
        return layers.gathered(layers.activations), layers.gathered(layers.gradients)

    def _differentiated(
        self,
        output: Tensor,
        points: Tensors,
        copies: int = 1,
        *,
        runs: Sequence[int] | None = None,
        retain: bool = False,
    ) -> Tensors:
        """Return d score / d point of an output.

        Args:
            output: the model's output, with its graph.
            points: the tensors to differentiate by.
            copies: versions of the batch in the output.
            runs: how many of the first points are runs of each explained layer; others are not explained. None: all.
            retain: keep the graph for a further backward pass.

        Raises:
            UnreachableError, NotDifferentiableError: when the score does not depend on what is explained; when torch
                cannot differentiate the gradient, and it must.
        """
        scores = self.score(output, copies)
        if not scores.requires_grad or not any(x.requires_grad for x in points):
            raise unreachable(self.layers or self.read_at, ())
        # Not the scores with a gradient of ones: torch imports sympy, which takes a second, to look at its shape.
        start, seeds = (scores, torch.ones_like(scores)) if self.create_graph else (scores.sum(), None)
        if self.create_graph and not self.recompute:  # one derivative, since each has the pass computed again
            if isinstance(output, Tensor):  # not where a target looks at all that the model returns
                (seeds,) = torch.autograd.grad(scores, output, seeds, create_graph=True)
                start = output
            # zennit's hooks build a graph only for a gradient that requires one.
            seeds = seeds if seeds.requires_grad else seeds.detach().requires_grad_()
        grads = torch.autograd.grad(
            start,
            points,
            seeds,
            create_graph=self.create_graph,
            retain_graph=self.create_graph or retain or self.passes_kept is not None,
            allow_unused=True,
        )
        missing = missing_gradients(grads, runs)
        if all(missing) or ((self.read_at or self.layers) and any(missing)):
            raise unreachable(self.layers or self.read_at, missing)
        if self.create_graph and not self.traced:
            of_inputs = tuple((tuple(x.shape[1:]), x.dtype) for x in self.inputs)
            if check_second_derivative(grads, self.facts, (self.form, of_inputs, tuple(p.name for p in self.layers))):
                refuse_detached(self, start)
        return tuple(torch.zeros_like(x) if g is None else g for x, g in zip(points, grads, strict=True))

    def at(self, samples: slice) -> Call:
        """The same call on some of the samples.

        Args:
            samples: a slice of the samples.
        """
        index = torch.arange(self.n, device=self.inputs[0].device) if self.samples is None else self.samples
        return dataclasses.replace(
            self,
            inputs=tuple(x[samples] for x in self.inputs),
            target=target_rules.of_samples(self.target, samples),
            more_targets=tuple(target_rules.of_samples(target, samples) for target in self.more_targets),
            samples=index[samples],
        )

    def stacked(self, inputs: Tensors, copies: int) -> Call:
        """A call on stacked versions of the batch, each row a sample of its own.

        Args:
            inputs: tensors (copies * N, ...), copy by copy.
            copies: number of versions.
        """
        index = torch.arange(self.n, device=inputs[0].device) if self.samples is None else self.samples
        target = target_rules.of_copies(self.target, copies, self.n)
        uncut = self.uncut and self.uncut.stacked(
            tuple(x.repeat(copies, *[1] * (x.ndim - 1)) for x in self.uncut.inputs), copies
        )
        return dataclasses.replace(self, inputs=inputs, target=target, samples=index.repeat(copies), uncut=uncut)

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
        if not self.rule.independent:
            limit = self.n
        in_one_pass = any(map(callable, self.targets)) or self.n <= limit
        for samples in [range(self.n)] if in_one_pass else even_ranges(self.n, limit):
            part = self if in_one_pass else self.at(slice(samples.start, samples.stop))
            ranges = even_ranges(copies, max(1, limit // part.n))
            if self.create_graph and (not in_one_pass or len(ranges) > 1):
                # Else the graphs of all passes would be alive at once, and memory would grow with the copies.
                part = dataclasses.replace(part, recompute=True)
            yield part, ranges
