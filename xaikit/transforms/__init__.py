"""Values that explainers and metrics share: baselines, feature masks, postprocessing; each registered."""

from xaikit.transforms.baselines import Baseline, BaselinePerInput, Constant, Given, Invert, Mean, Uniform, Zeros
from xaikit.transforms.blur import Blur
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
from xaikit.transforms.sample import Sample
from xaikit.transforms.segmentation import Felzenszwalb, Quickshift, Segmentation, Slic, Watershed
from xaikit.transforms.token_id import TokenId

__all__ = [
    "Auto",
    "Baseline",
    "BaselinePerInput",
    "Blur",
    "Columns",
    "Computed",
    "Constant",
    "FeatureMask",
    "FeatureMaskPerInput",
    "Felzenszwalb",
    "Given",
    "GivenGroups",
    "Grid",
    "Invert",
    "Mean",
    "Normalization",
    "Pooling",
    "Postprocessor",
    "Quickshift",
    "Sample",
    "Segmentation",
    "Slic",
    "TimeWindows",
    "TokenId",
    "Tokens",
    "Uniform",
    "Watershed",
    "Zeros",
]
