"""What kind of data a model sees: channel axis, baseline, groups and postprocessing in one value."""

from xaikit.modality.base import Modality, OneInput, as_modality
from xaikit.modality.kinds import Image, Multimodal, Tabular, Text, TimeSeries

__all__ = ["Image", "Modality", "Multimodal", "OneInput", "Tabular", "Text", "TimeSeries", "as_modality"]
