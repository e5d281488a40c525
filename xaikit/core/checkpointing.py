"""Activation checkpoints inside a model that is explained: switched off, since they run parts of it again unseen.

`torch.utils.checkpoint` drops activations in the forward pass and runs the part again in the backward pass, outside the
hooks that read layers and rules. Memory for one explained pass is worth less than a right result.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

from torch.utils import checkpoint as torch_checkpoint

_INSTALLED = threading.Lock()


class _Reentrant:
    """Stands for torch's reentrant checkpoint; outside explained passes it is torch's."""

    def __init__(self, original: Any, explained: Callable[[], bool]) -> None:
        self.original, self.explained = original, explained

    def apply(self, function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
        """Run the function with a checkpoint, or without one inside an explained pass."""
        return function(*args) if self.explained() else self.original.apply(function, preserve, *args)


def install(explained: Callable[[], bool]) -> None:
    """Let torch's checkpoint ask `explained` before it drops activations; once in a process.

    Both names are looked up whenever a checkpoint is entered, so models that imported `checkpoint` by name are reached.
    """
    with _INSTALLED:
        if isinstance(torch_checkpoint.CheckpointFunction, _Reentrant):
            return
        generator = torch_checkpoint._checkpoint_without_reentrant_generator

        def checkpointed(*args: Any, **kwargs: Any) -> Iterator[None]:
            if explained():
                yield
                return
            yield from generator(*args, **kwargs)

        torch_checkpoint._checkpoint_without_reentrant_generator = checkpointed
        torch_checkpoint.CheckpointFunction = _Reentrant(torch_checkpoint.CheckpointFunction, explained)  # type: ignore[misc,assignment]
