"""Runs over the small model and its data, and what they hold."""

from __future__ import annotations

import torch

from xaikit import explain_dataset

N = 23  # samples


def explain(explainer, data, out, **options):
    return explain_dataset(explainer, data, out=out, progress=False, **{"shard_size": 5, "batch_size": 2, **options})


def stacked(run):
    return torch.stack([sample.values for sample in run])
