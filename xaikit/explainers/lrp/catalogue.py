"""The LRP explainers: a zennit composite each, built from the current settings at every call."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Generator
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor

from xaikit.core import EXPLAINERS, Call, Float
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names
from xaikit.core.structure import Tensors
from xaikit.explainers.lrp.engine import ZennitLRP
from xaikit.explainers.lrp.ledger import Ledger
from xaikit.explainers.lrp.zennit_rules import Rules, zennit

EPSILON = Float(low=1e-6, high=1, log=True, gt=0)
GAMMA = Float(low=1e-6, high=1, log=True, ge=0)
STABILIZER = Float(gt=0)


def _bound(value: Any, where: str) -> Any:
    return value if isinstance(value, Tensor) else Float().check(value, where)


def _composite(value: Any, where: str) -> Any:
    if isinstance(value, str) or hasattr(value, "module_map"):
        return value
    raise InvalidTypeError(f"{where} must be a zennit Composite or the name of one, got {value!r}")


def _fits(bound: Tensor, shape: torch.Size) -> bool:
    """Whether a tensor broadcasts to a shape."""
    pairs = zip(reversed(bound.shape), reversed(shape), strict=False)
    return bound.ndim <= len(shape) and all(size in (1, other) for size, other in pairs)


@functools.lru_cache(maxsize=32)
def composite_of(kind: Callable[..., Any], **settings: float) -> Any:
    """A composite, built once for its settings; it is only read, never registered."""
    return kind(**settings)


def uniform_epsilon(epsilon: float, stabilizer: float) -> Any:
    """The epsilon rule for every affine layer."""
    z = zennit()
    rules = [*z.composites.layer_map_base(stabilizer), (z.types.Linear, z.rules.Epsilon(epsilon))]
    return z.composites.LayerMapComposite(rules)


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
        return composite_of(uniform_epsilon, epsilon=self.epsilon, stabilizer=self.stabilizer)


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
        low, high = (torch.as_tensor(bound, device="cpu") for bound in (self.low, self.high))
        try:
            torch.broadcast_shapes(low.shape, high.shape)
        except RuntimeError:
            raise InvalidInputError(
                f"{type(self).__name__}.low and high must broadcast against each other, "
                f"got shapes {tuple(low.shape)} and {tuple(high.shape)}"
            ) from None
        if not bool((low < high).all()):
            raise InvalidInputError(f"{type(self).__name__}.low must lie below high, got {self.low} and {self.high}")

    def _relevance(self, call: Call, ledger: Ledger | None) -> Generator[Tensors]:
        bounds = {n: b for n, b in (("low", self.low), ("high", self.high)) if isinstance(b, Tensor) and b.ndim}
        described = " and ".join(f"{name} of shape {tuple(bound.shape)}" for name, bound in bounds.items())
        inputs = [x for x in call.inputs if all(_fits(bound, x.shape) for bound in bounds.values())]
        if not inputs:
            shapes = ", ".join(str(tuple(x.shape)) for x in call.inputs)
            raise InvalidInputError(f"{described} must broadcast against the input, which has shape {shapes}")
        # zennit lines shapes up on the left; lined up on the right, as everywhere in torch, the two are the same.
        lined_up = {n: b[(None,) * (inputs[0].ndim - b.ndim)] for n, b in bounds.items()}
        explainer = self.set_kwargs(**lined_up) if bounds else self
        try:
            yield from super(LRPEpsilonGammaBox, explainer)._relevance(call, ledger)
        except RuntimeError as error:
            if "Invalid shape!" not in str(error):  # zennit's words where a bound does not broadcast
                raise
            raise InvalidInputError(
                f"{described} must broadcast against the input of the convolution that runs first: {error}"
            ) from error

    def _make_composite(self) -> Any:
        kind = zennit().composites.EpsilonGammaBox
        settings = {name: getattr(self, name) for name in ("low", "high", "epsilon", "gamma", "stabilizer")}
        has_tensors = any(isinstance(value, Tensor) for value in settings.values())
        return kind(**settings) if has_tensors else composite_of(kind, **settings)


@EXPLAINERS.register("lrp_epsilon_plus")
class LRPEpsilonPlus(ZennitLRP):
    """The z+ rule in convolutions, epsilon in linear layers (Montavon et al. 2017, arXiv:1512.02479).

    z+:  R_i = sum_j (x_i w_ij)+ R_j / z_j+,  z_j+ = sum_i (x_i w_ij)+
    """

    MADE_FOR = ("convolution",)

    epsilon: Annotated[float, EPSILON, "stabilizer of the epsilon rule"] = 1e-6
    stabilizer: Annotated[float, STABILIZER, "stabilizer of the other rules"] = 1e-6

    def _make_composite(self) -> Any:
        return composite_of(zennit().composites.EpsilonPlus, epsilon=self.epsilon, stabilizer=self.stabilizer)


@EXPLAINERS.register("lrp_epsilon_alpha2_beta1")
class LRPEpsilonAlpha2Beta1(ZennitLRP):
    """The alpha-beta rule with alpha 2, beta 1 in convolutions, epsilon in linear layers (Bach et al. 2015).

    R_i = sum_j (2 (x_i w_ij)+ / z_j+ - (x_i w_ij)- / z_j-) R_j,  z_j± = sum_i (x_i w_ij)±
    """

    MADE_FOR = ("convolution",)

    epsilon: Annotated[float, EPSILON, "stabilizer of the epsilon rule"] = 1e-6
    stabilizer: Annotated[float, STABILIZER, "stabilizer of the other rules"] = 1e-6

    def _make_composite(self) -> Any:
        return composite_of(zennit().composites.EpsilonAlpha2Beta1, epsilon=self.epsilon, stabilizer=self.stabilizer)


@EXPLAINERS.register("lrp")
class LRP(ZennitLRP):
    """LRP by any zennit composite, one's own or one of zennit's by name."""

    IS_GENERIC = True

    composite: Annotated[Any, _composite, "a zennit Composite, or a name in zennit's COMPOSITES"] = "epsilon_plus"

    def _make_composite(self) -> Any:
        if not isinstance(self.composite, str):
            return self.composite
        composites = zennit().composites.COMPOSITES
        if self.composite not in composites:
            raise UnknownNameError(
                f"zennit has no composite {self.composite!r}{near_names(self.composite, composites)}"
            )
        kind = composites[self.composite]
        parameters = [p for p in inspect.signature(kind).parameters.values() if p.kind < p.VAR_POSITIONAL]
        needed = " and ".join(p.name for p in parameters if p.default is p.empty)
        if needed:
            raise InvalidInputError(
                f"a {kind.__name__} needs {needed}, so its name is not enough; pass composite= one itself"
            )
        return composite_of(kind)

    def _check_rules(self, rules: Rules) -> None:
        if not rules.any:
            raise InvalidInputError(
                f"composite {self.composite!r} gives nothing in this {type(self.model).__name__} a relevance rule; "
                "composites that only change gradients are no LRP; those of zennit are beta_smooth, "
                "captum.guided_backprop and captum.deconvolution"
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
        return composite_of(uniform_epsilon, epsilon=self.epsilon, stabilizer=self.stabilizer)
