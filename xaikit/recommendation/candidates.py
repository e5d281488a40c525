"""How well each registered explainer suits a model, by what its class says of itself."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from xaikit.core import EXPLAINERS, Explainer
from xaikit.recommendation.profile import ModelProfile, some


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One explainer, and what speaks for and against it.

    Attributes:
        name: its registered name.
        explainer: ready to use, bound to the model, with the modality's baseline and groups.
        points: what its class is worth on this model; the order where nothing was measured.
        reasons: what gave the points, and what was noticed, in words.
        passes: about how many passes of the model an explanation takes.
        against: why it cannot explain this model, or not in the wanted way; None where it can.
        value: mean of the metric over the samples, None where it was not measured.
        error: standard error of that mean.
        seconds: for the explanation of one sample.
        tied: whether the best one's lead over it is within noise: two standard errors of the paired difference.
    """

    name: str
    explainer: Explainer
    points: float
    reasons: tuple[str, ...]
    passes: int
    against: str | None = None
    value: float | None = None
    error: float | None = None
    seconds: float | None = None
    tied: bool = False

    @property
    def suitable(self) -> bool:
        """Whether nothing stands against it."""
        return self.against is None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; the explainer as its spec."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {**plain, "explainer": self.explainer.spec(), "reasons": list(self.reasons)}


def candidate(
    explainer: Explainer, model: nn.Module, profile: ModelProfile, missing: tuple[str, ...], *, differentiable: bool
) -> Candidate:
    """The verdict on an explainer before anything is measured.

    Points: 2 for each kind of layers in the model that the method was made for, minus 0.5 where it has none of them, 1
    for a promised sum, 1 for an exact derivative, minus 2 for operations without a rule, minus the decimal logarithm of
    its passes.

    Args:
        explainer: ready to use.
        model: the model.
        profile: the model's profile.
        missing: operations of the model that the method has no rule for.
        differentiable: whether it must be able to stand in a loss.
    """
    cls = type(explainer)
    passes = explainer.passes
    reasons = [(2.0, f"made for {kind} layers") for kind in cls.MADE_FOR if profile.kinds.get(kind)]
    if cls.MADE_FOR and not reasons:
        reasons.append((-0.5, f"made for {' and '.join(cls.MADE_FOR)} layers, which the model does not have"))
    if cls.promises_total():
        reasons.append((1.0, "its sum is promised"))
    if cls.DIFFERENTIABLE:
        reasons.append((1.0, "exact inside a loss"))
    if missing:
        reasons.append((-2.0, f"has no rule for {some(missing)}"))
    reasons.append((-math.log10(passes), f"about {passes} pass{'es' if passes > 1 else ''}"))
    return Candidate(
        name=cls.NAME,
        explainer=explainer,
        points=sum(points for points, _ in reasons),
        reasons=tuple(reason for _, reason in reasons),
        passes=passes,
        against=_against(cls, model, profile, differentiable=differentiable),
    )


def _against(cls: type[Explainer], model: nn.Module, profile: ModelProfile, *, differentiable: bool) -> str | None:
    supported = cls.SUPPORTED_MODULES
    if not any(isinstance(module, supported) for module in model.modules()):
        known = some([kind.__name__.strip("_") for kind in supported])
        return f"needs one of the modules {known}, which the model does not have"
    if differentiable and not cls.DIFFERENTIABLE:
        return "has no exact derivative, so no loss can hold it"
    if profile.reused and not cls.REUSED_MODULES:
        return f"needs every module to run once, which {profile.reused[0]!r} does not"
    return None


def missing_rules(explainers: Mapping[str, Explainer], inputs: Any) -> dict[str, tuple[str, ...]]:
    """The operations without a rule, by explainer; methods that share their rules are asked once."""
    found: dict[str, tuple[str, ...]] = {}
    asked: dict[Callable[..., Any], tuple[str, ...]] = {}
    for name, explainer in explainers.items():
        rules = type(explainer).missing_rules
        if rules is Explainer.missing_rules:
            continue
        if rules not in asked:
            try:
                asked[rules] = explainer.missing_rules(inputs)
            except Exception as err:  # noqa: BLE001
                asked[rules] = (said(err),)  # the model or the method fails on it; the reader sees how
        found[name] = asked[rules]
    return {name: missing for name, missing in found.items() if missing}


def said(err: BaseException) -> str:
    """An error as a reason: its first line, with its type where that line is not a sentence of ours."""
    first = (str(err).strip().splitlines() or [""])[0]
    return f"{type(err).__name__}: {first}" if first else type(err).__name__


def names(wanted: Any) -> list[str]:
    """The registered methods to consider: those that are methods of their own."""
    if wanted is None:
        return [name for name in EXPLAINERS if not EXPLAINERS.get(name).IS_GENERIC]
    return [wanted] if isinstance(wanted, str) else list(wanted)
