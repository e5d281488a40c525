"""Captum's classes under registered names. Their settings are declared here, so captum is not imported before use."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from xaikit.core import BASELINES, EXPLAINERS, FEATURE_MASKS, Call, Categorical, Choice, Float, Int
from xaikit.core.attribution import Explained
from xaikit.core.structure import Tensors
from xaikit.explainers.captum_bridge import CaptumMethod
from xaikit.explainers.captum_classes import lasso
from xaikit.explainers.feature_groups import make_groups, windows


class LimeEstimate(NamedTuple):
    """Lime's coefficients, in the structure of the inputs, and the weighted R² of each sample's fit, (N,)."""

    values: Any
    fidelity: Tensor


SAMPLES = Int(low=10, high=100, step=10, ge=1)
# Modules that DeepLift has a rule for; if a function stands in for one, captum passes the plain gradient.
ACTIVATIONS = (
    *(nn.ReLU, nn.ELU, nn.LeakyReLU, nn.Sigmoid, nn.Tanh, nn.Softplus, nn.Softmax),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
)


class FromBaseline(CaptumMethod):
    """A method that compares the input with a baseline."""

    baseline: Annotated[
        Any, Choice(BASELINES), "where a feature is absent: a name, a number, a tensor or a Baseline"
    ] = "zeros"

    def _options(self, call: Call) -> dict[str, Any]:
        return {n: v for n, v in super()._options(call).items() if n != "baseline"}


class FromGroups(FromBaseline):
    """A method that switches groups of features."""

    feature_mask: Annotated[
        Any, Choice(FEATURE_MASKS, optional=True), "groups that are switched together; None divides the input evenly"
    ] = None
    n_segments: Annotated[int, Int(ge=1), "most groups where no feature mask is given"] = 64

    def _options(self, call: Call) -> dict[str, Any]:
        return {n: v for n, v in super()._options(call).items() if n not in ("feature_mask", "n_segments")}

    def _groups(self, call: Call) -> Tensors:
        return make_groups(self.feature_mask, call.inputs, self.n_segments, call.tokens)


class Complete(FromBaseline):
    """A method whose attributions sum to S(x) - S(baseline)."""

    GAP_TOLERANCE: ClassVar[float | None] = 0.05

    def _promised_total(self, call: Call) -> Tensor | None:
        baselines = self._baselines(call)
        if getattr(self, "baselines", None) is not None or baselines is None:
            return None
        return call.scores(call.inputs) - call.scores(baselines)


@EXPLAINERS.register("captum.saliency")
class Saliency(CaptumMethod):
    """|dS/dx| (Simonyan et al. 2014, arXiv:1312.6034)."""

    ALGORITHM = "Saliency"
    abs: Annotated[bool, Categorical(True, False, search=False), "without the sign"] = True


@EXPLAINERS.register("captum.input_x_gradient")
class InputXGradient(CaptumMethod):
    """x * dS/dx (Shrikumar et al. 2016, arXiv:1605.01713)."""

    ALGORITHM = "InputXGradient"


@EXPLAINERS.register("captum.integrated_gradients")
class CaptumIntegratedGradients(Complete):
    """Gradients along the line from the baseline (Sundararajan et al. 2017, arXiv:1703.01365)."""

    ALGORITHM = "IntegratedGradients"
    PASSES = ("n_steps",)
    n_steps: Annotated[int, SAMPLES, "points on the line"] = 50
    method: Annotated[
        str,
        Categorical(
            "gausslegendre",
            "riemann_trapezoid",
            "riemann_middle",
            "riemann_left",
            "riemann_right",
            search=False,
        ),
        "quadrature rule",
    ] = "gausslegendre"


@EXPLAINERS.register("captum.gradient_shap")
class GradientShap(FromBaseline):
    """Gradients at random points between noisy inputs and random baselines (Lundberg and Lee 2017)."""

    ALGORITHM = "GradientShap"
    PASSES = ("n_samples",)
    n_samples: Annotated[int, SAMPLES, "random points"] = 20
    stdevs: Annotated[float, Float(low=0.0, high=1.0, ge=0), "standard deviation of the noise"] = 0.0
    baselines: Annotated[Tensor | tuple[Tensor, ...] | None, "background samples (B, ...); None: the one baseline"] = (
        None
    )


@EXPLAINERS.register("captum.deep_lift")
class CaptumDeepLift(Complete):
    """Differences to the baseline, passed back by the rescale rule (Shrikumar et al. 2017, arXiv:1704.02685)."""

    ALGORITHM = "DeepLift"
    GAP_TOLERANCE = None  # the bridge warns itself, in `attribute` too
    PASSES = (2,)
    SUPPORTED_MODULES = ACTIVATIONS
    REUSED_MODULES = False
    eps: Annotated[
        float, Float(low=1e-10, high=0.1, log=True, gt=0), "below this difference the gradient takes the rule's place"
    ] = 1e-10


@EXPLAINERS.register("captum.deep_lift_shap")
class CaptumDeepLiftShap(Complete):
    """Mean of DeepLift over background samples (Lundberg and Lee 2017, arXiv:1705.07874)."""

    ALGORITHM = "DeepLiftShap"
    GAP_TOLERANCE = None  # the bridge warns itself, in `attribute` too
    PASSES = (2,)
    SUPPORTED_MODULES = ACTIVATIONS
    REUSED_MODULES = False
    baselines: Annotated[Tensor | tuple[Tensor, ...] | None, "background samples (B, ...); None: the one baseline"] = (
        None
    )


@EXPLAINERS.register("captum.guided_backprop")
class GuidedBackprop(CaptumMethod):
    """Gradient through ReLU modules where both signal and gradient are positive (Springenberg et al. 2015)."""

    ALGORITHM = "GuidedBackprop"
    SUPPORTED_MODULES = (nn.ReLU,)


@EXPLAINERS.register("captum.deconvolution")
class Deconvolution(CaptumMethod):
    """Gradient through ReLU modules where the gradient is positive (Zeiler and Fergus 2014, arXiv:1311.2901)."""

    ALGORITHM = "Deconvolution"
    SUPPORTED_MODULES = (nn.ReLU,)


@EXPLAINERS.register("captum.noise_tunnel")
class NoiseTunnel(CaptumMethod):
    """Another captum method on noisy copies of the input (Smilkov et al. 2017, arXiv:1706.03825)."""

    ALGORITHM = "NoiseTunnel"
    IS_GENERIC = True
    PASSES = ("nt_samples",)
    attribution_method: Annotated[str, "captum class that explains the noisy copies"] = "Saliency"
    attribution_settings: Annotated[Mapping[str, Any] | None, "that class's own arguments by name"] = None
    nt_type: Annotated[
        str, Categorical("smoothgrad", "smoothgrad_sq", "vargrad"), "mean, mean square or variance over the copies"
    ] = "smoothgrad"
    nt_samples: Annotated[int, Int(low=5, high=50, step=5, ge=1), "noisy copies"] = 10
    stdevs: Annotated[float, Float(low=0.05, high=1.0, ge=0), "standard deviation of the noise"] = 0.2


@EXPLAINERS.register("captum.feature_ablation")
class FeatureAblation(FromGroups):
    """The drop of the score when a group of features is replaced by the baseline."""

    ALGORITHM = "FeatureAblation"
    PASSES = ("n_segments",)


@EXPLAINERS.register("captum.occlusion")
class Occlusion(FromBaseline):
    """The drop of the score under a sliding window (Zeiler and Fergus 2014, arXiv:1311.2901)."""

    ALGORITHM = "Occlusion"
    PASSES = (100,)  # windows whose side is a fifth of each axis, with a stride of half a window
    window: Annotated[float, Float(low=0.1, high=0.5, gt=0, le=1), "side of the window as a fraction of each axis"] = (
        0.2
    )
    stride: Annotated[float, Float(low=0.25, high=1, gt=0, le=1), "step as a fraction of the window"] = 0.5

    def _options(self, call: Call) -> dict[str, Any]:
        shapes, strides = windows(call.inputs, self.window, self.stride, call.tokens)
        return {"sliding_window_shapes": tuple(shapes), "strides": tuple(strides)}


@EXPLAINERS.register("captum.shapley_value_sampling")
class ShapleyValueSampling(FromGroups):
    """Mean contribution of a group of features in random orders (Strumbelj and Kononenko 2010)."""

    ALGORITHM = "ShapleyValueSampling"
    PASSES = ("n_samples", "n_segments")
    n_samples: Annotated[
        int, Int(low=5, high=50, step=5, ge=1), "random orders; the error falls with the square root of their number"
    ] = 10


@EXPLAINERS.register("captum.kernel_shap")
class KernelShap(FromGroups):
    """Shapley values by a weighted linear fit to random coalitions (Lundberg and Lee 2017, arXiv:1705.07874)."""

    ALGORITHM = "KernelShap"
    PASSES = ("n_samples",)
    n_samples: Annotated[int, Int(low=100, high=500, step=50, ge=1), "random coalitions"] = 200


@EXPLAINERS.register("captum.lime")
class Lime(FromGroups):
    """Coefficients of a sparse linear fit around the input (Ribeiro et al. 2016, arXiv:1602.04938).

    `estimate` also gives the fidelity of the fit, its weighted R²: the share of the scores' variance around the sample
    that the linear model explains. `explain` warns where it is below 0.5.
    """

    ALGORITHM = "Lime"
    PASSES = ("n_samples",)
    LOW_FIDELITY: ClassVar[float] = 0.5
    n_samples: Annotated[int, Int(low=100, high=500, step=50, ge=1), "random neighbours"] = 200
    alpha: Annotated[float, Float(low=1e-5, high=0.1, log=True, gt=0), "weight of the fit's L1 penalty"] = 1e-4

    def estimate(self, inputs: Any, targets: Any = None, *, seed: int = 0) -> LimeEstimate:
        """The coefficients with the fidelity of each sample's fit, at the cost of the coefficients alone.

        Args:
            inputs: as for `attribute`.
            targets: as for `attribute`.
            seed: as for `attribute`.

        Raises:
            InvalidInputError, InvalidTypeError, UnboundError: as for `attribute`.
        """
        fidelities: list[float] = []

        def method(call: Call) -> tuple[Tensors, ...]:
            return (self._noting(fidelities)._attribute(call),)

        (values,) = self.run_call(method, inputs, targets, seed=seed)
        return LimeEstimate(values, torch.tensor(fidelities, device="cpu"))

    def _explained(self, call: Call) -> Explained:
        fidelities: list[float] = []
        explained = FromGroups._explained(self._noting(fidelities), call)
        low = [k for k, fidelity in enumerate(fidelities) if fidelity < self.LOW_FIDELITY]
        if low:
            worst = min(low, key=fidelities.__getitem__)
            warnings.warn(
                f"the linear model of Lime explains less than {100 * self.LOW_FIDELITY:g} % of the scores' variance "
                f"for {len(low)} of {len(fidelities)} samples (sample {worst}: R² = {fidelities[worst]:.2f}), so its "
                "coefficients say little; make fewer groups with n_segments= or feature_mask=, lower alpha=, or take "
                "kernel_shapley",
                stacklevel=2,
            )
        return explained

    def _noting(self, fidelities: list[float]) -> Lime:
        """The same explainer, whose fits note their fidelity."""
        noting = self.set_kwargs()
        object.__setattr__(noting, "_fidelities", fidelities)
        return noting

    def _options(self, call: Call) -> dict[str, Any]:  # noqa: ARG002
        return {
            "n_samples": self.n_samples,
            "interpretable_model": lasso(self.alpha, vars(self).get("_fidelities")),
        }


def __getattr__(name: str) -> Any:
    """The classes by the names that they had when older pickles were written."""
    if name in ("DeepLift", "DeepLiftShap"):
        return globals()[f"Captum{name}"]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
