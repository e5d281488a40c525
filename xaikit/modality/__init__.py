"""Modalities: the kind of a model's input, with its channel axis, baseline, groups and postprocessing."""

from xaikit.modality.base import Modality, OneInput, as_modality
from xaikit.modality.kinds import Image, Multimodal, Tabular, Text, TimeSeries

__all__ = ["Image", "Modality", "Multimodal", "OneInput", "Tabular", "Text", "TimeSeries", "as_modality"]
