"""The papers' data, read from a folder that the user names; nothing is downloaded."""

from __future__ import annotations

import gzip
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

N_TRAIN = 54_000  # of MNIST's 60,000, as published; the rest is for validation


def folder(given: str | None) -> Path:
    """The data folder: what the command line says, or `data` in the folder that XAIKIT_SHARED names."""
    if given is None and "XAIKIT_SHARED" not in os.environ:
        sys.exit("name the folder of the data with --data-dir (mnist/, compas/, sst/; nothing is downloaded)")
    path = Path(given) if given else Path(os.environ["XAIKIT_SHARED"]) / "data"
    if not path.is_dir():
        sys.exit(f"there is no data folder {path}; name it with --data-dir")
    return path


def mnist(path: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """Parts "train", "validation", "test": images (N, 28, 28) with grey values 0 to 255 as floats, and labels."""
    x, y = _idx(path / "mnist/train-images-idx3-ubyte.gz"), _idx(path / "mnist/train-labels-idx1-ubyte.gz")
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    parts = {"train": order[:N_TRAIN], "validation": order[N_TRAIN:]}
    found = {name: (x[rows], y[rows]) for name, rows in parts.items()}
    return found | {
        "test": (_idx(path / "mnist/t10k-images-idx3-ubyte.gz"), _idx(path / "mnist/t10k-labels-idx1-ubyte.gz"))
    }


def _idx(path: Path) -> Tensor:
    """An array in LeCun's format: images as floats, labels as whole numbers."""
    if not path.is_file():
        sys.exit(f"{path} is missing: put MNIST's four .gz files there")
    raw = gzip.decompress(path.read_bytes())
    axes = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(axes)]
    values = torch.from_numpy(np.frombuffer(raw, np.uint8, offset=4 + 4 * axes).reshape(shape).copy())
    return values.float() if axes > 1 else values.long()
