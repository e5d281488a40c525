"""Captum's attribution classes as explainers; the only file that imports captum, and not before one is used."""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import warnings
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from xaikit.core import Call, Explainer, Int
from xaikit.core import layers as model_layers
from xaikit.core import targets as target_rules
from xaikit.core.errors import (
    InvalidInputError,
    MissingDependencyError,
    UnknownNameError,
    UnsupportedOperationError,
    XaikitError,
    near_names,
)
from xaikit.core.rows import even_ranges, rows_per_pass
from xaikit.core.structure import Tensors
from xaikit.explainers.feature_groups import without_gaps

# Captum draws the noise of these for a whole batch at once; one sample at a time meets the same noise in any batch.
ONE_BY_ONE = ("GradientShap", "KernelShap", "Lime", "LimeBase", "NoiseTunnel")
# So do these with orders of features, which a batch shares where its samples have the same groups.
ONE_BY_ONE_WITH_OWN_GROUPS = ("ShapleyValueSampling", "ShapleyValues")
# These take a feature's stand-in from the other samples, so the batch must stay whole.
WHOLE_BATCH = ("FeaturePermutation",)


def _rows(value: Any, where: str) -> Any:
    return value if value is None else Int(ge=1).check(value, where)


class CaptumMethod(Explainer):
    """What makes one of captum's classes an explainer.

    Captum is given a model that returns the explained score, so every form of target, head and further argument
    works, and `layer` cuts the model as for any explainer. A pass is bounded by captum's own setting where it has one
    (perturbations_per_eval, internal_batch_size), else by handing over some samples at a time.

    Not differentiable: captum's result has no graph, or one that reaches the input but no parameter (measured for every
    registered class in tests/unit/explainers/test_captum_bridge.py).
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
        return None if baseline is None else baseline.of(call)

    @property
    def finds_layer(self) -> bool:
        """Whether the class is one of captum's for layers."""
        return self.layer is not None and _is_layer_class(self._algorithm())

    def _attribute(self, call: Call) -> Tensors:
        name = self._algorithm()
        # Layer classes find the layer themselves.
        uncut = call.uncut if call.uncut is not None and _needs_layer(name) else call
        options = {n: v for n, v in self._options(call).items() if v is not None}
        algorithm = captum_class(name)
        instance = _build(algorithm, _Explained(uncut), self.layer, options)
        takes = set(inspect.signature(algorithm.attribute).parameters)
        own = self._of_samples(takes - set(options), call, uncut)
        limit, rows = rows_per_pass(uncut.inputs, self.max_rows), _rows_per_sample(name, options)
        parts = []
        alone = name in ONE_BY_ONE_WITH_OWN_GROUPS and any(len(ids) > 1 for ids in own.get("feature_mask", ()))
        for block in _blocks(name, uncut.n, 1 if alone else limit // rows, options):
            chosen = slice(block.start, block.stop)
            arguments = {
                "perturbations_per_eval": max(1, limit // len(block)),
                "internal_batch_size": max(limit, rows * len(block)),
                "nt_samples_batch_size": max(1, limit // len(block)),
                # A tensor of one row serves every sample.
                **{n: tuple(t[chosen] if len(t) == uncut.n else t for t in v) for n, v in own.items()},
                **options,
            }
            arguments |= {n: without_gaps(arguments[n]) for n in ("feature_mask", "layer_mask") if n in own}
            if name.endswith("DeepLiftShap") and "baselines" in own:
                # Captum wants at least two background samples.
                arguments["baselines"] = tuple(torch.cat([b, b]) for b in arguments["baselines"])
            inputs = tuple(x[chosen].detach().requires_grad_() for x in uncut.inputs)
            arguments = {n: v for n, v in arguments.items() if n in takes}
            arguments["additional_forward_args"] = (torch.arange(block.start, block.stop, device=inputs[0].device),)
            with _as_found(uncut.model), _randomness(call), _clear(name):
                found = instance.attribute(inputs, **arguments)
            parts.append(found if isinstance(found, (tuple, list)) else (found,))
        return tuple(torch.cat(pieces).to(x) for pieces, x in zip(zip(*parts, strict=True), call.inputs, strict=True))

    def _of_samples(self, takes: set[str], call: Call, uncut: Call) -> dict[str, Tensors]:
        """The arguments that hold a row for each sample, or one for all."""
        makers = {
            "baselines": lambda: self._baselines(uncut),
            "layer_baselines": lambda: self._baselines(call),
            "feature_mask": lambda: self._groups(uncut),
            "layer_mask": lambda: self._groups(call),
        }
        made = {n: make() for n, make in makers.items() if n in takes}
        return {n: tensors for n, tensors in made.items() if tensors is not None}

    def run_call(self, method: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
        """Run a function on a checked call; see `Explainer.run_call`."""
        # GuidedGradCam and the Neuron classes use a layer but explain the inputs, so the call must not be cut.
        at_inputs = (
            self.layer is not None and _needs_layer(self._algorithm()) and not _is_layer_class(self._algorithm())
        )
        runner = self.set_kwargs(layer=None) if at_inputs else self
        return super(CaptumMethod, runner).run_call(method, *args, **options)

    def _at_layers(self, call: Call, *, read: bool) -> tuple[Call, Any]:
        # Captum hooks the modules before the layer too, and its hooks need tensors that require a gradient.
        leaves = tuple(x.detach().requires_grad_() if x.is_floating_point() else x for x in call.inputs)
        return super()._at_layers(dataclasses.replace(call, inputs=leaves), read=read)


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
        # Captum's noise is float32, which a model of lower precision refuses.
        rows = tuple(x.to(like.dtype) for x, like in zip(inputs, call.inputs, strict=True))
        origin = samples if call.samples is None else call.samples[samples]
        output = call.output_of(rows, origin)
        if isinstance(call.target, Tensor):
            return target_rules.score(output, call.target[samples], call.n_classes)
        if isinstance(call.target, target_rules.RowTarget):
            return target_rules.score(output, call.target.of(samples))
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
    found = [model_layers.find_layer(model, item)[1] for item in (layer if isinstance(layer, tuple) else (layer,))]
    return found if isinstance(layer, tuple) else found[0]


def lasso(alpha: float) -> Any:
    """Captum's sparse linear model, the surrogate of Lime."""
    _captum()
    from captum._utils.models.linear_model import SkLearnLasso

    return SkLearnLasso(alpha=alpha)


# ---------------------------------------------------------------------- the passes


def _rows_per_sample(name: str, options: dict[str, Any]) -> int:
    """How many rows captum makes of a sample at the least."""
    if not name.endswith(("DeepLift", "DeepLiftShap", "Conductance")):
        return 1
    # DeepLift runs a sample beside each baseline; conductance compares neighbouring steps.
    background = options.get("baselines")
    first = background[0] if isinstance(background, tuple) else background
    return 2 * (1 if first is None else len(first))


def _blocks(name: str, n: int, most: int, options: dict[str, Any]) -> list[range]:
    """The samples that captum gets at a time."""
    if name.endswith(WHOLE_BATCH):
        return [range(n)]
    one_by_one = name.endswith(ONE_BY_ONE) or (name.endswith("DeepLiftShap") and "baselines" not in options)
    return even_ranges(n, 1 if one_by_one else max(1, most))


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
        except XaikitError:
            raise
        except (AssertionError, TypeError) as err:
            raise UnsupportedOperationError(f"captum's {name} refuses this model or these arguments: {err}") from err
        except RuntimeError as err:
            if "DeepLift" not in str(err):
                raise
            raise UnsupportedOperationError(
                f"captum's {name} needs every activation to be a module that runs once; this model reuses one"
            ) from err
