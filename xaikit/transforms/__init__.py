"""Values that explainers and metrics share: baselines, feature masks; each registered, each a setting."""

from xaikit.transforms.baselines import Baseline, Constant, Given, Mean, Uniform, Zeros
from xaikit.transforms.feature_masks import Auto, Columns, FeatureMask, Grid, TimeWindows, Tokens
from xaikit.transforms.pooling import Pooling

__all__ = [
    "Auto",
    "Baseline",
    "Columns",
    "Constant",
    "FeatureMask",
    "Given",
    "Grid",
    "Mean",
    "Pooling",
    "TimeWindows",
    "Tokens",
    "Uniform",
    "Zeros",
]
