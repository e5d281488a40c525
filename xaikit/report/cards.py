"""One explained sample as a reader sees it: its picture, its words, its curve or its columns, whatever it is."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xaikit.core.errors import InvalidInputError
from xaikit.report import pictures
from xaikit.report.figures import KINDS

Array = NDArray[Any]

STRONGEST = 5  # parts named in words, for whoever cannot see the colours
MOST_BARS = 12
CURVE = (600, 120)  # width and height of a curve's own units


@dataclasses.dataclass(frozen=True)
class Names:
    """What to call things; each may be left out.

    Attributes:
        classes: of the classes, by index.
        features: of the columns of a table, or of the channels of a series.
        tokens: a function of a sample's token ids (T,) that gives T strings.
    """

    classes: Sequence[str] = ()
    features: Sequence[str] = ()
    tokens: Callable[[Sequence[int]], Sequence[str]] | None = None

    def of_class(self, index: int | None) -> str:
        """The name of a class, or its number."""
        if index is None:
            return ""
        return str(self.classes[index]) if 0 <= index < len(self.classes) else str(index)


def kind_of(values: Array, inputs: Array | None) -> str:
    """What a sample is, by its form: "text", "image", "series" or "tabular".

    Raises:
        InvalidInputError: for a form that none of these has.
    """
    if inputs is not None and inputs.dtype.kind in "iu" and inputs.ndim == 1 and values.shape[:1] == inputs.shape:
        return "text"
    if values.ndim + 1 in KINDS:
        return KINDS[values.ndim + 1]
    raise InvalidInputError(f"a sample of shape {values.shape} has no picture; name its kind")


def drawn(kind: str, values: Array, inputs: Array | None, names: Names) -> dict[str, Any]:
    """What the page's template needs to show one attribution of one sample."""
    if kind == "image":
        return _image(values)
    if kind == "text":
        return _text(values, inputs, names)
    return _series(values, inputs, names) if kind == "series" else _tabular(values, inputs, names)


def _image(values: Array) -> dict[str, Any]:
    flat = values.sum(0) if values.ndim == 3 else values
    scale, signed = pictures.scale_of(flat), bool((flat < 0).any())
    height, width = flat.shape
    row, column = np.unravel_index(int(np.abs(flat).argmax()), flat.shape)
    return {
        "signed": pictures.heatmap(flat, scale, signed=True) if signed else "",
        "unsigned": pictures.heatmap(flat, scale, signed=False),
        "scale": scale,
        "width": width,
        "height": height,
        "words": f"strongest at row {row + 1} of {height}, column {column + 1} of {width}",
    }


def _text(values: Array, inputs: Array | None, names: Names) -> dict[str, Any]:
    weights = values.reshape(len(values), -1).sum(1)
    ids = [] if inputs is None else inputs.tolist()
    words = [str(w) for w in names.tokens(ids)] if names.tokens and ids else [str(i) for i in ids]
    words = words or [f"token {i}" for i in range(len(weights))]
    if len(words) != len(weights):
        raise InvalidInputError(f"names.tokens must give {len(weights)} tokens for as many ids, got {len(words)}")
    end = _unpadded(ids, weights)
    words, weights = words[:end], weights[:end]
    return {"tokens": _coloured(words, weights), **_strongest(words, weights)}


def _unpadded(ids: list[int], weights: Array) -> int:
    """Where a text ends: what follows is one token over and over, which the model does not look at."""
    end = len(ids)
    while end > 1 and ids[end - 1] == ids[-1] and weights[end - 1] == 0:
        end -= 1
    # A single last word without relevance is a word.
    return end if len(ids) - end > 1 else len(weights)


def _tabular(values: Array, inputs: Array | None, names: Names) -> dict[str, Any]:
    weights = values.reshape(-1)
    words = _features(names, len(weights), "feature")
    if inputs is not None:
        words = [f"{word} = {value:.4g}" for word, value in zip(words, inputs.reshape(-1).tolist(), strict=True)]
    order = np.argsort(-np.abs(weights), kind="stable")[:MOST_BARS]
    rows = _coloured([words[i] for i in order], weights[order])
    return {"bars": rows, "left": len(weights) - len(order), **_strongest(words, weights)}


def _series(values: Array, inputs: Array | None, names: Names) -> dict[str, Any]:
    """Each channel's curve over its attribution as bands of colour."""
    width, height = CURVE
    values = values[None] if values.ndim == 1 else values
    curves = values if inputs is None else inputs.reshape(values.shape)
    scale = pictures.scale_of(values)
    words = _features(names, len(values), "channel")
    order = np.sort(np.argsort(-np.abs(values).sum(1), kind="stable")[:4])
    step = width / values.shape[1]
    channels = []
    for channel in order:
        curve = np.nan_to_num(curves[channel].astype(float))
        low, high = float(curve.min()), float(curve.max())
        ys = height - 8 - (curve - low) / ((high - low) or 1.0) * (height - 16)
        points = " ".join(f"{(i + 0.5) * step:.1f},{y:.1f}" for i, y in enumerate(ys))
        bands = [
            {
                "x": f"{i * step:.2f}",
                "opacity": f"{min(1.0, abs(v) / scale):.2f}",
                "sign": "for" if v > 0 else "against",
            }
            for i, v in enumerate(values[channel].tolist())
            if abs(v) > 0.01 * scale
        ]
        channels.append({"name": words[channel], "points": points, "bands": bands, "low": low, "high": high})
    flat = values.reshape(-1)
    places = [f"{words[i // values.shape[1]]}, step {i % values.shape[1]}" for i in range(len(flat))]
    return {"channels": channels, "step": f"{step:.2f}", "size": CURVE, **_strongest(places, flat)}


def _features(names: Names, count: int, word: str) -> list[str]:
    if names.features and len(names.features) != count:
        raise InvalidInputError(f"names.features must name {count} of them, got {len(names.features)}")
    return [str(n) for n in names.features] or [f"{word} {i}" for i in range(count)]


def _coloured(words: Sequence[str], weights: Array) -> list[dict[str, Any]]:
    most = float(np.abs(weights).max()) if len(weights) else 1.0
    return [
        {"word": word, "value": value, "share": abs(value) / (most or 1.0), "sign": _sign(value)}
        for word, value in zip(words, weights.tolist(), strict=True)
    ]


def _sign(value: float) -> str:
    return "for" if value > 0 else "against"


def _strongest(words: Sequence[str], weights: Array) -> dict[str, str]:
    order = np.argsort(-np.abs(weights), kind="stable")[:STRONGEST]
    return {"words": "strongest: " + ", ".join(f"{words[i]} ({weights[i]:+.2g})" for i in order)}
