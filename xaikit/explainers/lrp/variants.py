"""The LRP explainers: a zennit composite each, built from the current settings at every call."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import inspect
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from xaikit.core import EXPLAINERS, Attribution, Call, Explainer, Float
from xaikit.core.errors import InvalidInputError, InvalidTypeError, NonFiniteError, UnknownNameError, near_names
from xaikit.core.model_state import modules_of
from xaikit.core.structure import Tensors, flatten
from xaikit.core.targets import pick_head
from xaikit.explainers.lrp.account import Ledger
from xaikit.explainers.lrp.flow import Flow, nonzero
from xaikit.explainers.lrp.live import Rules, by_type, canonized, zennit
from xaikit.explainers.lrp.trace import Trace

LEDGER: contextvars.ContextVar[Ledger | None] = contextvars.ContextVar("ledger of the running explain()", default=None)
EPSILON = Float(low=1e-6, high=1, log=True, gt=0)
GAMMA = Float(low=1e-6, high=1, log=True, ge=0)
STABILIZER = Float(gt=0)


def _canonizers(value: Any, where: str) -> Any:
    if value is None or (isinstance(value, Sequence) and not isinstance(value, str)):
        return value if value is None else tuple(value)
    raise InvalidTypeError(f"{where} must be a sequence of zennit canonizers or None, got {value!r}")


def _bound(value: Any, where: str) -> Any:
    return value if isinstance(value, Tensor) else Float().check(value, where)


def _composite(value: Any, where: str) -> Any:
    if isinstance(value, str) or hasattr(value, "module_map"):
        return value
    raise InvalidTypeError(f"{where} must be a zennit Composite or the name of one, got {value!r}")


def _fits(bound: Tensor, shape: torch.Size) -> bool:
    """Whether a tensor broadcasts to a shape."""
    pairs = zip(reversed(bound.shape), reversed(shape), strict=False)
    return bound.ndim <= len(shape) and all(own in (1, other) for own, other in pairs)


@functools.lru_cache(maxsize=32)
def composite_of(kind: str, **numbers: float) -> Any:
    """One of zennit's composites, built once for its settings; it is only read, never registered."""
    return by_type(getattr(zennit().composites, kind)(**numbers))


@functools.lru_cache(maxsize=32)
def uniform_epsilon(epsilon: float, stabilizer: float) -> Any:
    """The epsilon rule for every affine layer."""
    z = zennit()
    rules = [*z.composites.layer_map_base(stabilizer), (z.types.Linear, z.rules.Epsilon(epsilon))]
    return by_type(z.composites.LayerMapComposite(rules))


@functools.lru_cache(maxsize=32)
def named_composite(kind: type) -> Any:
    """The composite of a class of zennit's or of the user's own, which builds the same one every time."""
    named = [p for p in inspect.signature(kind).parameters.values() if p.kind < p.VAR_POSITIONAL]
    needed = " and ".join(p.name for p in named if p.default is p.empty)
    if needed:
        raise InvalidInputError(
            f"a {kind.__name__} needs {needed}, so its name is not enough; pass composite= one itself"
        )
    return by_type(kind()) if kind.__module__ == zennit().composites.__name__ else kind()


