"""Where in a model the parts of a decomposition become far larger than their sum."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from xaikit.core.layers import hooked
from xaikit.explainers.cd.decomposed import Decomposed


def layer_of_growth(modules: Mapping[nn.Module, str], run: Callable[[], Any]) -> str | None:
    """The layer up to which |r| + |s| grows most in relation to |r + s| while `run` decomposes.

    The first layer whose parts are NaN or infinite is named before all others; None where no layer returns parts.
    """
    sizes: list[tuple[str, float]] = []

    def reader(name: str) -> Callable[[Any], None]:
        def note(output: Any) -> None:
            if isinstance(output, Decomposed):
                total = float(output.sums.detach().abs().sum())
                sizes.append((name, float(output.parts.detach().abs().sum()) / total if total else 0.0))

        return note

    with hooked([(module, reader(name)) for module, name in modules.items() if name and not any(module.children())]):
        run()
    overflowing = next((name for name, size in sizes if not math.isfinite(size)), None)
    if overflowing is not None:
        return overflowing
    earlier = [1.0, *(size for _, size in sizes)]
    factors = [(size / max(before, 1.0), name) for before, (name, size) in zip(earlier, sizes, strict=False)]
    return max(factors)[1] if factors else None
