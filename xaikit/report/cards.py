"""Cards: what the page shows of one explained sample: an image, a text, curves of a series, or columns of a table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xaikit.core.errors import InvalidInputError
from xaikit.core.image_forms import channels_first
from xaikit.report import pictures
from xaikit.report.columns import ranked
from xaikit.report.figures import KINDS
from xaikit.report.names import Names
from xaikit.runs.summary_words import unpadded_length

Array = NDArray[Any]

STRONGEST = 5  # parts that the text beside a picture names, for readers who cannot see the colours
MOST_BARS = 12
CURVE = (600, 120)  # width and height of a curve's coordinate system
MOST_POINTS = 400  # of a curve; of a longer one, the lowest and highest points of its parts are drawn
MOST_CHANNELS = 4
GOES_ON = "##"


def kind_of(values: Array, inputs: Array | None) -> str:
    """The kind of a sample by its shape and type: "text", "image", "series" or "tabular".

    Raises:
        InvalidInputError: for a form that none of these has.
    """
    if inputs is not None and inputs.dtype.kind in "iu" and inputs.ndim == 1 and values.shape[:1] == inputs.shape:
        return "text"
    if values.ndim + 1 in KINDS:
        return KINDS[values.ndim + 1]
    raise InvalidInputError(f"a sample of shape {values.shape} has no picture; name its kind")


def only_array(value: Any, what: str) -> Array:
    """The only tensor of a sample, as numbers.

    Raises:
        InvalidInputError: for samples of several tensors.
    """
    if isinstance(value, Mapping):
        value = tuple(value.values())
    if isinstance(value, tuple):
        if len(value) != 1:
            raise InvalidInputError(f"pages show samples of one tensor, and the {what} hold {len(value)}")
        value = value[0]
    array: Array = value.float().numpy() if value.is_floating_point() else value.numpy()
    return array


def drawn(
    kind: str,
    values: Array,
    inputs: Array | None,
    names: Names,
    *,
    side: int = pictures.LARGEST,
    scale: float | None = None,
    score: float | None = None,
) -> dict[str, Any]:
    """The values that the page's template needs to show one attribution; a picture has at most side x side pixels.

    Columns whose values add up to a score, with what is not attributed, are shown as a waterfall.
    """
    scale = scale_of(kind, values) if scale is None else scale
    if kind == "image":
        return _image(values, side, scale)
    if kind == "text":
        return _text(values, inputs, names, scale)
    return series(values, inputs, names, scale) if kind == "series" else _tabular(values, inputs, names, scale, score)


def scale_of(kind: str, values: Array) -> float:
    """The value at which the colours or bars of one attribution end."""
    if kind == "image":
        return pictures.scale_of(summed_channels(values))
    if kind == "series":
        return pictures.scale_of(values)
    weights = values.reshape(len(values), -1).sum(1) if kind == "text" else values.reshape(-1)
    return float(np.abs(weights).max(initial=0.0)) or 1.0


def part_names(kind: str, values: Array, inputs: Array | None, names: Names) -> list[str]:
    """The names of a sample's tokens, columns or channels; an image has none."""
    if kind == "image":
        return []
    if kind == "text":
        ids = [] if inputs is None else inputs.tolist()
        tokens = [str(word) for word in names.tokens(ids)] if names.tokens and ids else []
        return tokens or [f"token {i}" for i in range(len(values))]
    count = values.size if kind == "tabular" else len(values) if values.ndim > 1 else 1
    return _features(names, count, "feature" if kind == "tabular" else "channel")


def _image(values: Array, side: int, scale: float) -> dict[str, Any]:
    flat = summed_channels(values)
    signed = bool((flat < 0).any())
    picture = pictures.heatmap(flat, scale, signed=signed, side=side)
    return {"picture": picture, "signed": signed, "scale": scale, "words": strongest_pixel(flat)}


def summed_channels(values: Array) -> Array:
    """The map of a picture, (H, W)."""
    return channels_first(values).sum(0) if values.ndim == 3 else values


def strongest_pixel(flat: Array) -> str:
    """Where a map (H, W) is strongest, in words."""
    row, column = np.unravel_index(int(np.abs(flat).argmax()), flat.shape)
    return f"strongest at row {row + 1} of {flat.shape[0]}, column {column + 1} of {flat.shape[1]}"


def _text(values: Array, inputs: Array | None, names: Names, scale: float) -> dict[str, Any]:
    weights = values.reshape(len(values), -1).sum(1)
    ids = [] if inputs is None else inputs.tolist()
    tokens = [str(w) for w in names.tokens(ids)] if names.tokens and ids else [str(i) for i in ids]
    tokens = tokens or [f"token {i}" for i in range(len(weights))]
    if len(tokens) != len(weights):
        raise InvalidInputError(f"names.tokens must give {len(weights)} tokens for as many ids, got {len(tokens)}")
    if names.padding:
        tokens, weights = _ended(tokens, weights, names.padding)
    else:
        end = unpadded_length(ids, weights.tolist())
        tokens, weights = tokens[:end], weights[:end]
    coloured = [{**token, **_piece(token["word"])} for token in _coloured(tokens, weights, scale)]
    return {"tokens": coloured, **_strongest(tokens.__getitem__, weights)}


def _piece(word: str) -> dict[str, Any]:
    """How a token is shown: a piece that BERT marks as the continuation of a word stands close to the piece before."""
    glued = word.startswith(GOES_ON) and len(word) > len(GOES_ON)
    return {"word": word.removeprefix(GOES_ON) if glued else word, "glued": glued}


