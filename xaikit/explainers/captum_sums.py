"""Whether captum's DeepLift classes reach the sum that they promise."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from xaikit.core.percentages import percent

# Their rules are hooks on modules: a ReLU that is called as a function, or is inside TorchScript, gets the gradient.
RULES_ON_MODULES = frozenset({"DeepLift", "DeepLiftShap", "LayerDeepLift", "LayerDeepLiftShap"})


def promises_sum(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a captum class, with these arguments, promises a sum that its rules may miss.

    Args:
        name: of the class.
        settings: its arguments by name.
    """
    return name in RULES_ON_MODULES and settings.get("multiply_by_inputs", True) is not False


class MissedSums:
    """How far captum's attributions are from S(x) - S(baseline), which they promise to sum to.

    Args:
        name: of the captum class, for the warning.
    """

    ARGUMENTS: ClassVar[Mapping[str, Any]] = MappingProxyType({"return_convergence_delta": True})
    TOLERANCE: ClassVar[float] = 0.05

    def __init__(self, name: str) -> None:
        self._name = name
        self._missed: list[Tensor] = []
        self._promised: list[Tensor] = []

    def without_delta(self, result: tuple[Any, Tensor]) -> Any:
        """Captum's attributions of some samples, whose missed sums are noted.

        Args:
            result: what captum returned: the attributions, and by how much each sum is too large, (N,) or one for each
                sample and background sample, (N * B,).
        """
        values, delta = result
        tensors = values if isinstance(values, (tuple, list)) else (values,)
        sums = sum(v.detach().double().reshape(len(v), -1).sum(1) for v in tensors)
        missed = delta.detach().double().reshape(len(tensors[0]), -1).mean(1)
        self._missed.append(missed)
        self._promised.append(sums - missed)
        return values

    def warn(self) -> None:
        """Warn where the largest missed sum is more than the tolerance, as a share of the largest promised one."""
        missed, promised = torch.cat(self._missed).abs().max(), torch.cat(self._promised).abs().max()
        share = float(missed / promised.clamp_min(torch.finfo(promised.dtype).tiny))
        if share > self.TOLERANCE:
            warnings.warn(
                f"captum's {self._name} misses the explained score by {percent(share)}, more than the tolerance of "
                f"{percent(self.TOLERANCE, 0)}: it has no rule for operations that are no modules, as torch.relu or "
                "TorchScript, nor an exact one for products, poolings and softmax; use deep_lift or deep_lift_shap, "
                "which follow them",
                stacklevel=2,
            )
