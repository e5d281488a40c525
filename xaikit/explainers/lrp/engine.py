"""The LRP engine: one attribution call by the rules of a zennit composite, and what `explain` counts."""

from __future__ import annotations

import contextlib
import dataclasses
import warnings
from collections.abc import Generator, Iterator, Sequence
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from xaikit.core import Call, Explainer
from xaikit.core.attribution import Explained
from xaikit.core.errors import InvalidTypeError, NonFiniteError
from xaikit.core.forward import with_rows
from xaikit.core.model_state import modules_of
from xaikit.core.process_wide import warnings_ignored
from xaikit.core.registered_hooks import gradient_hooks_off
from xaikit.core.structure import Tensors
from xaikit.core.targets import pick_head
from xaikit.core.torch_private import tree_iter, tree_map_only
from xaikit.explainers.lrp.flow import Flow, relevance_of
from xaikit.explainers.lrp.ledger import Ledger, may_absorb, sizes
from xaikit.explainers.lrp.trace import Trace
from xaikit.explainers.lrp.zennit_rules import Rules, canonized


def _canonizers(value: Any, where: str) -> Any:
    if value is None or (isinstance(value, Sequence) and not isinstance(value, str)):
        return value if value is None else tuple(value)
    raise InvalidTypeError(f"{where} must be a sequence of zennit canonizers or None, got {value!r}")


def _sum_of_outputs(output: Any) -> Tensor:
    parts = [x.flatten(1).sum(1) for x in tree_iter(output) if isinstance(x, Tensor) and x.is_floating_point()]
    return torch.stack(parts).sum(0)