class ZennitLRP(Explainer):
    """Relevance by the rules of a zennit composite, on live parameters, for modules and for what runs between them.

    The relevance of the explained score S is handed back layer by layer; a rule says how each operation shares its
    output's relevance among its inputs. BatchNorm is folded into the affine operation beside it. A model that ends in a
    softmax is explained by its logits.
    """

    SINGLE_BACKWARD: ClassVar[bool] = True
    USES_GLOBAL_RANDOM: ClassVar[bool] = False
    ATTENTION: ClassVar[bool] = False  # whether relevance flows through attention weights
    SUPPORTED_MODULES: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)
    PASSES: ClassVar[tuple[str | int, ...]] = (2,)

    zennit_canonizers: Annotated[Any, _canonizers, "zennit canonizers; BatchNorm and residual adds need none"] = None

    def _make_composite(self) -> Any:
        """The zennit composite of the current settings."""
        raise NotImplementedError

    def _attribute(self, call: Call) -> Tensors:
        ledger = LEDGER.get()
        relevance = self._relevance(call, ledger)
        if not all(bool(r.detach().sum().isfinite()) for r in relevance):
            self._name_the_culprit(call)
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
            return output

        traced = dataclasses.replace(call, forward=forward, head="logits", tap=trace.tap, traced=True)
        with canonized(call.model, canonizers) if canonizers else nullcontext(), flow.relevance():
            # The books need every branch, also one that leads past the explained layers.
            values, grads = traced.grad_at_layers(trace.sources if ledger is not None else ())
        return tuple(g * nonzero(x) for g, x in zip(grads, values, strict=True)), trace

    def missing_rules(self, inputs: Any) -> tuple[str, ...]:
        """Operations of the model, on these inputs, where relevance would follow the plain gradient."""
        found: dict[str, str] = {}

        def method(call: Call) -> tuple[Tensors, ...]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # what it would warn of is what is asked
                # Any score will do, so that a model with several outputs needs no target.
                whole = dataclasses.replace(call, target=lambda output: output.flatten(1).sum(1))
                found.update(self._traced(whole, None)[1].unknown)
            return ()

        self.run_call(method, inputs, None, create_graph=False, seed=0)
        return tuple(f"{op} in {where}" if where else op for op, where in found.items())

    def _name_the_culprit(self, call: Call) -> None:
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
        ledger = Ledger()
        token = LEDGER.set(ledger)
        try:
            plain = super().explain(inputs, targets, seed=seed)
        finally:
            LEDGER.reset(token)
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
        ledger = LEDGER.get()
        return super()._explained_scores(call) if ledger is None or ledger.scores is None else ledger.scores

    def _promised_total(self, call: Call) -> Tensor | None:
        """The explained score, of which biases and stabilizers absorb a part; nothing for a target function."""
        ledger = LEDGER.get()
        return None if callable(call.target) or ledger is None else ledger.scores

    def _gap(self, sums: Tensor, promised: Tensor) -> Tensor:
        """Of layers of which one feeds another each has the whole relevance: the largest gap of one of them."""
        ledger = LEDGER.get()
        if ledger is None or not ledger.nested:
            return super()._gap(sums, promised)
        return (sums - promised).abs().amax(0)


@EXPLAINERS.register("lrp_uniform_epsilon")
class LRPUniformEpsilon(ZennitLRP):
    """The epsilon rule in every linear layer and convolution (Bach et al. 2015, doi:10.1371/journal.pone.0130140).

    R_i = x_i sum_j w_ij R_j / (z_j + epsilon sign(z_j)),  z = W x + b

    >>> import torch
    >>> LRPUniformEpsilon(torch.nn.Linear(3, 2), epsilon=1e-6).attribute(torch.ones(1, 3), 0).shape
    torch.Size([1, 3])
    """

    epsilon: Annotated[float, EPSILON, "stabilizer of the epsilon rule; larger ones damp weak evidence"] = 0.25
    stabilizer: Annotated[float, STABILIZER, "stabilizer of poolings and sums"] = 1e-6

    def _make_composite(self) -> Any:
        return uniform_epsilon(self.epsilon, self.stabilizer)


@EXPLAINERS.register("lrp_epsilon_gamma_box")
class LRPEpsilonGammaBox(ZennitLRP):
    """The box rule in the convolution that runs first, gamma in the others, epsilon in linear layers.

    Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10.
    """

    MADE_FOR = ("convolution",)

    low: Annotated[Any, _bound, "lowest possible input, a number or a tensor that broadcasts to it"] = -3.0
    high: Annotated[Any, _bound, "highest possible input, a number or a tensor that broadcasts to it"] = 3.0
    epsilon: Annotated[float, EPSILON, "stabilizer of the epsilon rule"] = 1e-6
    gamma: Annotated[float, GAMMA, "weight of the contributions of the output's own sign"] = 0.25
    stabilizer: Annotated[float, STABILIZER, "stabilizer of the other rules"] = 1e-6

    def _check_settings(self) -> None:
        low, high = torch.as_tensor(self.low), torch.as_tensor(self.high)
        try:
            torch.broadcast_shapes(low.shape, high.shape)
        except RuntimeError:
            raise InvalidInputError(
                f"{type(self).__name__}.low and high must broadcast against each other, "
                f"got shapes {tuple(low.shape)} and {tuple(high.shape)}"
            ) from None
        if not bool((low < high).all()):
            raise InvalidInputError(f"{type(self).__name__}.low must lie below high, got {self.low} and {self.high}")

    def _attribute(self, call: Call) -> Tensors:
        bounds = {n: b for n, b in (("low", self.low), ("high", self.high)) if isinstance(b, Tensor) and b.ndim}
        words = " and ".join(f"{name} of shape {tuple(bound.shape)}" for name, bound in bounds.items())
        inputs = [x for x in call.inputs if all(_fits(bound, x.shape) for bound in bounds.values())]
        if not inputs:
            shapes = ", ".join(str(tuple(x.shape)) for x in call.inputs)
            raise InvalidInputError(f"{words} must broadcast against the input, which has shape {shapes}")
        # zennit lines shapes up on the left; lined up on the right, as everywhere in torch, the two are the same.
        lined_up = {n: b[(None,) * (inputs[0].ndim - b.ndim)] for n, b in bounds.items()}
        explainer = self.set_kwargs(**lined_up) if bounds else self
        try:
            return super(LRPEpsilonGammaBox, explainer)._attribute(call)
        except RuntimeError as error:
            if "Invalid shape!" not in str(error):  # zennit's words where a bound does not broadcast
                raise
            raise InvalidInputError(
                f"{words} must broadcast against the input of the convolution that runs first: {error}"
            ) from error

    def _make_composite(self) -> Any:
        numbers = {"epsilon": self.epsilon, "gamma": self.gamma, "stabilizer": self.stabilizer}
        if isinstance(self.low, Tensor) or isinstance(self.high, Tensor):
            return zennit().composites.EpsilonGammaBox(low=self.low, high=self.high, **numbers)
        return composite_of("EpsilonGammaBox", low=self.low, high=self.high, **numbers)


