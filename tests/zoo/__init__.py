"""Architectures with random weights on which LRP, contextual decomposition and the benchmarks are tried.

``get(name)`` builds one of them. They come from torchvision, from Hugging Face transformers, and from this folder
(recurrent, convolutional, tabular and odd ones). Importing this package needs torchvision and transformers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo import custom, hugging_face, small, vision
from tests.zoo.entry import Entry
from tests.zoo.weights import calibrate, disturb_statistics, randomise, zero_bias

__all__ = ["SMALL", "ZOO", "Entry", "get", "randomise", "zero_bias"]

ZOO: dict[str, Entry] = {**vision.entries(), **hugging_face.entries(), **custom.entries()}
SMALL: dict[str, Entry] = {**ZOO, **small.entries()}


def get(
    name: str,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    *,
    zero_biases: bool = False,
    among: dict[str, Entry] = ZOO,
) -> tuple[Entry, nn.Module, Tensor]:
    """The entry, its model in evaluation mode, and a batch of two samples.

    Biases and BatchNorm statistics are random, so that they matter; with `zero_biases` all of them are zero, so that
    relevance is conserved exactly by the rules that conserve it.
    """
    torch.manual_seed(seed)
    entry = among[name]
    model = randomise(entry.build()).eval()
    if zero_biases:
        zero_bias(model)
    disturb_statistics(calibrate(model, entry), zero_means=zero_biases)
    model = model.to(dtype)
    torch.manual_seed(seed + 100)
    x = entry.make_input()
    return entry, model, x.to(dtype) if x.is_floating_point() else x
