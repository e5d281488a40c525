"""The explainers, one file per family. A new one is one file, one decorator, one line here."""

from xaikit.explainers.cd.explainer import ContextualDecomposition
from xaikit.explainers.gradient import Gradient, GradientXInput
from xaikit.explainers.integrated_gradients import IntegratedGradients
from xaikit.explainers.smoothgrad import SmoothGrad, VarGrad

__all__ = ["ContextualDecomposition", "Gradient", "GradientXInput", "IntegratedGradients", "SmoothGrad", "VarGrad"]
