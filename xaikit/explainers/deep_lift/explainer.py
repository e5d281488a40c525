"""DeepLIFT and DeepLIFT-SHAP: differences to a baseline, passed back operation by operation."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core import BASELINES, EXPLAINERS, Call, Choice, Explainer, Int
from xaikit.core.process_wide import warnings_ignored
from xaikit.core.registered_hooks import gradient_hooks_off
from xaikit.core.rows import RowRule
from xaikit.core.structure import Tensors, joined_parts
from xaikit.explainers.copy_scores import scores_of_copies
from xaikit.explainers.deep_lift.rules import handler_of
from xaikit.explainers.deep_lift.trace import SideBySide
from xaikit.explainers.expected_gradients import checked_references, references_of
from xaikit.explainers.lrp.flow import Flow


def multipliers(call: Call, inputs: Tensors, baselines: Tensors, copies: int = 1) -> tuple[Tensors, dict[str, str]]:
    """The multiplier of each input: (x - baseline) * multiplier sums to S(x) - S(baseline).

    Args:
        call: the open call, for one target.
        inputs: stacked versions of its inputs, (copies * N, ...), copy by copy.
        baselines: of the same shapes.
        copies: how many versions.

    Returns:
        The multipliers, and the operations that have no rule, with the place where they ran.
    """
    stacked = call if copies == 1 else call.stacked(inputs, copies)
    flow, unknown = Flow(differentiable=call.create_graph), {}

    def forward(leaves: Tensors, _samples: Tensor | None) -> Tensor:
        trace = SideBySide(flow, handler_of)
        copies_of_inputs = trace.watched(leaves, baselines)
        with trace:
            scores = stacked.score(stacked.run(tuple(copies_of_inputs)))
        trace.check(scores)
        unknown.update(trace.unknown)
        return scores

    @contextlib.contextmanager
    def again() -> Iterator[None]:
        with call.recompute_context(), flow.relevance():
            yield

    traced = dataclasses.replace(
        stacked, inputs=inputs, forward=forward, target=None, head=None, n_classes=None, samples=None, on_output=None,
        rule=RowRule(), traced=True, passes_kept=None, recompute_context=again,
    )  # fmt: skip
    with flow.relevance():
        values = traced.grad_of(inputs)
    if unknown:
        operations = ", ".join(f"{op} (in {where})" if where else op for op, where in unknown.items())
        warnings.warn(
            f"DeepLIFT has no exact rule for: {operations}; the attributions may miss S(x) - S(baseline), by "
            "the gap that explain reports",
            stacklevel=2,
        )
    return values, unknown


class Differences(Explainer):
    """Base: attributions that sum to the difference of the score to that of a baseline, exactly."""

    GAP_TOLERANCE: ClassVar[float | None] = 0.01
    PASSES: ClassVar[tuple[str | int, ...]] = (3,)  # two forward, one backward, and the multipliers
    USES_GLOBAL_RANDOM: ClassVar[bool] = False

    def _model_context(self, call: Call) -> contextlib.AbstractContextManager[None]:
        return gradient_hooks_off(call.modules)

    def missing_rules(self, inputs: Any) -> tuple[str, ...]:
        """Operations of the model, on these inputs, whose multipliers are a mean of derivatives.

        Args:
            inputs: as for `attribute`.
        """
        unknown: dict[str, str] = {}

        def method(call: Call) -> tuple[Tensors, ...]:
            summed = dataclasses.replace(call, target=lambda output: output.flatten(1).sum(1))
            zeros = tuple(torch.zeros_like(x) for x in call.inputs)
            with warnings_ignored():  # what it would warn of is what is asked
                unknown.update(multipliers(summed, call.inputs, zeros)[1])
            return ()

        self.run_call(method, inputs, None, create_graph=False, seed=0)
        return tuple(f"{op} in {where}" if where else op for op, where in unknown.items())


@EXPLAINERS.register("deep_lift")
class DeepLift(Differences):
    """(x - b) * multiplier: differences to a baseline, passed back (Shrikumar et al. 2017, arXiv:1704.02685).

    Each operation hands on what it gets times (f(x) - f(b)) / (x - b), the rescale rule. Of two factors each gets its
    Shapley value of their difference (Lundberg and Lee 2017, arXiv:1705.07874). What lies between modules is seen too,
    and normalisations and attention are computed by such plain steps, so the attributions sum to S(x) - S(b).

    >>> import torch
    >>> model, x = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.GELU(), torch.nn.Linear(4, 2)), torch.rand(1, 3)
    >>> total = model(x) - model(torch.zeros(1, 3))
    >>> DeepLift(model).attribute(x, 0).sum().allclose(total[0, 0], atol=1e-5)
    True
    """

    baseline: Annotated[Any, Choice(BASELINES), "what is compared with: a name, a number, a tensor or a Baseline"] = (
        "zeros"
    )

    def _attribute(self, call: Call) -> Tensors:
        baselines = self.baseline.of(call)
        values, _ = multipliers(call, call.inputs, baselines)
        return tuple((x - b) * m for x, b, m in zip(call.inputs, baselines, values, strict=True))

    def _promised_total(self, call: Call) -> Tensor:
        return call.scores(call.inputs) - call.scores(self.baseline.of(call))


@EXPLAINERS.register("deep_lift_shap")
class DeepLiftShap(Differences):
    """Mean of DeepLIFT over reference samples (Lundberg and Lee 2017, arXiv:1705.07874).

    The attributions sum to S(x) minus the mean of S(b). Without references, zero is the only one.

    >>> import torch
    >>> model, x, references = torch.nn.Linear(3, 2), torch.rand(1, 3), torch.rand(5, 3)
    >>> expected = model.weight[:1] * (x - references.mean(0))
    >>> DeepLiftShap(model, references=references).attribute(x, 0).allclose(expected, atol=1e-6)
    True
    """

    references: Annotated[
        Any, checked_references, "samples to compare with, (K, ...); a tuple of them for several inputs"
    ] = None
    max_rows: Annotated[int | None, Int(ge=1, optional=True), "most rows in one forward pass; None chooses"] = None

    def _attribute(self, call: Call) -> Tensors:
        references = references_of(self.references, call.inputs)
        count, blocks = len(references[0]), []
        for part, passes in call.passes(count, self.max_rows):
            totals = [torch.zeros_like(x) for x in part.inputs]
            for some in passes:
                k = len(some)
                starts = [r[some.start : some.stop].to(x) for r, x in zip(references, part.inputs, strict=True)]
                pairs = [
                    (x.expand(k, *x.shape), b.unsqueeze(1).expand(k, *x.shape))
                    for x, b in zip(part.inputs, starts, strict=True)
                ]
                stacked = tuple(x.flatten(0, 1) for x, _ in pairs)
                values, _ = multipliers(part, stacked, tuple(b.flatten(0, 1) for _, b in pairs), k)
                for i, (m, (x, b)) in enumerate(zip(values, pairs, strict=True)):
                    totals[i] = totals[i] + ((x - b) * m.view(x.shape)).sum(0)
            blocks.append([tuple(t / count for t in totals)])
        return joined_parts(blocks)[0]

    def _promised_total(self, call: Call) -> Tensor:
        references = references_of(self.references, call.inputs)

        def change(part: Call, _samples: slice, some: range) -> Tensors:
            return tuple(
                r[some.start : some.stop].to(x).unsqueeze(1).expand(len(some), *x.shape)
                for r, x in zip(references, part.inputs, strict=True)
            )

        return call.scores(call.inputs) - scores_of_copies(call, len(references[0]), change, self.max_rows).mean(0)
