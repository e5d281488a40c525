"""Captum's attribution classes as explainers; the only file that imports captum, and not before one is used."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import math
import warnings
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from xaikit.core import BASELINES, EXPLAINERS, Call, Categorical, Choice, Explainer, Float, Int, Spec, isolation
from xaikit.core import targets as target_rules
from xaikit.core.configured import REQUIRED, Setting
from xaikit.core.errors import (
    InvalidInputError,
    InvalidTypeError,
    MissingDependencyError,
    UnknownNameError,
    UnsupportedOperationError,
    near_names,
)
from xaikit.core.rows import even_ranges, rows_per_pass
from xaikit.core.structure import Tensors
from xaikit.explainers.feature_groups import groups_setting, make_groups, windows

# Captum draws the noise of these for a whole batch at once; one sample at a time meets the same noise in any batch.
ONE_BY_ONE = ("GradientShap", "KernelShap", "Lime", "LimeBase", "NoiseTunnel")
# These take a feature's stand-in from the other samples, so the batch must stay whole.
WHOLE_BATCH = ("FeaturePermutation",)
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
# Where captum has no default or one that does not suit: passes are bounded by `max_rows`, windows follow the input,
# and a layer's attribution keeps the layer's channels.
DEFAULTS: Mapping[str, Any] = MappingProxyType(
    {
        "attribution_method": "Saliency",
        "attr_dim_summation": False,
        "baselines": None,
        "sliding_window_shapes": None,
        "perturbations_per_eval": None,
    }
)


def _rows(value: Any, where: str) -> Any:
    return value if value is None else Int(ge=1).check(value, where)


@dataclasses.dataclass(frozen=True)
class LayerCall(Call):
    """A call cut at a layer that also holds the uncut one, for the captum classes that find the layer themselves."""

    uncut: Call | None = None


class CaptumMethod(Explainer):
    """What makes one of captum's classes an explainer.

    Captum is given a model that returns the explained score, so every form of target, head and further argument
    works, and `layer` cuts the model as for any explainer. A pass is bounded by captum's own setting where it has one
    (perturbations_per_eval, internal_batch_size), else by handing over some samples at a time.

    Not differentiable: where captum's result has a graph at all, its derivative with respect to the parameters is
    wrong or zero (measured for every registered class in tests/unit/explainers/test_captum_bridge.py).
    """

    DIFFERENTIABLE = False
    ALGORITHM: ClassVar[str] = ""

    max_rows: Annotated[Any, _rows, "most rows in one forward pass; None chooses"] = None

    def _algorithm(self) -> str:
        return self.ALGORITHM

    def _options(self, call: Call) -> dict[str, Any]:  # noqa: ARG002
        """Captum's arguments by name; what its class does not take is left out, None leaves captum's default."""
        return {n: getattr(self, n) for n in self.SETTINGS if n not in CaptumMethod.SETTINGS}

    def _groups(self, call: Call) -> Tensors | None:  # noqa: ARG002
        """Group numbers of the features, for the classes that take a feature mask."""
        return None

    def _baselines(self, call: Call) -> Tensors | None:
        baseline = getattr(self, "baseline", None)
        return None if baseline is None else tuple(baseline(x) for x in call.inputs)

    def _attribute(self, call: Call) -> Tensors:
        algorithm = captum_class(self._algorithm())
        uncut = call.uncut if isinstance(call, LayerCall) and call.uncut is not None else call
        options = {n: v for n, v in self._options(call).items() if v is not None}
        takes = set(inspect.signature(algorithm.attribute).parameters)
        limit = rows_per_pass(uncut.inputs, self.max_rows)
        sources = {
            "baselines": lambda: self._baselines(uncut),
            "layer_baselines": lambda: self._baselines(call),
            "feature_mask": lambda: self._groups(uncut),
            "layer_mask": lambda: self._groups(call),
        }
        per_sample = {n: make() for n, make in sources.items() if n in takes and n not in options}
        instance = _build(algorithm, _Explained(uncut), self.layer, options)
        parts = []
        for block in _blocks(self._algorithm(), uncut.n, limit, options):
            chosen = slice(block.start, block.stop)
            arguments = {
                "perturbations_per_eval": max(1, limit // len(block)),
                "internal_batch_size": max(limit, 2 * len(block)),
                "nt_samples_batch_size": max(1, limit // len(block)),
                **{n: tuple(t[chosen] if len(t) == call.n else t for t in v) for n, v in per_sample.items() if v},
                **options,
            }
            arguments = {n: v for n, v in arguments.items() if n in takes}
            inputs = tuple(x[chosen].detach().requires_grad_() for x in uncut.inputs)
            samples = torch.arange(block.start, block.stop, device=inputs[0].device)
            with _as_found(uncut.model), _randomness(call), _clear(self._algorithm()):
                found = instance.attribute(inputs, additional_forward_args=(samples,), **arguments)
            parts.append(found if isinstance(found, (tuple, list)) else (found,))
        return tuple(torch.cat(pieces).to(x) for pieces, x in zip(zip(*parts, strict=True), call.inputs, strict=True))

    def _apply(self, method: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
        # GuidedGradCam and the Neuron classes use a layer but explain the inputs, so the call must not be cut.
        at_inputs = (
            self.layer is not None and _needs_layer(self._algorithm()) and not _is_layer_class(self._algorithm())
        )
        runner = self.set_kwargs(layer=None) if at_inputs else self
        return super(CaptumMethod, runner)._apply(method, *args, **options)

    def _cut(self, call: Call) -> tuple[Call, Any]:
        cut, rebuild = super()._cut(call)
        if not _needs_layer(self._algorithm()):
            return cut, rebuild
        fields = {f.name: getattr(cut, f.name) for f in dataclasses.fields(Call)}
        return LayerCall(**fields, uncut=call), rebuild


@EXPLAINERS.register("captum")
class CaptumExplainer(CaptumMethod):
    """Any attribution class of captum, by its name; its arguments become settings, the numeric ones tunable.

    >>> import torch
    >>> explainer = CaptumExplainer("DeepLift", eps=1e-6).bind(torch.nn.Linear(3, 2, bias=False))
    >>> x = torch.rand(4, 3)
    >>> explainer.attribute(x, 0).allclose(x * explainer.model.weight[0], atol=1e-6)
    True
    """

    algorithm: Annotated[str, "name of a class in captum.attr"] = "DeepLift"
    baseline: Annotated[
        Any, Choice(BASELINES), "where a feature is absent: a name, a number, a tensor or a Baseline"
    ] = "zeros"
    feature_mask: Annotated[
        Any, groups_setting, "numbers of the groups that are switched together: a tensor (one per input) or a function"
    ] = None
    n_segments: Annotated[int, Int(ge=1), "most groups where no feature mask is given"] = 64

    def __init__(self, model: nn.Module | str | None = None, **settings: Any) -> None:
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
        # The settings of an object of this class are its own and hold functions, so it is made again instead.
        return functools.partial(type(self), self.model, **self.settings()), ()

    def _algorithm(self) -> str:
        return self.algorithm

    def _options(self, call: Call) -> dict[str, Any]:
        options = {n: getattr(self, n) for n in self.SETTINGS if n not in type(self).SETTINGS}
        if "sliding_window_shapes" in options and options["sliding_window_shapes"] is None:
            shapes, strides = windows(call.inputs, 0.2, 0.5)
            options["sliding_window_shapes"] = tuple(shapes)
            options["strides"] = tuple(strides) if options["strides"] is None else options["strides"]
        return options

    def _groups(self, call: Call) -> Tensors:
        return make_groups(self.feature_mask, call.inputs, self.n_segments)


class _Explained(nn.Module):
    """The model as captum sees it: rows, and the samples that they stand for, to explained scores."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.model = call.model
        self.training = False
        self._call = call

    def forward(self, *arguments: Tensor) -> Tensor:
        *inputs, samples = arguments
        call = self._call
        output = target_rules.pick_head(call.forward(tuple(inputs), samples), call.head)
        if isinstance(call.target, Tensor):
            return target_rules.score(output, call.target[samples], call.n_classes)
        if call.target is None:
            return target_rules.score(output, None)
        return _score_by_function(output, call, samples)


