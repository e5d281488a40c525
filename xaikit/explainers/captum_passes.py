"""The passes that captum makes: how many rows at a time, with which random numbers, and how errors are reported."""

from __future__ import annotations

import contextlib
import math
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xaikit.core import Call, forward, model_state, torch_private
from xaikit.core import layers as model_layers
from xaikit.core import targets as target_rules
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnsupportedOperationError, XaikitError
from xaikit.core.graphs import depends_on
from xaikit.core.layers import LayerPoint
from xaikit.core.process_wide import warnings_ignored
from xaikit.core.registered_hooks import RegisteredHooks
from xaikit.core.rows import even_ranges
from xaikit.core.structure import Tensors, map_tensors, split_rows
from xaikit.explainers.cam.layers import map_layers

DRAWING = ("NoiseTunnel", "Shap", "Lime", "LimeBase", "ShapleyValueSampling", "FeaturePermutation")  # classes that draw
DRAWS = frozenset(  # by these captum draws from torch's global generator
    {torch.bernoulli, torch.multinomial, torch.normal, torch.rand, torch.randint, torch.randn, torch.randperm}
)
# Captum draws the noise of these for a whole batch. They get one sample at a time, so that a sample's noise does not
# depend on its batch.
ONE_BY_ONE = ("GradientShap", "KernelShap", "Lime", "LimeBase")
# Captum draws the orders of features of these for a whole batch; they get one sample at a time if the groups differ.
ONE_BY_ONE_WITH_OWN_GROUPS = ("ShapleyValueSampling", "ShapleyValues")
# These switch groups and need no gradient, so they take whole numbers.
WITHOUT_GRADIENT = frozenset(
    {"FeatureAblation", "FeaturePermutation", "KernelShap", "Lime", "LimeBase", "Occlusion", "ShapleyValues"}
    | {"ShapleyValueSampling", "LayerActivation", "LayerFeatureAblation", "LayerFeaturePermutation"}
    | {"NeuronFeatureAblation"}
)
# These give a group one value, which captum writes to each element of the group.
ONE_VALUE_FOR_A_GROUP = frozenset(
    {
        "FeatureAblation",
        "FeaturePermutation",
        "KernelShap",
        "Lime",
        "Occlusion",
        "ShapleyValues",
        "ShapleyValueSampling",
    }
)
# These evaluate the model on lines between inputs, or on noisy inputs.
BETWEEN_INPUTS = frozenset({"InternalInfluence", "LayerConductance", "LayerGradientShap", "LayerDeepLiftShap"}) | {
    "NoiseTunnel"
}
# Explainers that start the model at a layer, in place of captum's classes for layers.
BY_CUT = MappingProxyType(
    {
        "InternalInfluence": "IntegratedGradients",
        "LayerConductance": "IntegratedGradients",
        "LayerDeepLift": "DeepLift",
        "LayerDeepLiftShap": "DeepLiftShap",
        "LayerFeatureAblation": "FeatureAblation",
        "LayerFeaturePermutation": "FeaturePermutation",
        "LayerGradientShap": "GradientShap",
        "LayerGradientXActivation": "InputXGradient",
        "LayerIntegratedGradients": "IntegratedGradients",
    }
)
FITTED = ("KernelShap", "Lime")  # a linear model to random coalitions of groups
FORWARD_FILE = str(forward.__file__)  # an error that passes through it is the model's own
MOST_EXACT_GROUPS = 7  # 5,040 orders
# These switch groups in one input after the other, also groups that several inputs share.
ONE_INPUT_AT_A_TIME = frozenset({"FeatureAblation", "FeaturePermutation"})
# Captum's own LRP covers few kinds of layers and does not conserve relevance between them.
REPLACED_BY = MappingProxyType(
    {
        "LRP": "an LRP explainer of xaikit, such as lrp_epsilon_plus or attn_lrp",
        "LayerLRP": "an LRP explainer of xaikit with layer=, such as lrp_epsilon_plus:layer=NAME",
    }
)
# These replace a feature by that of other samples, so the batch must stay whole.
WHOLE_BATCH = ("FeaturePermutation",)