def _ended(tokens: list[str], weights: Array, padding: str) -> tuple[list[str], Array]:
    """A text whose padding tokens, recognised by name, are joined into one; without relevance they are left out."""
    end = len(tokens)
    while end > 1 and tokens[end - 1] == padding:
        end -= 1
    after = weights[end:]
    if not after.any():
        return tokens[:end], weights[:end]
    return [*tokens[:end], f"{len(after)}\u00a0×\u00a0{padding}"], np.append(weights[:end], after.sum())


def _tabular(values: Array, inputs: Array | None, names: Names, scale: float, score: float | None) -> dict[str, Any]:
    weights = values.reshape(-1)
    labels = _features(names, len(weights), "feature")
    if inputs is not None:
        labels = [f"{word} = {value:.4g}" for word, value in zip(labels, inputs.reshape(-1).tolist(), strict=True)]
    top, others = ranked(weights, MOST_BARS)
    sizes, texts = weights[top], [labels[i] for i in top]
    if len(others):
        sizes, texts = np.append(sizes, weights[others].sum()), [*texts, f"{len(others)} others, summed"]
    rows = _coloured(texts, sizes, scale)
    if score is not None and np.isfinite(weights).all():
        rows = _waterfall(rows, sizes, score)
    return {"bars": rows, **_strongest(labels.__getitem__, weights)}


def _waterfall(rows: list[dict[str, Any]], sizes: Array, score: float) -> list[dict[str, Any]]:
    """The rows between what is not attributed and the score; each begins where the one before it ends."""
    base = score - float(sizes.sum())
    ends = base + np.concatenate([[0.0], np.cumsum(sizes)])
    low, high = min(0.0, float(ends.min())), max(0.0, float(ends.max()))
    span = (high - low) or 1.0

    def bar(start: float, end: float) -> dict[str, float]:
        return {"start": (min(start, end) - low) / span, "share": abs(end - start) / span}

    steps = [{**row, **bar(a, b)} for row, a, b in zip(rows, ends[:-1].tolist(), ends[1:].tolist(), strict=True)]
    first = {"word": "not attributed", "value": base, "sign": "whole", **bar(0.0, base)}
    return [first, *steps, {"word": "score", "value": score, "sign": "whole", **bar(0.0, score)}]


def series(
    values: Array,
    inputs: Array | None,
    names: Names,
    scale: float,
    *,
    most: int = MOST_CHANNELS,
    points: int = MOST_POINTS,
) -> dict[str, Any]:
    """The channels with the most attribution: for each a row of grey values, which a page colours, and its curve.

    Args:
        values: of the attribution, (C, T) or (T,).
        inputs: what was explained.
        names: of the channels.
        scale: the value at which the colours end.
        most: channels at most; "left_out" counts the others.
        points: of a curve at most.
    """
    values = values[None] if values.ndim == 1 else values
    curves = values if inputs is None else inputs.reshape(values.shape)
    channel_names = _features(names, len(values), "channel")
    order = np.sort(np.argsort(-np.abs(values).sum(1), kind="stable")[:most])
    bands = [pictures.heatmap(values[c][None], scale, signed=True) for c in order]
    channels = [
        {"name": channel_names[c], "bands": band, **_curve(curves[c], points)}
        for c, band in zip(order, bands, strict=True)
    ]
    flat = values.reshape(-1)
    steps = values.shape[1]
    return {
        "channels": channels,
        "size": CURVE,
        "left_out": len(values) - len(channels),
        **_strongest(lambda i: f"{channel_names[i // steps]}, step {i % steps}", flat),
    }


def _curve(values: Array, points: int) -> dict[str, Any]:
    """The points of a curve in the units of CURVE, and its range."""
    width, height = CURVE
    curve = np.nan_to_num(values.astype(float))
    low, high = float(curve.min()), float(curve.max())
    places = np.arange(len(curve))
    if len(curve) > points:  # the lowest and the highest point of each part, so that no peak is lost
        parts = np.array_split(places, points // 2)
        places = np.unique([p[extreme(curve[p])] for p in parts for extreme in (np.argmin, np.argmax)])
    xs = (places + 0.5) * width / len(curve)
    ys = height - 8 - (curve[places] - low) / ((high - low) or 1.0) * (height - 16)
    digits = 0 if points <= CURVE[0] else 2
    line = " ".join(f"{x:.{digits}f},{y:.0f}" for x, y in zip(xs, ys, strict=True))
    return {"points": line, "low": low, "high": high}


def _features(names: Names, count: int, word: str) -> list[str]:
    if names.features and len(names.features) != count:
        raise InvalidInputError(f"names.features must name {count} of them, got {len(names.features)}")
    return [str(n) for n in names.features] or [f"{word} {i}" for i in range(count)]


def _coloured(labels: Sequence[str], weights: Array, scale: float) -> list[dict[str, Any]]:
    return [
        {"word": word, "value": value, "share": min(1.0, abs(value) / scale), "sign": _sign(value)}
        for word, value in zip(labels, weights.tolist(), strict=True)
    ]


def _sign(value: float) -> str:
    return "for" if value > 0 else "against"


def _strongest(word: Callable[[int], str], weights: Array) -> dict[str, str]:
    order = np.argsort(-np.abs(weights), kind="stable")[:STRONGEST]
    return {"words": "strongest: " + ", ".join(f"{word(i)} ({weights[i]:+.2g})" for i in order)}
