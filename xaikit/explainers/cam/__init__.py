"""Class activation maps: where the channels of a hidden layer that contribute to a class are active."""

from __future__ import annotations

from xaikit.explainers.cam.full_grad import FullGrad
from xaikit.explainers.cam.gradients import (
    EigenCam,
    EigenGradCam,
    ElementwiseCam,
    FinerCam,
    GradCam,
    GradCamPlusPlus,
    HiResCam,
    LayerCam,
    XGradCam,
)
from xaikit.explainers.cam.guided import GuidedGradCam
from xaikit.explainers.cam.perturbed import AblationCam, ScoreCam
from xaikit.explainers.cam.shapley import ShapleyCam
from xaikit.explainers.cam.smooth import SmoothGradCamPlusPlus

__all__ = [
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
]