def _score_by_function(output: Tensor, call: Call, samples: Tensor) -> Tensor:
    """The scores of rows in any order by a target function, which may hold values per sample: it gets whole batches.

    Each row goes to its sample's place in the first batch where that is free; what stays empty repeats a row.
    """
    earlier = (samples[:, None] == samples[None]).tril(-1).sum(1)
    place = earlier * call.n + samples
    batches = output[:1].detach().expand((int(earlier.max()) + 1) * call.n, *output.shape[1:])
    filled = batches.clone().index_copy(0, place, output)
    return torch.cat([target_rules.score(part, call.target) for part in filled.split(call.n)])[place]


# ---------------------------------------------------------------------- captum's classes


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
    known = {
        n: c
        for n, c in vars(attr).items()
        if inspect.isclass(c) and hasattr(c, "attribute") and "inputs" in inspect.signature(c.attribute).parameters
    }
    if name not in known:
        raise UnknownNameError(f"captum has no attribution class {name!r}{near_names(str(name), known)}")
    return known[name]


def _argument_settings(algorithm: str) -> dict[str, Setting]:
    """Captum's arguments, of the constructor and of the call, as settings."""
    cls = captum_class(algorithm)
    parameters = {**inspect.signature(cls).parameters, **inspect.signature(cls.attribute).parameters}
    # A single baseline is xaikit's own setting; the Shap classes take a set of them.
    hidden = FILLED_IN if algorithm.endswith("Shap") and algorithm != "KernelShap" else FILLED_IN | {"baselines"}
    return {n: _argument_setting(p, algorithm) for n, p in parameters.items() if n not in hidden}


