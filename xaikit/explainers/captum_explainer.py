"""CaptumExplainer: any attribution class of captum; its settings are the arguments of the class's signature."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

from torch import nn

from xaikit.core import BASELINES, EXPLAINERS, FEATURE_MASKS, Call, Categorical, Choice, Float, Int, Spec
from xaikit.core.configured import REQUIRED, Setting
from xaikit.core.errors import InvalidInputError, InvalidTypeError, near_names
from xaikit.core.setting_json import tuples_for_lists
from xaikit.core.structure import Tensors
from xaikit.explainers.captum_bridge import CaptumMethod
from xaikit.explainers.captum_classes import captum_class
from xaikit.explainers.feature_groups import make_groups

# Arguments that the bridge fills in, or that change what captum returns.
FILLED_IN = frozenset(
    {
        *("self", "args", "kwargs", "forward_func", "model", "layer", "device_ids", "inputs", "target"),
        *("additional_forward_args", "grad_kwargs", "feature_mask", "layer_mask", "layer_baselines"),
        *("return_convergence_delta", "return_input_shape"),
    }
)
RANGES: Mapping[str, Spec] = MappingProxyType(
    {
        "eps": Float(low=1e-10, high=0.1, log=True, gt=0),
        "n_samples": Int(low=10, high=100, step=10, ge=1),
        "n_steps": Int(low=10, high=100, step=10, ge=1),
        "nt_samples": Int(low=5, high=50, step=5, ge=1),
        "stdevs": Float(low=0.0, high=1.0, ge=0),
    }
)
# Our defaults where captum has none, or an unsuitable one: passes are bounded by `max_rows`, windows depend on the
# size of the input, and a layer's attribution keeps the layer's channels.
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "attribution_method": "Saliency",
        "attribution_settings": None,
        "attr_dim_summation": False,
        "baselines": None,
        "sliding_window_shapes": None,
        "perturbations_per_eval": None,
    }
)


@EXPLAINERS.register("captum")
class CaptumExplainer(CaptumMethod):
    """Any attribution class of captum, by its name; its arguments become settings, the numeric ones tunable.

    >>> import torch
    >>> explainer = CaptumExplainer("DeepLift", eps=1e-6).bind(torch.nn.Linear(3, 2, bias=False))
    >>> x = torch.rand(4, 3)
    >>> explainer.attribute(x, 0).allclose(x * explainer.model.weight[0], atol=1e-6)
    True
    """

    IS_GENERIC = True

    algorithm: Annotated[str, "name of a class in captum.attr"] = "DeepLift"
    baseline: Annotated[
        Any, Choice(BASELINES), "where a feature is absent: a name, a number, a tensor or a Baseline"
    ] = "zeros"
    feature_mask: Annotated[
        Any, Choice(FEATURE_MASKS, optional=True), "groups that are switched together; None divides the input evenly"
    ] = None
    n_segments: Annotated[int, Int(ge=1), "most groups where no feature mask is given"] = 64

    def __init__(self, model: nn.Module | str | None = None, **settings: Any) -> None:
        # Its settings are the arguments of the captum class, which a type checker cannot know.
        if isinstance(model, str):
            model, settings = None, {"algorithm": model, **settings}
        algorithm = settings.get("algorithm", "DeepLift")
        captums = _argument_settings(algorithm)
        declared = {**type(self).SETTINGS, **captums}
        tunables = {n: s.spec for n, s in captums.items() if s.spec is not None and s.spec.tunable}
        object.__setattr__(self, "SETTINGS", MappingProxyType(declared))
        object.__setattr__(self, "TUNABLES", MappingProxyType(tunables))
        for name in settings:
            if name not in declared:
                raise InvalidTypeError(f"captum's {algorithm} has no argument {name!r}{near_names(name, declared)}")
        super().__init__(model, **settings)  # type: ignore[call-arg]

    def __reduce__(self) -> tuple[Any, ...]:
        # Each object has settings of its own, which hold functions and cannot be pickled, so it is made again instead.
        return functools.partial(type(self), self.model, **self.settings()), ()

    def _algorithm(self) -> str:
        return self.algorithm

    def _options(self, call: Call) -> dict[str, Any]:
        return {n: getattr(self, n) for n in self.SETTINGS if n not in type(self).SETTINGS}

    def _groups(self, call: Call) -> Tensors:
        # Captum's classes for layers switch the elements of a layer, also where these are vectors of tokens.
        tokens = () if self.finds_layer else call.tokens
        return make_groups(self.feature_mask, call.inputs, self.n_segments, tokens)


def _argument_settings(algorithm: str) -> dict[str, Setting]:
    """Captum's arguments, of the constructor and of the call, as settings."""
    cls = captum_class(algorithm)
    parameters = {**inspect.signature(cls).parameters, **inspect.signature(cls.attribute).parameters}
    # A single baseline is xaikit's own setting; the Shap classes take a set of them.
    hidden = FILLED_IN if algorithm.endswith("Shap") and algorithm != "KernelShap" else FILLED_IN | {"baselines"}
    settings = {n: _argument_setting(p, algorithm) for n, p in parameters.items() if n not in hidden}
    if "attribution_method" in settings:
        check = lambda value, where: value  # noqa: ARG005, E731
        settings["attribution_settings"] = Setting(Any, None, check, "arguments of the class inside, by name", None)
    return settings


def _argument_setting(parameter: inspect.Parameter, algorithm: str) -> Setting:
    name = parameter.name
    default = DEFAULTS.get(name, REQUIRED if parameter.default is parameter.empty else parameter.default)
    spec = RANGES.get(name) or _range_around(default)
    check = spec.check if spec else lambda value, where: tuples_for_lists(value)  # noqa: ARG005
    if name == "stdevs" and spec:  # one for all inputs, or one for each
        check = functools.partial(_each, spec)
    if name == "attr_dim_summation":
        check = _no_summation
    return Setting(Any, spec, check, f"see captum.attr.{algorithm}", default)


def _each(spec: Spec, value: Any, where: str) -> Any:
    several = isinstance(value, (tuple, list))
    return tuple(spec.check(v, where) for v in value) if several else spec.check(value, where)


def _no_summation(value: Any, where: str) -> bool:
    if value:
        raise InvalidInputError(
            f"{where} must be False: an attribution at a layer has the layer's shape; sum it over its channels, or use "
            "grad_cam"
        )
    return False


def _range_around(default: Any) -> Spec | None:
    """A search range around a number that captum has as its default."""
    if isinstance(default, bool):
        return Categorical(True, False, search=False)
    if isinstance(default, int):
        return Int(low=max(1, default // 4), high=4 * max(1, default))
    if isinstance(default, float) and math.isfinite(default):
        return Float(low=default / 10, high=default * 10, log=True) if default > 0 else Float(low=0, high=1)
    return None
