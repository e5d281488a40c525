"""Values that explainers and metrics share: baselines, feature masks; each registered, each a setting."""

from xaikit.transforms.baselines import Baseline, Constant, Given, Mean, Uniform, Zeros

__all__ = ["Baseline", "Constant", "Given", "Mean", "Uniform", "Zeros"]
