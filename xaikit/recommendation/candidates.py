"""Candidates: how well each registered explainer suits a model, by the attributes of its class."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Self

from torch import nn

from xaikit.core import EXPLAINERS, Explainer
from xaikit.core.results import Interval, OpaqueField, Result
from xaikit.recommendation.profile import ModelProfile, first_names


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Candidate(Result):
    """One explainer, with the reasons for and against it.

    Attributes:
        name: its registered name.
        explainer: ready to use, bound to the model, with the modality's baseline and groups.
        points: how well its class suits this model; they give the order if nothing was measured.
        reasons: each with the points that it gives, and what was noticed while it was measured.
        passes: about how many passes of the model an explanation takes.
        against: why it cannot explain this model, or not as requested; None if it can.
        interval: mean of the metric over the samples with its 95 % bootstrap interval; None if it was not measured.
        seconds: for the explanation of one sample.
        tied: whether the best one's lead over it is within noise: two standard errors of the paired difference.
    """

    RENAMED: ClassVar[Mapping[str, str]] = {"error": "interval"}

    name: str
    explainer: Annotated[Explainer, OpaqueField()]
    points: float
    reasons: tuple[str, ...]
    passes: int
    against: str | None = None
    interval: Interval | None = None
    seconds: float | None = None
    tied: bool = False

    @property
    def suitable(self) -> bool:
        """Whether nothing speaks against it, so that it can explain the model."""
        return self.against is None

    @property
    def value(self) -> float | None:
        """Mean of the metric over the samples; None if it was not measured."""
        return None if self.interval is None else self.interval.mean

    @property
    def low(self) -> float | None:
        """Lower end of the interval; None if nothing was measured."""
        return None if self.interval is None else self.interval.low

    @property
    def high(self) -> float | None:
        """Upper end of the interval; None if nothing was measured."""
        return None if self.interval is None else self.interval.high

    def _state(self) -> dict[str, Any]:
        return {**super()._state(), "value": self.value}

    @classmethod
    def _decode(cls, state: Mapping[str, Any], model: nn.Module | None = None) -> Self:
        explainer = Explainer.from_spec(state["explainer"], model)
        return super()._decode({"interval": _interval_of_01(state), **state, "explainer": explainer})

    def __repr__(self) -> str:
        measured = [] if self.interval is None else [repr(self.interval), f"{self.seconds:.2g} s/sample"]
        verdict = [*self.reasons, *([] if self.against is None else [f"not suitable: {self.against}"])]
        return f"Candidate {self.name}: {', '.join([f'{self.points:.1f} points', *measured])}; {'; '.join(verdict)}"

    def _compared(self) -> tuple[Any, ...]:
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return tuple({**fields, "explainer": self.explainer.set_kwargs(model=None)}.values())


def _interval_of_01(state: Mapping[str, Any]) -> dict[str, Any] | None:
    """The interval of a file by xaikit 0.1, which held the mean and its standard error, None for a single sample."""
    mean, error = state["value"], state.get("error")
    if mean is None:
        return None
    margin = math.nan if error is None else 1.96 * error
    return {"low": mean - margin, "mean": mean, "high": mean + margin, "level": 0.95, "n": 0}


def candidate(
    explainer: Explainer, model: nn.Module, profile: ModelProfile, missing: tuple[str, ...], *, differentiable: bool
) -> Candidate:
    """The verdict on an explainer before anything is measured.

    Points weigh what is declared and not measured: 2 for each kind of layers in the model that the method was made for,
    minus 0.5 where it has none of them, 1 for a promised sum, 1 for an exact derivative, minus 2 for operations without
    a rule, minus the decimal logarithm of its passes.

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
        reasons.append((-2.0, f"has no rule for {first_names(missing)}"))
    reasons.append((-math.log10(passes), f"about {passes} pass{'es' if passes > 1 else ''}"))
    return Candidate(
        name=cls.NAME,
        explainer=explainer,
        points=sum(points for points, _ in reasons),
        reasons=tuple(f"{points:+.1f} {reason}" if points else reason for points, reason in reasons),
        passes=passes,
        against=_against(cls, model, profile, differentiable=differentiable),
    )


def _against(cls: type[Explainer], model: nn.Module, profile: ModelProfile, *, differentiable: bool) -> str | None:
    supported = cls.SUPPORTED_MODULES
    if not any(isinstance(module, supported) for module in model.modules()):
        modules = first_names([kind.__name__.strip("_") for kind in supported])
        return f"needs one of the modules {modules}, which the model does not have"
    if differentiable and not cls.DIFFERENTIABLE:
        return "has no exact derivative, so no loss can hold it"
    if profile.reused and not cls.REUSED_MODULES:
        return f"needs every module to run once, which {profile.reused[0]!r} does not"
    return None


def missing_rules(explainers: Mapping[str, Explainer], inputs: Any) -> dict[str, tuple[str, ...]]:
    """The operations without a rule, by explainer; only one of several explainers with the same rules is run."""
    missing: dict[str, tuple[str, ...]] = {}
    by_rules: dict[Callable[..., Any], tuple[str, ...]] = {}
    for name, explainer in explainers.items():
        rules = type(explainer).missing_rules
        if rules is Explainer.missing_rules:
            continue
        if rules not in by_rules:
            try:
                by_rules[rules] = explainer.missing_rules(inputs)
            except Exception as err:  # noqa: BLE001
                by_rules[rules] = (error_as_reason(err),)  # the model or the method fails; the reader sees the error
        missing[name] = by_rules[rules]
    return {name: operations for name, operations in missing.items() if operations}


def error_as_reason(err: BaseException) -> str:
    """An error as a reason: its type and its first line."""
    first = (str(err).strip().splitlines() or [""])[0]
    return f"{type(err).__name__}: {first}" if first else type(err).__name__


def explainer_names(explainers: Any) -> list[str]:
    """The registered explainers to consider; by default all but those that are one class for many methods."""
    if explainers is None:
        return [name for name in EXPLAINERS if not EXPLAINERS.get(name).IS_GENERIC]
    return [explainers] if isinstance(explainers, str) else list(explainers)
