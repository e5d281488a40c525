"""The random states that a training depends on, taken and put back."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

RandomState = dict[str, Any]  # tensors and plain values only: it goes into checkpoints


def capture(generators: Sequence[torch.Generator] = ()) -> RandomState:
    """The states of torch (also on CUDA), of `random`, of numpy, and of generators of the user's."""
    name, keys, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
        "python": random.getstate(),
        "numpy": (
            str(name),
            torch.from_numpy(np.asarray(keys).astype(np.int64)),
            int(position),
            int(has_gauss),
            float(gauss),
        ),
        "generators": [g.get_state() for g in generators],
    }


def restore(state: RandomState, generators: Sequence[torch.Generator] = ()) -> None:
    """Put back what `capture` gave; generators of the user's only where as many are given."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_initialized() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    random.setstate(state["python"])
    name, keys, *others = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *others))
    if len(generators) == len(state["generators"]):
        for generator, value in zip(generators, state["generators"], strict=True):
            generator.set_state(value)
