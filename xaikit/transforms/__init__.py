"""Values that explainers and metrics share: baselines, feature masks, postprocessing; each registered."""

from xaikit.transforms.baselines import Baseline, BaselinePerInput, Constant, Given, Mean, Uniform, Zeros
from xaikit.transforms.feature_masks import (
    Auto,
    Columns,
    Computed,
    FeatureMask,
    FeatureMaskPerInput,
    GivenGroups,
    Grid,
    TimeWindows,
    Tokens,
)
from xaikit.transforms.normalization import Normalization
from xaikit.transforms.pooling import Pooling
from xaikit.transforms.postprocess import Postprocessor

__all__ = [
    "Auto",
    "Baseline",
    "BaselinePerInput",
    "Columns",
    "Computed",
    "Constant",
    "FeatureMask",
    "FeatureMaskPerInput",
    "Given",
    "GivenGroups",
    "Grid",
    "Mean",
    "Normalization",
    "Pooling",
    "Postprocessor",
    "TimeWindows",
    "Tokens",
    "Uniform",
    "Zeros",
]
