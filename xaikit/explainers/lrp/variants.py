"""The LRP explainers: a zennit composite each, built from the current settings at every call."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import warnings
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from xaikit.core import EXPLAINERS, Call, Explainer, Float
from xaikit.core.errors import InvalidInputError, InvalidTypeError, NonFiniteError, UnknownNameError, near_names
from xaikit.core.structure import Tensors, flatten
from xaikit.core.targets import pick_head
from xaikit.explainers.lrp.account import Ledger, RelevanceAttribution
from xaikit.explainers.lrp.flow import Flow, nonzero
from xaikit.explainers.lrp.live import Rules, by_type, canonized, has_relevance_rules, zennit
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
    return kind()


class ZennitLRP(Explainer):
    """Relevance by the rules of a zennit composite, on live parameters, for modules and for what runs between them.

    The relevance of the explained score S is handed back layer by layer; a rule says how each operation shares its
    output's relevance among its inputs. BatchNorm is folded into the affine operation beside it. A model that ends in a
    softmax is explained by its logits.
    """

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

    def _trace(self, call: Call, flow: Flow, ledger: Ledger | None = None) -> Trace:
        return Trace(Rules(self._make_composite()), flow, attn=self.ATTENTION, ledger=ledger)

    def _relevance(self, call: Call, ledger: Ledger | None) -> Tensors:
        flow = Flow()
        trace = self._trace(call, flow, ledger)
        watched = trace.watched(call.model, call.forward)

        def forward(inputs: Tensors, samples: Tensor | None) -> Any:
            output = trace.explained(pick_head(watched(inputs, samples), call.head))
            if ledger is not None:
                ledger.scores = call.score(output).detach()
            return output

        traced = dataclasses.replace(call, forward=forward, head="logits")
        canonizers = (*trace.rules.composite.canonizers, *(self.zennit_canonizers or ()))
        with canonized(call.model, canonizers), flow.relevance():
            grads = traced.grad(call.inputs)
        return tuple(g * nonzero(x) for g, x in zip(grads, call.inputs, strict=True))

    def missing_rules(self, inputs: Any) -> tuple[str, ...]:
        """Operations of the model, on these inputs, where relevance would follow the plain gradient."""
        found: dict[str, str] = {}

        def method(call: Call) -> tuple[Tensors, ...]:
            trace = self._trace(call, Flow())
            leaves = tuple(x.detach().requires_grad_() for x in call.inputs)
            with warnings.catch_warnings(), torch.enable_grad():
                warnings.simplefilter("ignore")  # what it would warn of is what is asked
                trace.watched(call.model, call.forward)(leaves, call.samples)
            found.update(trace.unknown)
            return ()

        self._apply(method, inputs, None, create_graph=False, seed=0)
        return tuple(f"{op} in {where}" if where else op for op, where in found.items())

    def _name_the_culprit(self, call: Call) -> None:
        """Say where relevance stops being a number."""
        ledger = Ledger()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._relevance(dataclasses.replace(call, create_graph=False), ledger)
        raise NonFiniteError(
            f"the relevance becomes NaN or infinite in {ledger.first_bad or 'the last step'}; "
            "a larger epsilon, or the model in float64, may help"
        )

    def explain(self, inputs: Any, targets: Any = None, *, seed: int = 0) -> RelevanceAttribution:
        """The relevance with its provenance, and what became of the part that did not reach the input.

        Warns:
            UserWarning: when operations lose more than 1 % of the relevance, naming them.
        """
        ledger = Ledger()
        token = LEDGER.set(ledger)
        try:
            plain = super().explain(inputs, targets, seed=seed)
        finally:
            LEDGER.reset(token)
        fields = {f.name: getattr(plain, f.name) for f in dataclasses.fields(plain)}
        fields["scores"] = scores = ledger.scores  # of the logits, where the model ends in a softmax
        if plain.gap is None or scores is None:
            return RelevanceAttribution(**fields)
        total = float(scores.double().sum())
        reached = sum(float(v.double().sum()) for v in flatten(plain.values)[0])
        size = float(scores.abs().double().sum())
        lost = ledger.lost(size, attn=self.ATTENTION)
        if abs(sum(lost.values())) > 0.01 * size:
            named = ", ".join(f"{op} ({value:.2g} of {size:.2g})" for op, value in lost.items())
            warnings.warn(f"{self!r}: relevance is lost in {named}", stacklevel=2)
        return RelevanceAttribution(**fields, absorbed=total - reached - sum(lost.values()), lost=lost)

    def _promised_total(self, call: Call) -> Tensor | None:
        """The explained score, of which biases and stabilizers absorb a part; nothing for a target function."""
        ledger = LEDGER.get()
        return None if callable(call.target) or ledger is None else ledger.scores


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

    low: Annotated[Any, _bound, "lowest possible input, a number or a tensor that broadcasts against it"] = -3.0
    high: Annotated[Any, _bound, "highest possible input, a number or a tensor that broadcasts against it"] = 3.0
    epsilon: Annotated[float, EPSILON, "stabilizer of the epsilon rule"] = 1e-6
    gamma: Annotated[float, GAMMA, "weight of the contributions of the output's own sign"] = 0.25
    stabilizer: Annotated[float, STABILIZER, "stabilizer of the other rules"] = 1e-6

    def __init__(self, model: nn.Module | None = None, **settings: Any) -> None:
        super().__init__(model, **settings)  # type: ignore[call-arg]
        if not bool((torch.as_tensor(self.low) < torch.as_tensor(self.high)).all()):
            raise InvalidInputError(f"{type(self).__name__}.low must lie below high, got {self.low} and {self.high}")

    def _attribute(self, call: Call) -> Tensors:
        try:
            return super()._attribute(call)
        except RuntimeError as error:
            if "Invalid shape!" not in str(error):  # zennit's words where a bound does not broadcast
                raise
            shapes = [tuple(torch.as_tensor(bound).shape) for bound in (self.low, self.high)]
            raise InvalidInputError(
                f"low of shape {shapes[0]} and high of shape {shapes[1]} must broadcast against the input of the "
                f"convolution that runs first: {error}"
            ) from error

    def _make_composite(self) -> Any:
        numbers = {"epsilon": self.epsilon, "gamma": self.gamma, "stabilizer": self.stabilizer}
        if isinstance(self.low, Tensor) or isinstance(self.high, Tensor):
            return zennit().composites.EpsilonGammaBox(low=self.low, high=self.high, **numbers)
        return composite_of("EpsilonGammaBox", low=self.low, high=self.high, **numbers)


@EXPLAINERS.register("lrp_epsilon_plus")
class LRPEpsilonPlus(ZennitLRP):
    """The z+ rule in convolutions, epsilon in linear layers (Montavon et al. 2017, arXiv:1512.02479)."""

    MADE_FOR = ("convolution",)

    epsilon: Annotated[float, EPSILON, "stabilizer of the epsilon rule"] = 1e-6
    stabilizer: Annotated[float, STABILIZER, "stabilizer of the other rules"] = 1e-6

    def _make_composite(self) -> Any:
        return composite_of("EpsilonPlus", epsilon=self.epsilon, stabilizer=self.stabilizer)


@EXPLAINERS.register("lrp_epsilon_alpha2_beta1")
class LRPEpsilonAlpha2Beta1(ZennitLRP):
    """The alpha-beta rule with alpha 2, beta 1 in convolutions, epsilon in linear layers (Bach et al. 2015)."""

    MADE_FOR = ("convolution",)

    epsilon: Annotated[float, EPSILON, "stabilizer of the epsilon rule"] = 1e-6
    stabilizer: Annotated[float, STABILIZER, "stabilizer of the other rules"] = 1e-6

    def _make_composite(self) -> Any:
        return composite_of("EpsilonAlpha2Beta1", epsilon=self.epsilon, stabilizer=self.stabilizer)


@EXPLAINERS.register("lrp")
class LRP(ZennitLRP):
    """LRP by any zennit composite, one's own or one of zennit's by name."""

    FAMILY = True

    composite: Annotated[Any, _composite, "a zennit Composite, or a name in zennit's COMPOSITES"] = "epsilon_plus"

    def _make_composite(self) -> Any:
        if not isinstance(self.composite, str):
            return self.composite
        known = zennit().composites.COMPOSITES
        if self.composite not in known:
            raise UnknownNameError(f"zennit has no composite {self.composite!r}{near_names(self.composite, known)}")
        return named_composite(known[self.composite])

    def _trace(self, call: Call, flow: Flow, ledger: Ledger | None = None) -> Trace:
        if not has_relevance_rules(self._make_composite(), call.model):
            raise InvalidInputError(
                f"composite {self.composite!r} gives no module of this {type(call.model).__name__} a relevance rule; "
                "composites that only change gradients, as guided backpropagation does, are no LRP"
            )
        return super()._trace(call, flow, ledger)


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

    def _make_composite(self) -> Any:
        return uniform_epsilon(self.epsilon, 1e-6)
