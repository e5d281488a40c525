"""ModelView: a model, and which part of it is explained: a layer, an output, some of its arguments."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

import torch
from torch import nn

from xaikit.core.configured import Configured, positional
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnboundError
from xaikit.core.inputs import read_inputs
from xaikit.core.layers import find_point
from xaikit.core.model_device import model_device
from xaikit.core.params import Int, Layer
from xaikit.core.setting_json import to_json


def _function(value: Any, where: str) -> Any:
    if value is not None and not callable(value):
        raise InvalidTypeError(f"{where} must be a function of the inputs, got {value!r}")
    return value


def _described(value: Any, name: str) -> Any:
    try:
        return to_json(value, name)
    except InvalidInputError:
        return f"{value.__module__}.{value.__qualname__}" if inspect.isfunction(value) else repr(value)


class ModelView(Configured):
    """A model with the settings that every explainer has: where it is explained and how it is called.

    Args:
        model: the model to explain. Without one the object is a specification; `bind` gives it a model.
    """

    RENAMED_MEMBERS: ClassVar[Mapping[str, str]] = {
        "FAMILY": "IS_GENERIC",
        "GIVES_OUTPUT": "SHARES_TASK_FORWARD",
        "ONE_GRADIENT": "SINGLE_BACKWARD",
        "_apply": "run_call",
        "_provenance": "describe",
        "_portable": "serialised_settings",
        "_serialised_settings": "serialised_settings",
    }

    model: nn.Module | None = positional(default=None, kw_only=False)
    layer: Annotated[
        Any, Layer(several=True), "explain the output of this layer (or of several) instead of the inputs"
    ] = None
    head: Annotated[
        str | int | None,
        "which output is explained, where the model returns several; None hands all to a target function",
    ] = "logits"
    forward_arg_extractor: Annotated[Any, _function, "picks the explained tensors out of the inputs"] = None
    additional_forward_arg_extractor: Annotated[Any, _function, "picks further model arguments out of the inputs"] = (
        None
    )
    n_classes: Annotated[Any, Int(ge=1, optional=True), "number of outputs, checked"] = None

    if not TYPE_CHECKING:  # see `Configured`

        def __init__(self, model: nn.Module | None = None, *unnamed: Any, **settings: Any) -> None:
            self._refuse_unnamed(unnamed, "the model alone has none")
            if model is not None and not isinstance(model, nn.Module):
                raise InvalidTypeError(f"{type(self).__name__} takes a torch.nn.Module as its model, got {model!r}")
            object.__setattr__(self, "model", model)
            self._set(settings)

    def bind(self, model: nn.Module) -> Self:
        """The same settings for that model, as a new object.

        Args:
            model: the model to explain.

        Raises:
            InvalidTypeError: for anything but a module.
        """
        return type(self)(model, **self.settings())

    def set_kwargs(self, **changes: Any) -> Self:
        """A new object with some settings (or the model) changed; this one stays as it is.

        Args:
            changes: settings by name; `model` is one of them.

        Raises:
            InvalidTypeError: for an unknown setting (the nearest name is given) or a wrong type.
            InvalidInputError: for a value outside the legal range.
        """
        model = changes.pop("model", self.model)
        return type(self)(model, **{**self.settings(), **changes})

    @property
    def layers(self) -> tuple[Any, ...]:
        """The layers that are explained, none where the inputs are."""
        return self.layer if isinstance(self.layer, tuple) else () if self.layer is None else (self.layer,)

    @property
    def device(self) -> torch.device:
        """The device of the model's first parameter or buffer; the CPU for a model without any."""
        return model_device(self._bound())

    def serialised_settings(self) -> dict[str, Any]:
        """The settings as `spec` writes them: a layer that was given as a module is written by its name."""
        settings = self.settings()
        if self.model is not None and self.layer is not None:
            several = isinstance(self.layer, tuple)
            names = [find_point(self.model, item).name for item in (self.layer if several else (self.layer,))]
            settings["layer"] = names if several else names[0]
        return settings

    def __repr__(self) -> str:
        settings = super().__repr__()
        if self.model is None:
            return settings
        name, _, arguments = settings.partition("(")
        return f"{name}({type(self.model).__name__}{', ' if arguments != ')' else ''}{arguments}"

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other)
        return same if same is NotImplemented else same and self.model is other.model  # type: ignore[attr-defined]

    __hash__ = Configured.__hash__

    def _arguments(self, inputs: Any) -> tuple[Any, Any]:
        """The explained tensors and the further model arguments."""
        pick, extractor = self.forward_arg_extractor, self.additional_forward_arg_extractor
        explained = read_inputs(inputs if pick is None else pick(inputs), self.model)
        return explained, None if extractor is None else extractor(inputs)

    def _bound(self) -> nn.Module:
        if self.model is None:
            raise UnboundError(f"{self!r} has no model yet; call .bind(model) first")
        return self.model

    def describe(self) -> dict[str, Any]:
        """The spec, for a reader: settings that no JSON can hold are described instead of refused.

        Returns:
            Name and settings as plain JSON values. A function is described by its qualified name, anything else that
            no JSON can hold by its repr.
        """
        name = self.NAME or type(self).__name__
        return {"name": name, "settings": {n: _described(v, n) for n, v in self.serialised_settings().items()}}

    @classmethod
    def _shares_passes(cls) -> bool:
        """Whether `_attribute_each` belongs to the method: not where a subclass has another `_attribute`."""
        homes = (vars(base) for base in cls.__mro__)
        return "_attribute_each" in next(home for home in homes if {"_attribute", "_attribute_each"} & home.keys())
