"""Counts where a program waits for a device: wherever it needs a value, or a number of values, to go on."""

from __future__ import annotations

import collections
import traceback

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# Their result is a Python value, or has a size that depends on values.
READS = {"_local_scalar_dense", "item", "is_nonzero", "equal", "allclose", "nonzero", "masked_select", "_unique2"}


class Waits(TorchDispatchMode):
    """While active, `places` counts the waits by the line of xaikit that asked for the value."""

    def __init__(self, device: str = "fake") -> None:
        super().__init__()
        self.device = device
        self.places: collections.Counter[str] = collections.Counter()

    @property
    def count(self) -> int:
        return sum(self.places.values())

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self._waits(func.overloadpacket.__name__, args, kwargs):
            lines = [f for f in traceback.extract_stack() if "/xaikit/" in f.filename]
            place = f"{lines[-1].filename.split('/xaikit/')[-1]}:{lines[-1].lineno}" if lines else "elsewhere"
            self.places[place] += 1
        return func(*args, **kwargs)

    def _waits(self, name: str, args, kwargs) -> bool:
        if name == "copy_":
            return self._here(args[1]) and not self._here(args[0])
        if not args or not self._here(args[0]):
            return False
        if name == "_to_copy":
            return kwargs.get("device") is not None and torch.device(kwargs["device"]).type != self.device
        if name in ("index", "index_put", "index_put_"):
            return any(i is not None and i.dtype == torch.bool for i in args[1])
        return name in READS

    def _here(self, value) -> bool:
        return isinstance(value, torch.Tensor) and value.device.type == self.device