class ZennitLRP(Explainer):
    """Relevance by the rules of a zennit composite, on live parameters, for modules and for what runs between them.

    The relevance of the explained score S is handed back layer by layer; a rule says how each operation shares its
    output's relevance among its inputs. BatchNorm is folded into the affine operation beside it. A model that ends in a
    softmax is explained by its logits.
    """

    SINGLE_BACKWARD: ClassVar[bool] = True
    SHARES_TASK_FORWARD: ClassVar[bool] = True
    USES_GLOBAL_RANDOM: ClassVar[bool] = False
    ATTENTION: ClassVar[bool] = False  # whether relevance flows through attention weights
    SUPPORTED_MODULES: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)
    PASSES: ClassVar[tuple[str | int, ...]] = (2,)

    zennit_canonizers: Annotated[Any, _canonizers, "zennit canonizers; BatchNorm and residual adds need none"] = None

    def _make_composite(self) -> Any:
        """The zennit composite of the current settings."""
        raise NotImplementedError

    def _shares_forward(self, keep_mode: bool) -> bool:
        return not keep_mode  # a BatchNorm that follows its rule updates no statistics

    def _model_context(self, call: Call) -> contextlib.AbstractContextManager[None]:
        return gradient_hooks_off(call.modules)

    def _attribute(self, call: Call) -> Tensors:
        (relevance,) = self._attribute_each(call)
        return relevance

    def _attribute_each(self, call: Call, ledger: Ledger | None = None) -> Iterator[Tensors]:
        with contextlib.closing(self._relevance(call, ledger)) as every:
            for target, relevance in zip(call.targets, every, strict=True):
                if not all(bool(r.detach().sum().isfinite()) for r in relevance):
                    every.close()
                    self._raise_nonfinite(call.of_target(target))
                yield relevance

    def _check_rules(self, rules: Rules) -> None:
        """Refuse a composite by what it had for the model that has just run."""

    def _relevance(self, call: Call, ledger: Ledger | None) -> Generator[Tensors]:
        """The relevance for each of the call's targets, one after the other."""
        return self._traced(call, self._trace(call, ledger))

    def _trace(self, call: Call, ledger: Ledger | None, *, repeated: bool = False) -> Trace:
        flow = Flow(differentiable=call.create_graph, repeated=repeated or bool(call.more_targets))
        variables = [x for x in call.inputs if x.requires_grad]
        return Trace(Rules(self._make_composite()), flow, attn=self.ATTENTION, ledger=ledger, variables=variables)

    def _traced(self, call: Call, trace: Trace) -> Generator[Tensors]:
        """The relevance for each of the call's targets by one trace of its pass."""
        with self.tracing(call, trace) as traced:
            # The books need every branch, also one that leads past the explained layers.
            points = trace.sources if trace.ledger is not None else ()
            for target in traced.targets:
                values, grads = traced.of_target(target).grad_at_layers(points)
                yield tuple(relevance_of(g, x) for g, x in zip(grads, values, strict=True))

    @contextlib.contextmanager
    def tracing(self, call: Call, trace: Trace) -> Iterator[Call]:
        """The call with its pass traced; inside, every backward pass carries relevance."""
        flow, ledger = trace.flow, trace.ledger
        canonizers = (*trace.rules.composite.canonizers, *(self.zennit_canonizers or ()))

        def forward(inputs: Tensors, samples: Tensor | None) -> Any:
            names = modules_of(call.model) if canonizers else call.modules  # canonizers may have put modules in
            returned = pick_head(trace.run(names, call.forward, inputs, samples), call.head)
            if call.on_output is not None:
                call.on_output(with_rows(returned, call.n))
            output = tree_map_only(Tensor, trace.explained, returned)
            self._check_rules(trace.rules)
            if ledger is not None:
                ledger.scores = call.score(output).detach()
                output = ledger.target(output, flow)
            return output

        passes: dict[Any, Any] | None = {} if call.more_targets else None
        traced = dataclasses.replace(
            call,
            forward=forward,
            head=None if call.head is None else "logits",
            tap=trace.tap,
            traced=True,
            on_output=None,
            passes_kept=passes,
        )
        with canonized(call.model, canonizers), flow.relevance():
            yield traced

    def missing_rules(self, inputs: Any) -> tuple[str, ...]:
        """Operations of the model, on these inputs, where relevance would follow the plain gradient."""
        unknown: dict[str, str] = {}

        def method(call: Call) -> tuple[Tensors, ...]:
            with warnings_ignored():  # what it would warn of is what is asked
                # Any score will do, so that a model with several outputs needs no target.
                summed = dataclasses.replace(call, target=_sum_of_outputs)
                trace = self._trace(summed, None)
                list(self._traced(summed, trace))
                unknown.update(trace.unknown)
            return ()

        self.run_call(method, inputs, None, create_graph=False, seed=0)
        return tuple(f"{op} in {where}" if where else op for op, where in unknown.items())

    def _raise_nonfinite(self, call: Call) -> None:
        """Say where relevance stops being a number."""
        ledger = Ledger()
        with warnings_ignored():
            list(self._relevance(dataclasses.replace(call, create_graph=False), ledger))
        if ledger.first_nan is not None:
            raise NonFiniteError(
                f"the model itself computes NaN in {ledger.first_nan}, so there is no relevance to share; look at its "
                "weights and at what it is given"
            )
        raise NonFiniteError(
            f"the relevance becomes NaN or infinite in {ledger.first_bad or 'the last step'}; "
            "a larger epsilon or stabilizer, or the model in a higher precision, may help"
        )

    def _explained(self, call: Call) -> Explained:
        """The relevance, and what became of the part of the score that did not reach the input.

        Of several layers of which one feeds another each has the whole relevance: `gap` is then the largest of theirs,
        and `absorbed` is what did not reach the earliest of them.

        Warns:
            UserWarning: when operations lose more than 1 % of the relevance, naming them.
        """
        ledger = Ledger(may_absorb(attn=self.ATTENTION))
        (values,) = self._attribute_each(call, ledger)
        scores = ledger.scores  # of the logits, where the model ends in a softmax
        sums = torch.stack([v.reshape(len(v), -1).double().sum(1) for v in values])
        gap = (sums - scores).abs().amax(0) if ledger.nested else (sums.sum(0) - scores).abs()
        total, size = float(scores.double().sum()), float(scores.double().abs().sum())
        reached = float(sums.sum()) if ledger.reached is None else ledger.reached
        lost = ledger.lost(size) if size else {}
        if abs(sum(lost.values())) > 0.01 * size:
            operations = ", ".join(f"{op} ({value:.2g} of {size:.2g})" for op, value in lost.items())
            warnings.warn(f"{self!r}: relevance is lost in {operations}", stacklevel=2)
        absorbed = total - reached - sum(lost.values())
        return Explained(values, scores, gap.to(scores.dtype), scores, absorbed, lost)

    def _growth(self, call: Call) -> str:
        ledger = Ledger(amount=sizes)
        with warnings_ignored():
            list(self._relevance(call, ledger))
        growth = ledger.largest_growth()
        where = "" if growth is None else f" It grows most in {growth[0]}, {growth[1]:.1g} times."
        return (
            f"{where} Parts of both signs nearly cancel; a larger epsilon (or stabilizer), or a rule that shares by "
            "the positive parts, such as lrp_epsilon_plus or lrp_epsilon_gamma_box, may help"
        )

    @classmethod
    def promises_total(cls) -> bool:
        """The explained score, of which biases and stabilizers absorb a part."""
        return True