@EXPLAINERS.register("lrp_epsilon_plus")
class LRPEpsilonPlus(ZennitLRP):
    """The z+ rule in convolutions, epsilon in linear layers (Montavon et al. 2017, arXiv:1512.02479).

    z+:  R_i = sum_j (x_i w_ij)+ R_j / z_j+,  z_j+ = sum_i (x_i w_ij)+
    """

    MADE_FOR = ("convolution",)

    epsilon: Annotated[float, EPSILON, "stabilizer of the epsilon rule"] = 1e-6
    stabilizer: Annotated[float, STABILIZER, "stabilizer of the other rules"] = 1e-6

    def _make_composite(self) -> Any:
        return composite_of("EpsilonPlus", epsilon=self.epsilon, stabilizer=self.stabilizer)


@EXPLAINERS.register("lrp_epsilon_alpha2_beta1")
class LRPEpsilonAlpha2Beta1(ZennitLRP):
    """The alpha-beta rule with alpha 2, beta 1 in convolutions, epsilon in linear layers (Bach et al. 2015).

    R_i = sum_j (2 (x_i w_ij)+ / z_j+ - (x_i w_ij)- / z_j-) R_j,  z_j± = sum_i (x_i w_ij)±
    """

    MADE_FOR = ("convolution",)

    epsilon: Annotated[float, EPSILON, "stabilizer of the epsilon rule"] = 1e-6
    stabilizer: Annotated[float, STABILIZER, "stabilizer of the other rules"] = 1e-6

    def _make_composite(self) -> Any:
        return composite_of("EpsilonAlpha2Beta1", epsilon=self.epsilon, stabilizer=self.stabilizer)


@EXPLAINERS.register("lrp")
class LRP(ZennitLRP):
    """LRP by any zennit composite, one's own or one of zennit's by name."""

    IS_GENERIC = True

    composite: Annotated[Any, _composite, "a zennit Composite, or a name in zennit's COMPOSITES"] = "epsilon_plus"

    def _make_composite(self) -> Any:
        if not isinstance(self.composite, str):
            return self.composite
        known = zennit().composites.COMPOSITES
        if self.composite not in known:
            raise UnknownNameError(f"zennit has no composite {self.composite!r}{near_names(self.composite, known)}")
        return named_composite(known[self.composite])

    def _check_rules(self, rules: Rules) -> None:
        if not rules.given:
            raise InvalidInputError(
                f"composite {self.composite!r} gives nothing in this {type(self.model).__name__} a relevance rule; "
                "composites that only change gradients, as guided backpropagation does, are no LRP"
            )


@EXPLAINERS.register("attn_lrp")
class AttnLRP(ZennitLRP):
    """LRP for transformers (Achtibat et al. 2024, arXiv:2402.05602).

    The epsilon rule in linear layers and convolutions; a product gives half of its relevance to each factor, also to
    attention weights; a softmax s of x hands on x_i (R_i - s_i sum_j R_j), which need not conserve it; activations and
    normalisations pass it on. Sigmoid gates take none, as in the other variants.
    """

    ATTENTION: ClassVar[bool] = True
    MADE_FOR = ("attention",)
    epsilon: Annotated[float, EPSILON, "stabilizer of the epsilon rule"] = 1e-6
    stabilizer: Annotated[float, STABILIZER, "stabilizer of poolings and sums"] = 1e-6

    def _make_composite(self) -> Any:
        return uniform_epsilon(self.epsilon, self.stabilizer)