def leaf(x: Tensor) -> Tensor:
    """The values of a tensor as a leaf of a new graph; whole numbers require no gradient."""
    return x.detach().requires_grad_() if x.is_floating_point() else x.detach()


def like(values: Tensor, x: Tensor) -> Tensor:
    """Values on the input's device and in its precision; for an input of whole numbers they stay floating-point."""
    return values.to(x) if x.is_floating_point() else values.to(x.device)


def rows_per_sample(name: str, options: dict[str, Any]) -> int:
    """The smallest number of rows that captum makes of a sample."""
    if not name.endswith(("DeepLift", "DeepLiftShap", "Conductance")):
        return 1
    # DeepLift runs a sample beside each baseline; conductance compares neighbouring steps.
    background = options.get("baselines")
    first = background[0] if isinstance(background, tuple) else background
    return 2 * (1 if first is None else len(first))


def blocks(name: str, innermost: str, n: int, most: int, options: dict[str, Any]) -> list[range]:
    """The samples that captum gets at a time."""
    if innermost.endswith(WHOLE_BATCH):
        if n == 1:
            raise InvalidInputError(
                f"captum's {name} takes a feature from another sample of the batch, so it needs at least two, got one; "
                "use FeatureAblation, which takes a baseline"
            )
        return [range(n)]
    one_by_one = (
        name == "NoiseTunnel"
        or innermost.endswith(ONE_BY_ONE)
        or (innermost.endswith("DeepLiftShap") and "baselines" not in options)
    )
    return even_ranges(n, 1 if one_by_one else max(1, most))


def normalizes_over_rows(name: str, model: nn.Module) -> bool:
    """Whether captum's method mixes the samples of a batch: DeepLift's rule for softmax subtracts one mean for all."""
    deep_lift = name.endswith(("DeepLift", "DeepLiftShap"))
    return deep_lift and any(isinstance(module, nn.Softmax) for module in model.modules())


class _Generators(TorchFunctionMode):
    """Lets captum draw from generators of its own, so that another thread's draws do not come between."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed
        self._by_device: dict[torch.device, torch.Generator] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        kwargs = kwargs or {}
        if func in DRAWS and kwargs.get("generator") is None:
            tensors = (a.device for a in (*args, *kwargs.values()) if isinstance(a, Tensor))
            device = next(tensors, torch.device(kwargs.get("device") or "cpu"))
            kwargs = {**kwargs, "generator": self._generator(device)}
        return func(*args, **kwargs)

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._by_device:
            self._by_device[device] = torch.Generator(device).manual_seed(self._seed)
        return self._by_device[device]


@contextlib.contextmanager
def randomness(call: Call, name: str, innermost: str) -> Iterator[None]:
    """The same random numbers for every block; captum draws from numpy's global state too, which is put back.

    Args:
        call: with the seed.
        name: of captum's class.
        innermost: the class inside a NoiseTunnel, else the same.
    """
    state = np.random.get_state()
    model_state.reseed(call.inputs[0].device, call.seed)  # for a model that draws
    np.random.seed(call.seed % 2**32)
    try:
        # Captum's LRP does not work under a mode of torch functions, and draws nothing itself.
        draws = name.endswith(DRAWING) and not innermost.endswith("LRP")
        with _Generators(call.seed) if draws else contextlib.nullcontext():
            yield
    finally:
        np.random.set_state(state)


@contextlib.contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Afterwards remove the attributes that captum leaves on modules which its backward pass does not reach.

    With them go those by which the model notes that it has hooks, and these hooks.
    """
    before = [(module, set(vars(module))) for module in model.modules()]
    hooks = RegisteredHooks(model.modules())
    try:
        yield
    finally:
        hooks.remove_later()
        for module, names in before:
            for name in set(vars(module)) - names:
                delattr(module, name)


