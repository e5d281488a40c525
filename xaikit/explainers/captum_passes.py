"""The passes that captum makes: how many rows at a time, with which random numbers, and how errors are reported."""

from __future__ import annotations

import contextlib
import math
import traceback
import warnings
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xaikit.core import Call, forward, torch_private
from xaikit.core import layers as model_layers
from xaikit.core import targets as target_rules
from xaikit.core.errors import InvalidInputError, UnsupportedOperationError, XaikitError
from xaikit.core.replica import original_of
from xaikit.core.rows import even_ranges
from xaikit.core.structure import Tensors, map_tensors, split_rows

# Captum draws the noise of these for a whole batch. They get one sample at a time, so that a sample's noise does not
# depend on its batch.
ONE_BY_ONE = ("GradientShap", "KernelShap", "Lime", "LimeBase", "NoiseTunnel")
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


def blocks(name: str, n: int, most: int, options: dict[str, Any]) -> list[range]:
    """The samples that captum gets at a time."""
    if name.endswith(WHOLE_BATCH):
        return [range(n)]
    one_by_one = name.endswith(ONE_BY_ONE) or (name.endswith("DeepLiftShap") and "baselines" not in options)
    return even_ranges(n, 1 if one_by_one else max(1, most))


def normalizes_over_rows(name: str, model: nn.Module) -> bool:
    """Whether captum's method mixes the samples of a batch: DeepLift's rule for softmax subtracts one mean for all."""
    deep_lift = name.endswith(("DeepLift", "DeepLiftShap"))
    return deep_lift and any(isinstance(module, nn.Softmax) for module in model.modules())


@contextlib.contextmanager
def randomness(call: Call) -> Iterator[None]:
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
def as_found(model: nn.Module) -> Iterator[None]:
    """Afterwards remove the attributes that captum leaves on modules which its backward pass does not reach."""
    before = [(module, set(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, names in before:
            for name in set(vars(module)) - names:
                delattr(module, name)


@contextlib.contextmanager
def clear(name: str) -> Iterator[None]:
    """While active, captum's warnings about its hooks are hidden, and its errors become one sentence."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"Setting (forward, )?backward hooks", category=UserWarning)
        try:
            yield
        except XaikitError:
            raise
        except Exception as err:
            if _of_the_model(err):
                raise
            raise UnsupportedOperationError(f"captum's {name} {_failure(name, err)}") from err


def _of_the_model(error: Exception) -> bool:
    """Whether the error arose in the model's own forward pass, and not in a hook of captum's inside it."""
    files = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    return FORWARD_FILE in files and "/captum/" not in files[-1].replace("\\", "/")


def _failure(name: str, error: Exception) -> str:
    text = str(error).strip()
    if "DeepLift" in text and isinstance(error, RuntimeError):
        return "needs every activation to be a module that runs once; this model reuses one"
    if "not have been used in the graph" in text:
        return (
            "differentiates a neuron by every input, and the chosen one does not depend on all of them; pick the "
            "inputs that it depends on with forward_arg_extractor"
        )
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


def tensor_layer(call: Call, layer: Any) -> Any:
    """The layer for captum to hook; if it returns several tensors, a module in its place that returns the first.

    The module is fed by a hook on the private copy of the model; a model that runs itself keeps its layer.
    """
    _, module = model_layers.find_layer(call.model, layer)
    kinds: list[type] = []
    with model_layers.hooked([(module, lambda output: kinds.append(type(output)))]), torch.no_grad():
        call.run(call.inputs)
    if kinds and kinds[0] is Tensor or original_of(call.model) is call.model:
        return layer
    first = nn.Identity()
    module.register_forward_hook(
        lambda _module, _inputs, output: model_layers.with_first(output, first(model_layers.first_tensor(output)))
    )
    return first


def check_exact(name: str, groups: Tensors) -> None:
    """Refuse exact Shapley values of so many groups that running all their orders would take years."""
    count = len(torch.cat([ids.flatten() for ids in groups]).unique()) if groups else 0
    if name == "ShapleyValues" and count > MOST_EXACT_GROUPS:
        raise InvalidInputError(
            f"captum's ShapleyValues runs every order of the groups, which takes {count}! passes for {count} groups; "
            f"use ShapleyValueSampling, or a feature_mask of at most {MOST_EXACT_GROUPS} groups"
        )


def last_convolution(call: Call) -> nn.Module:
    """The convolution that runs last and returns a map of several positions."""
    ran: list[nn.Module] = []
    convolutions = [m for m in call.modules if isinstance(m, torch_private.Convolution)]

    def note(module: nn.Module) -> Callable[[Any], None]:
        return lambda output: ran.append(module) if math.prod(output.shape[2:]) > 1 else None

    with model_layers.hooked([(m, note(m)) for m in convolutions]), torch.no_grad():
        call.run(call.inputs)
    if not ran:
        raise InvalidInputError(
            "captum's GuidedGradCam makes a map of a convolution, and this model ran none; pass layer="
        )
    return ran[-1]
