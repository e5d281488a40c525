"""Explanations of whole data sets: streamed to disk, resumed, shared between processes, read lazily."""

from xaikit.runs.explain import explain_dataset
from xaikit.runs.run import ExplainedSample, Run, Shard, load_run
from xaikit.runs.source import UnreadableSampleError
from xaikit.runs.summary import Summary

__all__ = ["Run", "ExplainedSample", "Shard", "Summary", "UnreadableSampleError", "explain_dataset", "load_run"]
