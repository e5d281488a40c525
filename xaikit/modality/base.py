"""Modality: the kind of data of an input. It gives the channel axis, the baseline and the groups of features."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Self, TypeVar, overload

from torch import Tensor

from xaikit.core import EXPLAINERS, METRICS, structure
from xaikit.core.configured import Configured
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.params import Choice
from xaikit.core.registries import BASELINES, FEATURE_MASKS, MODALITIES, POSTPROCESSORS
from xaikit.transforms.axes import CHANNEL_AXIS, axis_setting

Method = TypeVar("Method", bound=Configured)


class Modality(Configured, abc.ABC):
    """The facts about the inputs of a model that explainers, metrics and figures need.

    Every modality offers `baseline`, `feature_mask` and `postprocess`, whether it describes one input or several.
    """

    REGISTRY: ClassVar[Any] = MODALITIES

    @property
    @abc.abstractmethod
    def parts(self) -> tuple[OneInput, ...]:
        """The modality of each input; a single one stands for all inputs."""

    @abc.abstractmethod
    def transforms(self) -> dict[str, Any]:
        """Baseline and feature mask, for settings that go by these names."""

    @overload
    def prepare(self, method: type[Method]) -> Method: ...
    @overload
    def prepare(self, method: Method) -> Method: ...
    @overload
    def prepare(self, method: str | Mapping[str, Any]) -> Any: ...
    def prepare(self, method: Any) -> Any:
        """The explainer or metric with this modality's baseline and feature mask, where it has such settings.

        A metric also gets the channel axis, where all inputs share one. Earlier values of these settings are replaced;
        to use others, set them on the result.

        Args:
            method: an explainer or a metric, its class, its name or a spec.
        """
        measures = _names_metric(method)
        prepared: Configured = (METRICS if measures else EXPLAINERS).create(method)
        settings = self.transforms()
        axes = {part.channel_axis for part in self.parts} - {None}
        if measures and len(axes) == 1:
            settings["channel_axis"] = axes.pop()
        return prepared.set_kwargs(**{n: v for n, v in settings.items() if n in prepared.SETTINGS})

    def postprocess(self, attribution: Any) -> Any:
        """The attribution with the channels of each place joined, scaled as the postprocessor says.

        Args:
            attribution: a tensor (N, ...), or a tuple or dict of them for several inputs.

        Returns:
            The same structure; channels have size 1.

        Raises:
            InvalidInputError: for a number of tensors that is not that of the modalities.
        """
        tensors, rebuild = structure.flatten(attribution, "attributions")
        parts = self.each(len(tensors))
        return rebuild(tuple(part._postprocess(tensor) for part, tensor in zip(parts, tensors, strict=True)))

    def each(self, n_inputs: int) -> tuple[OneInput, ...]:
        """One modality for each of `n_inputs` inputs.

        Args:
            n_inputs: how many inputs the model takes.

        Raises:
            InvalidInputError: when there are several modalities, but not that many.
        """
        if len(self.parts) not in (1, n_inputs):
            raise InvalidInputError(
                f"{len(self.parts)} modalities ({', '.join(p.NAME for p in self.parts)}) for {n_inputs} "
                f"input{'s' if n_inputs > 1 else ''}; give one for each, or a single one for all"
            )
        return self.parts if len(self.parts) == n_inputs else self.parts * n_inputs

    @classmethod
    def of(cls, inputs: Any) -> Modality:
        """The modality that the form of the inputs suggests.

        Whole numbers (N, T) are text, floating-point numbers (N, features) a table, (N, channels, T) a time series,
        (N, channels, H, W) an image; so are whole numbers of that shape. Several inputs have a modality each.

        Args:
            inputs: a tensor (N, ...), or a tuple or dict of them.

        Raises:
            InvalidInputError: for any other form; name the modality instead.
        """
        tensors, _ = structure.flatten(inputs)
        names = [_guess(tensor) for tensor in tensors]
        return MODALITIES.create(names[0] if len(names) == 1 else tuple(names))  # type: ignore[no-any-return]


class OneInput(Modality):
    """The modality of one input, or of several that are alike."""

    channel_axis: Annotated[int | None, axis_setting, CHANNEL_AXIS] = None
    baseline: Annotated[Any, Choice(BASELINES, search=True), "what a feature is like when it is absent"] = "zeros"
    feature_mask: Annotated[Any, Choice(FEATURE_MASKS, search=True), "which features belong together"] = "auto"
    postprocessor: Annotated[Any, Choice(POSTPROCESSORS), "how an attribution is pooled and scaled"] = "postprocessor"

    @property
    def parts(self) -> tuple[Self, ...]:
        """Itself."""
        return (self,)

    def transforms(self) -> dict[str, Any]:
        """Baseline and feature mask on this modality's channel axis."""
        return {"baseline": self._on_axis(self.baseline), "feature_mask": self._on_axis(self.feature_mask)}

    def _postprocess(self, attribution: Tensor) -> Tensor:
        return self._on_axis(self.postprocessor)(attribution)

    def _on_axis(self, transform: Any) -> Any:
        """The transform with this modality's channel axis, where it knows channels and leaves their axis open."""
        if self.channel_axis is None or getattr(transform, "channel_axis", 0) is not None:
            return transform
        return transform.set_kwargs(channel_axis=self.channel_axis)


def as_modality(value: Any, n_inputs: int = 1) -> Modality:
    """A modality from a name, a spec, a class, an object, or a tuple of these for a model of several inputs.

    Args:
        value: what names it.
        n_inputs: how many inputs the model takes.

    Raises:
        InvalidInputError: when there are several modalities, but not one for each input.
        InvalidTypeError: for anything else.
    """
    modality: Modality = MODALITIES.create(value)
    modality.each(n_inputs)
    return modality


def _names_metric(method: Any) -> bool:
    if isinstance(method, Mapping):
        method = method.get("name")
    if isinstance(method, str):
        return method.partition(":")[0] in METRICS
    return getattr(method, "REGISTRY", None) is METRICS


def _guess(x: Tensor) -> str:
    numbers = x.is_floating_point()
    by_rank = {2: "tabular" if numbers else "text", 4: "image"} | ({3: "time_series"} if numbers else {})
    if x.is_complex() or x.ndim not in by_rank:
        raise InvalidInputError(
            f"inputs of {x.dtype} and shape {tuple(x.shape)} could be several things; name their modality, "
            f"one of {', '.join(MODALITIES)}"
        )
    return by_rank[x.ndim]


def modalities(value: Any, where: str) -> Any:
    """Check the setting of a multi-modal modality: at least one modality of one input each."""
    if isinstance(value, (str, Mapping, Configured, type)) or not isinstance(value, (tuple, list)) or not value:
        raise InvalidTypeError(f"{where} must be a tuple of modalities, one for each input, got {value!r}")
    parts = tuple(MODALITIES.create(item) for item in value)
    if not all(isinstance(part, OneInput) for part in parts):
        raise InvalidTypeError(f"{where} must hold modalities of one input each, got {value!r}")
    return parts
