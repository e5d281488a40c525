"""Metric: a number per sample that says how good an explanation is, and which way is better."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor

from xaikit.core import METRICS, Attribution, Call, Configured, Explainer, structure
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnsupportedOperationError
from xaikit.core.inputs import read_inputs
from xaikit.core.model_state import reseed
from xaikit.core.renames import renamed_arguments
from xaikit.core.structure import Tensors, by_row

T = TypeVar("T")
OptimizationDirection = Literal["maximize", "minimize"]  # which way a number is better
Attribute = Callable[[Call], Tensors]
Postprocess = Callable[[Any], Any]


@dataclasses.dataclass(frozen=True)
class EvaluationContext:
    """One evaluation: what `Metric._evaluate` computes with.

    Attributes:
        call: runs the model from the inputs, or from the layer that is explained; `call.inputs` are the explained
            features (N, ...).
        attributions: one tensor per `call.inputs`, of its shape or with size 1 along pooled axes; zero throughout a
            sample that is not finite.
        finite: which samples have finite attributions, (N,).
        explainer: the explainer that computed them, for metrics that explain changed inputs.
        inputs: as the user gave them.
        targets: as the user gave them.
        relevant_region: where the relevance should lie, as the user gave it.
        postprocess: the function of a tuple that was applied to the explainer's attributions; None if there was none.
        seed: of every random number.
    """

    call: Call
    attributions: Tensors
    finite: Tensor
    explainer: Explainer
    inputs: Any
    targets: Any
    relevant_region: Any
    postprocess: Callable[[Tensors], Tensors] | None
    seed: int

    def explain_again(self, method: Callable[[Call, Attribute], T]) -> T:
        """Run ``method(call, attribute)`` inside the explainer's own call.

        Args:
            method: a function of the open call and of `attribute`, which explains a call that was made from it, with
                the same random numbers each time. What `attribute` returns has the form of `attributions`.

        Returns:
            What `method` returns.

        Raises:
            InvalidInputError: when the user's attributions are pooled and `postprocess`, which pooled them, is missing.
            UnsupportedOperationError: for an explainer that computes the activations of its layer by itself.
        """
        self._check_comparable()
        if self.explainer.finds_layer:
            raise UnsupportedOperationError(
                f"this metric explains changed activations, and {self.explainer!r} computes those of its layer by "
                f"itself; measure it without layer=, or measure another method at that layer"
            )
        results: list[T] = []

        def inside(call: Call) -> tuple[Tensors, ...]:
            def attribute(changed: Call) -> Tensors:
                reseed(changed.inputs[0].device, self.seed)
                values = tuple(v.detach() for v in self.explainer.attribute_call(changed))
                return values if self.postprocess is None else self.postprocess(values)

            results.append(method(call, attribute))
            return ()

        self.explainer.run_call(inside, self.inputs, self.targets, create_graph=False, seed=self.seed, cut=True)
        return results[0]

    def attribute(self, targets: Any) -> Tensors:
        """The explainer's attributions of the inputs for other targets, in the form of `attributions`.

        Args:
            targets: as for `Explainer.attribute`.

        Raises:
            InvalidInputError: when the attributions came pooled, without the `postprocess` that pooled them.
        """
        self._check_comparable()
        values, _ = structure.flatten(self.explainer.attribute(self.inputs, targets, seed=self.seed))
        return values if self.postprocess is None else self.postprocess(values)

    def _check_comparable(self) -> None:
        pooled = any(a.shape != x.shape for a, x in zip(self.attributions, self.call.inputs, strict=True))
        if pooled and self.postprocess is None:
            raise InvalidInputError(
                "this metric explains again, so pooled attributions are not enough: give postprocess=, "
                "the function that pooled them, too"
            )


class Metric(Configured, abc.ABC):
    """A measure of an explanation: one number per sample. `DIRECTION` says whether higher or lower is better."""

    REGISTRY: ClassVar[Any] = METRICS
    DIRECTION: ClassVar[OptimizationDirection]
    NEEDS_MASK: ClassVar[bool] = False
    REPEATABLE: ClassVar[bool] = True  # the same number when measured again; seconds are not

    @renamed_arguments(masks="relevant_region")
    def evaluate(  # noqa: PLR0913
        self,
        explainer: Explainer,
        inputs: Any,
        targets: Any = None,
        attributions: Any = None,
        *,
        relevant_region: Any = None,
        postprocess: Postprocess | None = None,
        seed: int = 0,
    ) -> Tensor:
        """The metric of each sample, shape (N,).

        Args:
            explainer: a bound explainer; its model is measured, at its layer and head.
            inputs: as for `Explainer.attribute`.
            targets: as for `Explainer.attribute`.
            attributions: what to measure, shaped like what is explained or with size 1 along pooled axes: tensors,
                arrays, or what `Explainer.explain` returned; None lets the explainer make them.
            relevant_region: where the relevance should lie, for metrics that compare with it: booleans or 0 and 1, in
                a form of `xaikit.core.masks`, such as (H, W) for all images, (N, H, W) or (N, C, H, W).
            postprocess: a function of an attribution, applied to all that the explainer makes here: a
                `Postprocessor`, a modality's `postprocess`. Given attributions count as postprocessed.
            seed: of the explainer's and the metric's random numbers.

        Returns:
            One value per sample; NaN for a sample whose attribution is not finite, since it says nothing.

        Raises:
            InvalidTypeError: for an explainer that is none, or attributions that are no tensors.
            InvalidInputError: for attributions or masks of the wrong shape, or a missing mask.
        """
        options: dict[str, Any] = {"relevant_region": relevant_region, "postprocess": postprocess, "seed": seed}
        return self._measure(self._values, explainer, inputs, targets, attributions, **options)

    @abc.abstractmethod
    def _evaluate(self, context: EvaluationContext) -> Tensor:
        """The metric's mathematics: one value per sample, shape (N,)."""

    def _values(self, context: EvaluationContext) -> Tensor:
        return self._evaluate(context).masked_fill(~context.finite, torch.nan)

    def _measure(  # noqa: PLR0913
        self,
        what: Callable[[EvaluationContext], T],
        explainer: Explainer,
        inputs: Any,
        targets: Any,
        attributions: Any,
        *,
        relevant_region: Any = None,
        postprocess: Any = None,
        seed: int,
    ) -> T:
        """Run `what` on an evaluation whose arguments were checked; the model is left as it was found."""
        if not isinstance(explainer, Explainer):
            raise InvalidTypeError(
                f"{type(self).__name__} measures an Explainer, got {explainer!r} of type "
                f"{type(explainer).__name__}; as_explainer(name, model) makes one"
            )
        if self.NEEDS_MASK and relevant_region is None:
            raise InvalidInputError(
                f"{type(self).__name__} compares an attribution with where it should lie: give relevant_region=, a "
                f"mask for each sample or one for all"
            )
        if postprocess is not None and not callable(postprocess):
            raise InvalidTypeError(f"postprocess must be a function of an attribution, got {postprocess!r}")
        if attributions is None:
            attributions = explainer.attribute(inputs, targets, seed=seed)
            attributions = attributions if postprocess is None else postprocess(attributions)
        if isinstance(attributions, Attribution):
            attributions = attributions.values
        attributions = read_inputs(attributions, explainer.model, what="attributions")
        measured_values, rebuild = structure.flatten(attributions, "attributions")
        pool = None if postprocess is None else lambda v: structure.flatten(postprocess(rebuild(v)))[0]
        results: list[T] = []

        def measured(call: Call) -> tuple[Tensors, ...]:
            values, finite = _checked(measured_values, call.inputs)
            results.append(
                what(EvaluationContext(call, values, finite, explainer, inputs, targets, relevant_region, pool, seed))
            )
            return ()

        view = {name: getattr(explainer, name) for name in Explainer.SETTINGS}
        _Probe(model=explainer.model, **view).run_call(measured, inputs, targets, create_graph=False, seed=seed)
        return results[0]


