"""Values that explainers and metrics share: baselines, feature masks; each registered, each a setting."""

from xaikit.transforms.baselines import Baseline, Constant, Given, Mean, Uniform, Zeros
from xaikit.transforms.feature_masks import Auto, Columns, FeatureMask, Grid, TimeWindows, Tokens

__all__ = [
    "Auto",
    "Baseline",
    "Columns",
    "Constant",
    "FeatureMask",
    "Given",
    "Grid",
    "Mean",
    "TimeWindows",
    "Tokens",
    "Uniform",
    "Zeros",
]
