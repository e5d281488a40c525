"""Captum's attribution classes by name, their arguments, and objects of them; only this file imports captum."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from typing import Any

import torch

from xaikit.core.errors import InvalidInputError, MissingDependencyError, UnknownNameError, near_names

# Arguments by which captum's classes for layers and neurons look at what goes into the layer.
LAYER_INPUT = ("attribute_to_layer_input", "attribute_to_neuron_input")


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError as err:
        raise MissingDependencyError(f"captum does not import ({err}): pip install captum") from err
    return captum.attr


def captum_class(name: str) -> Any:
    """The class of captum.attr of that name, if it attributes tensors.

    Raises:
        UnknownNameError: for another name; near names are given.
        MissingDependencyError: where captum is absent.
    """
    attr = _captum()
    chosen = getattr(attr, str(name), None)
    if not _attributes_tensors(chosen):
        known = [n for n, candidate in vars(attr).items() if _attributes_tensors(candidate)]
        raise UnknownNameError(f"captum has no attribution class {name!r}{near_names(str(name), known)}")
    return chosen


def _attributes_tensors(candidate: object) -> bool:
    attribute = getattr(candidate, "attribute", None)
    return inspect.isclass(candidate) and attribute is not None and "inputs" in inspect.signature(attribute).parameters


def needs_layer(name: str) -> bool:
    """Whether a class takes a layer."""
    return "layer" in inspect.signature(captum_class(name)).parameters


def is_layer_class(name: str) -> bool:
    """Whether a class explains a layer: those for neurons and GuidedGradCam take one, and explain the inputs."""
    return any(base.__name__ == "LayerAttribution" for base in captum_class(name).__mro__)


def arguments_of(name: str, innermost: str) -> set[str]:
    """Names of the arguments of a class's `attribute`; a NoiseTunnel also takes those of the class inside."""
    classes = {captum_class(name), captum_class(innermost)}
    return {argument for cls in classes for argument in inspect.signature(cls.attribute).parameters}


def build(name: str, explained: Any, layer: Any, options: Mapping[str, Any]) -> Any:
    """An object of a captum class, made with those of the options that its constructor takes.

    Args:
        name: of the class.
        explained: the model as captum sees it.
        layer: the module, or the modules, that a class for layers explains.
        options: captum's arguments by name.

    Raises:
        InvalidInputError: for a class that needs a layer, without one.
    """
    algorithm = captum_class(name)
    names = list(inspect.signature(algorithm).parameters)
    chosen = {n: v for n, v in options.items() if n in names}
    if "attribution_method" in names:
        inner = build(options["attribution_method"], explained, layer, options.get("attribution_settings") or {})
        return algorithm(inner)
    if "layer" in names:
        if layer is None:
            raise InvalidInputError(f"captum's {name} explains at a layer; pass layer=, a name or a module")
        chosen["layer"] = layer
    return algorithm(explained, **chosen)


def lasso(alpha: float, fidelities: list[float] | None = None) -> Any:
    """Captum's sparse linear model, the surrogate of Lime.

    Args:
        alpha: weight of the L1 penalty.
        fidelities: gets the weighted R² of each fit: 1 - sum w (y - fit)² / sum w (y - mean)², mean the weighted one;
            NaN where y does not vary.
    """
    _captum()
    from captum._utils.models.linear_model import SkLearnLasso

    class Surrogate(SkLearnLasso):
        """The model, with a note of how well it fits."""

        def fit(self, train_data: Any, **options: Any) -> Any:
            result = super().fit(train_data, **options)
            if fidelities is not None:
                batches = [[part.double().cpu() for part in batch] for batch in train_data]
                x, y, w = (torch.cat(parts) for parts in zip(*batches, strict=True))
                y, w = y.flatten(), w.flatten()
                fitted = self.linear(x.to(self.linear.weight)).double().cpu().flatten().detach()
                spread = (w * (y - (w * y).sum() / w.sum()).square()).sum()
                missed = (w * (y - fitted).square()).sum()
                fidelities.append(float(1 - missed / spread) if spread > 0 else math.nan)
            return result

    return Surrogate(alpha=alpha)
