"""DeepLIFT: differences to a baseline, passed back through every operation of a model."""

from xaikit.explainers.deep_lift.explainer import DeepLift, DeepLiftShap

__all__ = ["DeepLift", "DeepLiftShap"]