@contextlib.contextmanager
def clear(name: str, *, independent: bool) -> Iterator[None]:
    """While active, captum's warnings about its hooks are hidden, and its errors become one sentence.

    Args:
        name: of captum's class.
        independent: whether the model's rows are, so that it runs once in a pass.
    """
    with warnings_ignored(r"Setting (forward, )?backward hooks", UserWarning):
        try:
            yield
        except XaikitError:
            raise
        except Exception as err:
            if _of_the_model(err):
                raise
            raise UnsupportedOperationError(f"captum's {name} {_failure(name, err, independent)}") from err


def _of_the_model(error: Exception) -> bool:
    """Whether the error arose in the model's own forward pass, and not in a hook of captum's inside it."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    callers = (name.replace("\\", "/") for name in reversed(files))
    # Torch raises what captum asked it to do, by way of the mode that replaces ReLUs.
    raising = next((n for n in callers if "/torch/" not in n and not n.endswith("/functional_relu.py")), "")
    return FORWARD_FILE in files and "/captum/" not in raising


def _failure(name: str, error: Exception, independent: bool) -> str:
    text = str(error).strip()
    if "DeepLift" in text and isinstance(error, RuntimeError) and not independent:
        return (
            "compares a sample with its baseline in one pass, and in this model the rows of a pass are not "
            "independent; integrated_gradients compares them too, and takes such models"
        )
    if "DeepLift" in text and isinstance(error, RuntimeError):
        return "needs every activation to be a module that runs once; this model reuses one"
    if "not have been used in the graph" in text:
        return (
            "differentiates a neuron by every input, and the chosen one does not depend on all of them; pick the "
            "inputs that it depends on with forward_arg_extractor"
        )
    if "does not require grad" in text:
        return "needs a gradient, and the explained score does not depend on its input through autograd"
    if "floating point dtype can require gradients" in text:
        return "cannot explain whole numbers; explain the embedding that they meet with a class for inputs and layer="
    instead = f"; use {REPLACED_BY[name]}" if name in REPLACED_BY else ""
    return f"refuses this model or these arguments: {text.splitlines()[0] if text else type(error).__name__}{instead}"


def score_by_function(output: Any, call: Call, samples: Tensor) -> Tensor:
    """The scores of rows in any order by a target function, which may hold a value for each sample.

    The function gets whole batches. Each row goes to its sample's place in the first batch where that is free; an empty
    place repeats a row.
    """
    earlier = (samples[:, None] == samples[None]).tril(-1).sum(1)
    place = earlier * call.n + samples
    total = (int(earlier.max()) + 1) * call.n

    def filled(rows: Tensor) -> Tensor:
        if not rows.ndim or len(rows) != len(samples):
            return rows
        return rows[:1].detach().expand(total, *rows.shape[1:]).clone().index_copy(0, place, rows)

    batches = split_rows(map_tensors(output, filled), call.n)
    return torch.cat([target_rules.score(part, call.target, n=call.n) for part in batches])[place]


@contextlib.contextmanager
def layer_modules(name: str, points: Sequence[LayerPoint]) -> Iterator[list[nn.Module]]:
    """While active, modules for captum to hook: each returns what passes at a point, or the first tensor of it.

    What follows gets a copy, since it may work in place, which captum's classes for layers do not take.
    """
    if any(_rules_of_layer(name, point) for point in points):
        yield [point.module for point in points]
        return
    stand_ins = [nn.Identity() for _ in points]

    def through(identity: nn.Module) -> Callable[[Any], Any]:
        def pass_on(value: Any) -> Any:
            first = identity(model_layers.first_tensor(value))
            return model_layers.with_first(value, first.clone() if isinstance(first, Tensor) else first)

        return pass_on

    with model_layers.hooked([(p, through(identity)) for p, identity in zip(points, stand_ins, strict=True)]):
        yield list(stand_ins)


def _rules_of_layer(name: str, point: LayerPoint) -> bool:
    """Whether captum must get the layer itself, since its rule for that module counts."""
    activation = not point.is_input and next(point.module.parameters(), None) is None
    return name == "LayerLRP" or (name.startswith("NeuronDeepLift") and activation)


def check_one_run(name: str, call: Call) -> None:
    """Refuse a layer that runs several times in a pass, of which captum would see one run.

    Raises:
        InvalidInputError: naming the layer, and a class that explains every run.
    """
    for point, count in zip(call.layers, call.runs, strict=False):
        if count > 1:
            instead = f"captum's {BY_CUT[name]}" if name in BY_CUT else "gradient_x_input"
            raise InvalidInputError(
                f"layer {point.name!r} runs {count} times in a forward pass, and captum's {name} sees one run of a "
                f"layer; {instead} with layer={point.name!r} explains each run"
            )


def check_whole_numbers(name: str, innermost: str, inputs: Tensors) -> None:
    """Refuse whole numbers for classes that evaluate the model between two inputs, or near one.

    Raises:
        InvalidTypeError: naming a class that does so at the embedding.
    """
    between = name if name == "NoiseTunnel" else innermost
    if between not in BETWEEN_INPUTS or all(x.is_floating_point() for x in inputs):
        return
    instead = BY_CUT.get(innermost, innermost)
    raise InvalidTypeError(
        f"captum's {between} evaluates the model between two inputs or near one, and whole numbers such as token ids "
        f"have nothing between them; use captum's {instead} with layer= the embedding that they meet"
    )


def check_groups(name: str, groups: Tensors, n_samples: int | None) -> None:
    """Refuse numbers of groups that a method cannot take, and warn of too few samples for them.

    Args:
        name: of captum's class.
        groups: the group numbers of each input, (1, ...) or (N, ...).
        n_samples: how many coalitions it draws; None for a class that draws none.

    Raises:
        InvalidInputError: for exact Shapley values of so many groups that running all their orders would take years,
            and for KernelShap of a single group.
    """
    if not groups:
        return
    rows = max(len(ids) for ids in groups)
    joined = torch.cat([ids.reshape(len(ids), -1).expand(rows, -1) for ids in groups], 1)
    count = max(len(row.unique()) for row in joined)
    if name == "ShapleyValues" and count > MOST_EXACT_GROUPS:
        raise InvalidInputError(
            f"captum's ShapleyValues runs every order of the groups, which takes {count}! passes for {count} groups; "
            f"use ShapleyValueSampling, or a feature_mask of at most {MOST_EXACT_GROUPS} groups"
        )
    if name == "KernelShap" and count == 1:
        raise InvalidInputError(
            "captum's KernelShap needs at least two groups of features, got one; the value of a single group is what "
            "captum.feature_ablation gives"
        )
    needed = count + count // 2 + 2  # random coalitions repeat each other, so that as many as groups are too few
    if name in FITTED and n_samples is not None and n_samples < needed:
        warnings.warn(
            f"captum's {name} fits a value for each of {count} groups to n_samples={n_samples} random coalitions; it "
            f"takes about {needed} to determine them, so these values are arbitrary: raise n_samples, or pass a "
            "feature_mask of fewer groups",
            stacklevel=2,
        )


def last_convolution(call: Call) -> nn.Module:
    """The convolution that runs last, returns a map of several positions, and leads to the output."""
    ran: list[tuple[nn.Module, Tensor]] = []
    convolutions = [p.module for p in map_layers(call.model, (torch_private.Convolution,))]

    def note(module: nn.Module) -> Callable[[Any], Any]:
        def keep(output: Tensor) -> Tensor:
            if math.prod(output.shape[2:]) > 1:
                ran.append((module, output))
            return output.clone()  # what follows may work in place

        return keep

    with model_layers.hooked([(m, note(m)) for m in convolutions]), torch.enable_grad():
        result = call.run(tuple(map(leaf, call.inputs)))
    ran = [(m, output) for m, output in ran if not isinstance(result, Tensor) or depends_on(result, [output])]
    if not ran:
        raise InvalidInputError(
            "captum's GuidedGradCam makes a map of a convolution, and this model ran none; pass layer="
        )
    return ran[-1][0]