class _Probe(Explainer):
    """Opens a call with an explainer's layer, head and extractors, but without the explainer's hooks."""

    def _attribute(self, call: Call) -> Tensors:
        return call.inputs


def _checked(attributions: Tensors, inputs: Tensors) -> tuple[Tensors, Tensor]:
    """The attributions, zero where a sample is not finite, and which samples are."""
    if len(attributions) != len(inputs):
        raise InvalidInputError(
            f"attributions must be one tensor per explained input, {len(inputs)}, got {len(attributions)}"
        )
    for value, x in zip(attributions, inputs, strict=True):
        fits = value.ndim == x.ndim and all(v in (1, s) for v, s in zip(value.shape[1:], x.shape[1:], strict=True))
        if not fits or len(value) != len(x):
            raise InvalidInputError(
                f"attributions must have the shape of what is explained, {tuple(x.shape)}, or size 1 along pooled "
                f"axes, got {tuple(value.shape)}"
            )
    # Low precision is too coarse to sum or to correlate in.
    wide = (v.float() if v.dtype in (torch.float16, torch.bfloat16) else v for v in attributions)
    values = tuple(v.detach().to(x.device) for v, x in zip(wide, inputs, strict=True))
    finite = torch.stack([by_row(torch.isfinite(v)).all(1) for v in values]).all(0)
    if bool(finite.all()):
        return values, finite
    return tuple(v.masked_fill(~finite.view(-1, *[1] * (v.ndim - 1)), 0) for v in values), finite
