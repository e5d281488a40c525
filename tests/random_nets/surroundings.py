"""All that a call must leave as it was: the net, its inputs, and the state of the process."""

from __future__ import annotations

import random
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.random_nets.nets import Case
from xaikit.testing.case import state_of


def surroundings(case: Case) -> dict[str, Any]:
    """Plain values under the names of what they belong to; two of them are equal when nothing has changed in between.

    Args:
        case: the net and its inputs.
    """
    modules = list(case.net.named_modules())
    return {
        "the model": repr(state_of(case.net)),
        "attributes": [
            (name, key, id(value) if not isinstance(value, int | float | str | bool) else value)
            for name, module in modules
            for key, value in vars(module).items()
        ],
        "tensors and hooks": [(name, key, _inside(value)) for name, m in modules for key, value in vars(m).items()],
        "gradients": [p.grad is None for p in case.net.parameters()],
        "inputs": [(a.tolist(), a.requires_grad, a.grad is None) for a in case.arguments],
        "torch's random state": torch.get_rng_state().numpy().tobytes(),
        "numpy's random state": [n.tobytes() if isinstance(n, np.ndarray) else n for n in np.random.get_state()],
        "Python's random state": random.getstate(),
        "torch's settings": _settings(),
        "warning filters": list(warnings.filters),
    }


def _inside(value: Any) -> Any:
    """The identities of what a dict or a list of a module holds."""
    if isinstance(value, dict):
        return [(key, id(item)) for key, item in value.items()]
    return [id(item) for item in value] if isinstance(value, list) else None


def _settings() -> tuple[Any, ...]:
    """Switches that hold for the whole process or thread, and hooks on every module."""
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.get_default_dtype(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.backends.cuda.math_sdp_enabled(),
        torch.backends.cuda.flash_sdp_enabled(),
        torch.overrides._len_torch_function_stack() if hasattr(torch.overrides, "_len_torch_function_stack") else 0,
        [len(hooks) for name, hooks in sorted(vars(nn.modules.module).items()) if name.startswith("_global_")
         and hasattr(hooks, "__len__")],
    )  # fmt: skip