def _argument_setting(parameter: inspect.Parameter, algorithm: str) -> Setting:
    name = parameter.name
    default = DEFAULTS.get(name, REQUIRED if parameter.default is parameter.empty else parameter.default)
    spec = RANGES.get(name) or _range_around(default)
    check = spec.check if spec else lambda value, where: value  # noqa: ARG005
    return Setting(Any, spec, check, f"see captum.attr.{algorithm}", default)


def _range_around(default: Any) -> Spec | None:
    """A search range around a number that captum has as its default."""
    if isinstance(default, bool):
        return Categorical(True, False, search=False)
    if isinstance(default, int):
        return Int(low=max(1, default // 4), high=4 * max(1, default))
    if isinstance(default, float) and math.isfinite(default):
        return Float(low=default / 10, high=default * 10, log=True) if default > 0 else Float(low=0, high=1)
    return None


def _needs_layer(algorithm: str) -> bool:
    return "layer" in inspect.signature(captum_class(algorithm)).parameters


def _is_layer_class(algorithm: str) -> bool:
    return any(base.__name__ == "LayerAttribution" for base in captum_class(algorithm).__mro__)


def _build(algorithm: Any, explained: _Explained, layer: Any, options: dict[str, Any]) -> Any:
    """An object of a captum class; of the options it takes those that its constructor knows."""
    names = list(inspect.signature(algorithm).parameters)
    chosen = {n: v for n, v in options.items() if n in names}
    if "attribution_method" in names:
        inner = captum_class(options["attribution_method"])
        return algorithm(_build(inner, explained, layer, {}))
    if "layer" in names:
        chosen["layer"] = _captum_layer(explained.model, layer, algorithm.__name__)
    return algorithm(explained, **chosen)


def _captum_layer(model: nn.Module, layer: Any, algorithm: str) -> Any:
    if layer is None:
        raise InvalidInputError(f"captum's {algorithm} explains at a layer; pass layer=, a name or a module")
    found = [isolation.find_layer(model, item)[1] for item in (layer if isinstance(layer, tuple) else (layer,))]
    return found if isinstance(layer, tuple) else found[0]


def lasso(alpha: float) -> Any:
    """Captum's sparse linear model, the surrogate of Lime."""
    _captum()
    from captum._utils.models.linear_model import SkLearnLasso

    return SkLearnLasso(alpha=alpha)


# ---------------------------------------------------------------------- the passes


def _blocks(name: str, n: int, limit: int, options: dict[str, Any]) -> list[range]:
    """The samples that captum gets at a time."""
    if name.endswith(ONE_BY_ONE) and not name.endswith("DeepLiftShap"):
        return even_ranges(n, 1)
    if name.endswith(WHOLE_BATCH):
        return [range(n)]
    background = options.get("baselines")
    first = background[0] if isinstance(background, tuple) else background
    # DeepLift runs each sample beside each baseline; LayerConductance compares neighbouring steps.
    rows = 2 * (1 if first is None else len(first)) if name.endswith(("DeepLift", "DeepLiftShap", "Conductance")) else 1
    return even_ranges(n, max(1, limit // rows))


@contextlib.contextmanager
def _randomness(call: Call) -> Iterator[None]:
    """The same random numbers for every block; captum draws from numpy's global state too, which is put back."""
    device, state = call.inputs[0].device, np.random.get_state()
    torch.default_generator.manual_seed(call.seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(call.seed)
    np.random.seed(call.seed % 2**32)
    try:
        yield
    finally:
        np.random.set_state(state)


@contextlib.contextmanager
def _as_found(model: nn.Module) -> Iterator[None]:
    """Captum leaves attributes on modules that its backward pass does not reach; they are taken off."""
    before = [(module, set(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, names in before:
            for name in set(vars(module)) - names:
                delattr(module, name)


@contextlib.contextmanager
def _clear(name: str) -> Iterator[None]:
    """Captum's announcements of hooks that it removes again say nothing; its failures become one sentence."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Setting (forward, )?backward hooks", category=UserWarning)
        try:
            yield
        except AssertionError as err:
            raise UnsupportedOperationError(f"captum's {name} refuses this model or these arguments: {err}") from err
        except RuntimeError as err:
            if "DeepLift" not in str(err):
                raise
            raise UnsupportedOperationError(
                f"captum's {name} needs every activation to be a module that runs once; this model reuses one"
            ) from err
