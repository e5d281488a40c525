"""The metrics, one file per family. A new one is one class, one decorator, one line here."""

from xaikit.metrics.base import Case, Metric
from xaikit.metrics.faithfulness import AbPC, Curves, LeRF, MoRF

__all__ = ["AbPC", "Case", "Curves", "LeRF", "Metric", "MoRF"]
