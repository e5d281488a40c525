"""The explainers, one file per family. A new one is one file, one decorator, one line here."""

from xaikit.explainers import captum_methods
from xaikit.explainers.beta_smooth import BetaSmooth
from xaikit.explainers.cam import (
    AblationCam,
    EigenCam,
    EigenGradCam,
    ElementwiseCam,
    FinerCam,
    FullGrad,
    GradCam,
    GradCamPlusPlus,
    GuidedGradCam,
    HiResCam,
    LayerCam,
    ScoreCam,
    ShapleyCam,
    SmoothGradCamPlusPlus,
    XGradCam,
)
from xaikit.explainers.captum_explainer import CaptumExplainer
from xaikit.explainers.cd import AgglomerativeDecomposition, ContextualDecomposition, cd_rule
from xaikit.explainers.deep_lift import DeepLift, DeepLiftShap
from xaikit.explainers.discretised_gradients import DiscretisedIntegratedGradients
from xaikit.explainers.expected_gradients import ExpectedGradients
from xaikit.explainers.gradient import Gradient, GradientXInput
from xaikit.explainers.integrated_gradients import IntegratedGradients
from xaikit.explainers.lrp import (
    LRP,
    AttnLRP,
    LRPEpsilonAlpha2Beta1,
    LRPEpsilonGammaBox,
    LRPEpsilonPlus,
    LRPUniformEpsilon,
    lrp_rule,
)
from xaikit.explainers.shapley import ExactShapley, KernelShapley, OwenShapley, PermutationShapley
from xaikit.explainers.smoothgrad import SmoothGrad, VarGrad

__all__ = [
    "ExactShapley",
    "KernelShapley",
    "OwenShapley",
    "PermutationShapley",
    "AblationCam",
    "EigenCam",
    "EigenGradCam",
    "ElementwiseCam",
    "FinerCam",
    "FullGrad",
    "GradCam",
    "GradCamPlusPlus",
    "GuidedGradCam",
    "HiResCam",
    "LayerCam",
    "ScoreCam",
    "ShapleyCam",
    "SmoothGradCamPlusPlus",
    "XGradCam",
    "AgglomerativeDecomposition",
    "BetaSmooth",
    "LRP",
    "AttnLRP",
    "CaptumExplainer",
    "ContextualDecomposition",
    "DiscretisedIntegratedGradients",
    "DeepLift",
    "DeepLiftShap",
    "ExpectedGradients",
    "Gradient",
    "GradientXInput",
    "IntegratedGradients",
    "LRPEpsilonAlpha2Beta1",
    "LRPEpsilonGammaBox",
    "LRPEpsilonPlus",
    "LRPUniformEpsilon",
    "SmoothGrad",
    "VarGrad",
    "captum_methods",
    "cd_rule",
    "lrp_rule",
]
