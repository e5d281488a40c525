"""Metric: a number per sample that says how good an explanation is, and which way is better."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from xaikit.core import METRICS, Call, Configured, Explainer, structure
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.structure import Tensors

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Case:
    """One evaluation, as a metric's mathematics sees it.

    Attributes:
        call: runs the model at the point that is explained; its inputs are the features (N, ...).
        attributions: one tensor per `call.inputs`, of the same shape.
        explainer: what made them, for metrics that explain again.
        inputs: as the user gave them.
        targets: as the user gave them.
        seed: of every random number.
    """

    call: Call
    attributions: Tensors
    explainer: Explainer
    inputs: Any
    targets: Any
    seed: int


class Metric(Configured, abc.ABC):
    """A measure of an explanation, one number per sample; never summed over the batch."""

    REGISTRY: ClassVar[Any] = METRICS
    DIRECTION: ClassVar[Literal["maximize", "minimize"]]

    def evaluate(
        self, explainer: Explainer, inputs: Any, targets: Any = None, attributions: Any = None, *, seed: int = 0
    ) -> Tensor:
        """The metric of each sample, shape (N,).

        Args:
            explainer: a bound explainer; its model is measured, at its layer and head.
            inputs: as for `Explainer.attribute`.
            targets: as for `Explainer.attribute`.
            attributions: what to measure; None lets the explainer make them.
            seed: of the explainer's and the metric's random numbers.

        Returns:
            One value per sample; NaN for a sample whose attribution is not finite, since it ranks nothing.

        Raises:
            InvalidTypeError: for an explainer that is none, or attributions that are no tensors.
            InvalidInputError: for attributions of another shape than the explained features.
        """
        return self._measure(self._evaluate, explainer, inputs, targets, attributions, seed)

    @abc.abstractmethod
    def _evaluate(self, case: Case) -> Tensor:
        """The metric's mathematics: one value per sample, shape (N,)."""

    def _measure(
        self, what: Callable[[Case], T], explainer: Explainer, inputs: Any, targets: Any, attributions: Any, seed: int
    ) -> T:
        """Run `what` on a checked case, the model isolated."""
        if not isinstance(explainer, Explainer):
            raise InvalidTypeError(
                f"{type(self).__name__} measures an Explainer, got {explainer!r} of type "
                f"{type(explainer).__name__}; as_explainer(name, model) makes one"
            )
        if attributions is None:
            attributions = explainer.attribute(inputs, targets, seed=seed)
        given, _ = structure.flatten(attributions, "attributions")
        results: list[T] = []

        def measured(call: Call) -> tuple[Tensors, ...]:
            values = _checked(given, call.inputs)
            results.append(what(Case(call, values, explainer, inputs, targets, seed)))
            return ()

        view = {name: getattr(explainer, name) for name in Explainer.SETTINGS}
        _Probe(model=explainer.model, **view)._apply(measured, inputs, targets, create_graph=False, seed=seed)
        return results[0]


class _Probe(Explainer):
    """Opens a call on a model as an explainer sees it (layer, head, extractors), without the explainer's hooks."""

    def _attribute(self, call: Call) -> Tensors:
        return call.inputs


def _checked(attributions: Tensors, inputs: Tensors) -> Tensors:
    if len(attributions) != len(inputs):
        raise InvalidInputError(
            f"attributions must be one tensor per explained input, {len(inputs)}, got {len(attributions)}"
        )
    for value, x in zip(attributions, inputs, strict=True):
        if value.shape != x.shape:
            raise InvalidInputError(
                f"attributions must have the shape of what is explained, {tuple(x.shape)}, got {tuple(value.shape)}"
            )
    return tuple(v.detach().to(x.device) for v, x in zip(attributions, inputs, strict=True))


def finite_samples(attributions: Tensors) -> Tensor:
    """Which samples have finite attributions only, shape (N,)."""
    return torch.stack([torch.isfinite(a).flatten(1).all(1) for a in attributions]).all(0)
