"""The LRP engine: one attribution call by the rules of a zennit composite, and the books of `explain`."""

from __future__ import annotations

import copy
import dataclasses
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from xaikit.core import Attribution, Call, Explainer
from xaikit.core.errors import InvalidTypeError, NonFiniteError
from xaikit.core.model_state import modules_of
from xaikit.core.structure import Tensors, flatten
from xaikit.core.targets import pick_head
from xaikit.explainers.lrp.flow import Flow, relevance_of
from xaikit.explainers.lrp.ledger import Ledger
from xaikit.explainers.lrp.trace import Trace
from xaikit.explainers.lrp.zennit_rules import Rules, canonized


def _canonizers(value: Any, where: str) -> Any:
    if value is None or (isinstance(value, Sequence) and not isinstance(value, str)):
        return value if value is None else tuple(value)
    raise InvalidTypeError(f"{where} must be a sequence of zennit canonizers or None, got {value!r}")


class ZennitLRP(Explainer):
    """Relevance by the rules of a zennit composite, on live parameters, for modules and for what runs between them.

    The relevance of the explained score S is handed back layer by layer; a rule says how each operation shares its
    output's relevance among its inputs. BatchNorm is folded into the affine operation beside it. A model that ends in a
    softmax is explained by its logits.
    """

    SINGLE_BACKWARD: ClassVar[bool] = True
    ATTENTION: ClassVar[bool] = False  # whether relevance flows through attention weights
    SUPPORTED_MODULES: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)
    PASSES: ClassVar[tuple[str | int, ...]] = (2,)

    _ledger = None  # the books, set on the copy of this object that `explain` runs
    zennit_canonizers: Annotated[Any, _canonizers, "zennit canonizers; BatchNorm and residual adds need none"] = None

    def _make_composite(self) -> Any:
        """The zennit composite of the current settings."""
        raise NotImplementedError

    def _attribute(self, call: Call) -> Tensors:
        relevance = self._relevance(call, self._ledger)
        if not all(bool(r.detach().sum().isfinite()) for r in relevance):
            self._raise_nonfinite(call)
        return relevance

    def _check_rules(self, rules: Rules) -> None:
        """Refuse a composite by what it had for the model that has just run."""

    def _relevance(self, call: Call, ledger: Ledger | None) -> Tensors:
        return self._traced(call, ledger)[0]

    def _traced(self, call: Call, ledger: Ledger | None) -> tuple[Tensors, Trace]:
        """The relevance, and the trace of the pass that gave it."""
        flow = Flow()
        trace = Trace(Rules(self._make_composite()), flow, attn=self.ATTENTION, ledger=ledger)
        canonizers = (*trace.rules.composite.canonizers, *(self.zennit_canonizers or ()))

        def forward(inputs: Tensors, samples: Tensor | None) -> Any:
            names = modules_of(call.model) if canonizers else call.modules  # canonizers may have put modules in
            output = trace.explained(pick_head(trace.watched(names, call.forward)(inputs, samples), call.head))
            self._check_rules(trace.rules)
            if ledger is not None:
                ledger.scores = call.score(output).detach()
                output = ledger.target(output, flow)
            return output

        traced = dataclasses.replace(call, forward=forward, head="logits", tap=trace.tap, traced=True)
        with canonized(call.model, canonizers) if canonizers else nullcontext(), flow.relevance():
            # The books need every branch, also one that leads past the explained layers.
            values, grads = traced.grad_at_layers(trace.sources if ledger is not None else ())
        return tuple(relevance_of(g, x) for g, x in zip(grads, values, strict=True)), trace

    def missing_rules(self, inputs: Any) -> tuple[str, ...]:
        """Operations of the model, on these inputs, where relevance would follow the plain gradient."""
        unknown: dict[str, str] = {}

        def method(call: Call) -> tuple[Tensors, ...]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what it would warn of is what is asked
                # Any score will do, so that a model with several outputs needs no target.
                summed = dataclasses.replace(call, target=lambda output: output.flatten(1).sum(1))
                unknown.update(self._traced(summed, None)[1].unknown)
            return ()

        self._apply(method, inputs, None, create_graph=False, seed=0)
        return tuple(f"{op} in {where}" if where else op for op, where in unknown.items())

    def _raise_nonfinite(self, call: Call) -> None:
        """Say where relevance stops being a number."""
        ledger = Ledger()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._relevance(dataclasses.replace(call, create_graph=False), ledger)
        if ledger.first_nan is not None:
            raise NonFiniteError(
                f"the model itself computes NaN in {ledger.first_nan}, so there is no relevance to share; look at its "
                "weights and at what it is given"
            )
        raise NonFiniteError(
            f"the relevance becomes NaN or infinite in {ledger.first_bad or 'the last step'}; "
            "a larger epsilon or stabilizer, or the model in a higher precision, may help"
        )

    def explain(self, inputs: Any, targets: Any = None, *, seed: int = 0) -> Attribution:
        """The relevance with its provenance, and what became of the part that did not reach the input.

        Of several layers of which one feeds another each has the whole relevance: `gap` is then the largest of theirs,
        and `absorbed` is what did not reach the earliest of them.

        Warns:
            UserWarning: when operations lose more than 1 % of the relevance, naming them.
        """
        ledger, recording = Ledger(), copy.copy(self)
        object.__setattr__(recording, "_ledger", ledger)
        plain = super(ZennitLRP, recording).explain(inputs, targets, seed=seed)
        if plain.gap is None or plain.scores is None:
            return plain
        values, scores = flatten(plain.values)[0], plain.scores.double()
        total, size = float(scores.sum()), float(scores.abs().sum())
        reached = sum(float(v.double().sum()) for v in values) if ledger.reached is None else ledger.reached
        lost = ledger.lost(size, attn=self.ATTENTION) if size else {}
        if abs(sum(lost.values())) > 0.01 * size:
            named = ", ".join(f"{op} ({value:.2g} of {size:.2g})" for op, value in lost.items())
            warnings.warn(f"{self!r}: relevance is lost in {named}", stacklevel=2)
        return dataclasses.replace(plain, absorbed=total - reached - sum(lost.values()), lost=lost)

    def _explained_scores(self, call: Call) -> Tensor:
        """Of the logits, where the model ends in a softmax."""
        ledger = self._ledger
        return super()._explained_scores(call) if ledger is None or ledger.scores is None else ledger.scores

    def _promised_total(self, call: Call) -> Tensor | None:  # noqa: ARG002
        """The explained score, of which biases and stabilizers absorb a part."""
        return None if self._ledger is None else self._ledger.scores

    def _gap(self, sums: Tensor, promised: Tensor) -> Tensor:
        """Of layers of which one feeds another each has the whole relevance: the largest gap of one of them."""
        if self._ledger is None or not self._ledger.nested:
            return super()._gap(sums, promised)
        return (sums - promised).abs().amax(0)
