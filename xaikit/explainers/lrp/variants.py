"""The LRP explainers: a zennit composite each, built from the current settings at every call."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

from torch import Tensor, nn

from xaikit.core import EXPLAINERS, Call, Explainer, Float
from xaikit.core.errors import InvalidTypeError, UnknownNameError, near_names
from xaikit.core.structure import Tensors
from xaikit.explainers.lrp.flow import Flow, nonzero
from xaikit.explainers.lrp.live import Rules, canonized, zennit
from xaikit.explainers.lrp.trace import Trace

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


class ZennitLRP(Explainer):
    """Relevance by the rules of a zennit composite, on live parameters, for modules and for what runs between them.

    The relevance of the explained score S is handed back layer by layer; a rule says how each operation shares its
    output's relevance among its inputs. BatchNorm is folded into the affine operation beside it. A model that ends in a
    softmax is explained by its logits.
    """

    SUPPORTED_MODULES: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)

    zennit_canonizers: Annotated[Any, _canonizers, "zennit canonizers; BatchNorm and residual adds need none"] = None

    def _make_composite(self) -> Any:
        """The zennit composite of the current settings."""
        raise NotImplementedError

    def _attribute(self, call: Call) -> Tensors:
        composite = self._make_composite()
        flow = Flow()
        trace = Trace(Rules(composite), flow)
        traced = dataclasses.replace(call, forward=trace.watched(call.model, call.forward))
        with canonized(call.model, (*composite.canonizers, *(self.zennit_canonizers or ()))), flow.relevance():
            grads = traced.grad(call.inputs)
        return tuple(g * nonzero(x) for g, x in zip(grads, call.inputs, strict=True))

    def _promised_total(self, call: Call) -> Tensor | None:
        """The score, of which biases and stabilizers absorb a part; nothing for a target function."""
        return None if callable(call.target) else call.scores(call.inputs)


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
        z = zennit()
        rules = [*z.composites.layer_map_base(self.stabilizer), (z.types.Linear, z.rules.Epsilon(self.epsilon))]
        return z.composites.LayerMapComposite(rules)


@EXPLAINERS.register("lrp_epsilon_gamma_box")
class LRPEpsilonGammaBox(ZennitLRP):
    """The box rule in the convolution that runs first, gamma in the others, epsilon in linear layers.

    Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10.
    """

    low: Annotated[Any, _bound, "lowest possible input, a number or a tensor that broadcasts against it"] = -3.0
    high: Annotated[Any, _bound, "highest possible input, a number or a tensor that broadcasts against it"] = 3.0
    epsilon: Annotated[float, EPSILON, "stabilizer of the epsilon rule"] = 1e-6
    gamma: Annotated[float, GAMMA, "weight of the contributions of the output's own sign"] = 0.25
    stabilizer: Annotated[float, STABILIZER, "stabilizer of the other rules"] = 1e-6

    def _make_composite(self) -> Any:
        low, high = (v.clone() if isinstance(v, Tensor) else v for v in (self.low, self.high))
        return zennit().composites.EpsilonGammaBox(
            low=low, high=high, epsilon=self.epsilon, gamma=self.gamma, stabilizer=self.stabilizer
        )


@EXPLAINERS.register("lrp_epsilon_plus")
class LRPEpsilonPlus(ZennitLRP):
    """The z+ rule in convolutions, epsilon in linear layers (Montavon et al. 2017, arXiv:1512.02479)."""

    epsilon: Annotated[float, EPSILON, "stabilizer of the epsilon rule"] = 1e-6
    stabilizer: Annotated[float, STABILIZER, "stabilizer of the other rules"] = 1e-6

    def _make_composite(self) -> Any:
        return zennit().composites.EpsilonPlus(epsilon=self.epsilon, stabilizer=self.stabilizer)


@EXPLAINERS.register("lrp_epsilon_alpha2_beta1")
class LRPEpsilonAlpha2Beta1(ZennitLRP):
    """The alpha-beta rule with alpha 2, beta 1 in convolutions, epsilon in linear layers (Bach et al. 2015)."""

    epsilon: Annotated[float, EPSILON, "stabilizer of the epsilon rule"] = 1e-6
    stabilizer: Annotated[float, STABILIZER, "stabilizer of the other rules"] = 1e-6

    def _make_composite(self) -> Any:
        return zennit().composites.EpsilonAlpha2Beta1(epsilon=self.epsilon, stabilizer=self.stabilizer)


@EXPLAINERS.register("lrp")
class LRP(ZennitLRP):
    """LRP by any zennit composite, one's own or one of zennit's by name."""

    composite: Annotated[Any, _composite, "a zennit Composite, or a name in zennit's COMPOSITES"] = "epsilon_plus"

    def _make_composite(self) -> Any:
        if not isinstance(self.composite, str):
            return self.composite
        known = zennit().composites.COMPOSITES
        if self.composite not in known:
            raise UnknownNameError(f"zennit has no composite {self.composite!r}{near_names(self.composite, known)}")
        return known[self.composite]()
