"""Explanations of whole data sets: streamed to disk, resumed, shared between processes, read lazily."""

from xaikit.runs.explain import explain_dataset
from xaikit.runs.run import Run, Sample, Shard, load_run
from xaikit.runs.source import UnreadableSampleError

__all__ = ["Run", "Sample", "Shard", "UnreadableSampleError", "explain_dataset", "load_run"]
