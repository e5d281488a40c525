"""What the page shows of one sample: its facts, its input, and the map of each explainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xaikit.report import Names, pictures
from xaikit.report.cards import drawn, only_array, scale_of, series, strongest_pixel, summed_channels
from xaikit.runs import ExplainedSample

Array = NDArray[Any]

MOST_CHANNELS, MOST_POINTS = 32, 4000  # of a series that is marked


def facts_of(row: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """A sample's row in the words of the data.

    Args:
        row: of the catalogue.
        names: of the classes.
    """
    label, predicted = row["label"], row["predicted"]
    return {
        "position": row["position"],
        "index": row["sample"],
        "name": row["name"] or f"sample {row['sample']}",
        "label": names.of_class(label),
        "predicted": names.of_class(predicted),
        "class": label if label is not None else row["target"],
        "right": None if label is None or predicted is None else label == predicted,
        "score": row["score"],
        "confidence": row["confidence"],
        "gap": row["gap"],
        "region": row["region"],
        "disagreement": row["disagreement"],
    }


@dataclasses.dataclass(frozen=True)
class CardView:
    """How samples are shown.

    Attributes:
        side: most pixels of a picture's longer side.
        one_scale: the colours of all maps end at one value; else each map's end at its own.
        after: number of the job whose mended model is shown too; empty for none.
        is_whole: of a series all channels are drawn, finely enough to be stretched; else the strongest.
    """

    side: int = 160
    one_scale: bool = False
    after: str = ""
    is_whole: bool = False


def drawn_maps(
    kind: str,
    samples: Sequence[tuple[str, ExplainedSample]],
    inputs: Array | None,
    names: Names,
    view: CardView,
    together: Sequence[int] = (),
) -> list[dict[str, Any]]:
    """The maps of a sample, as the templates of a report take them.

    Args:
        kind: of the samples.
        samples: the explainer's name and the explained sample of each map.
        inputs: what was explained.
        names: of columns and tokens.
        view: how they are shown.
        together: the numbers of maps that share a scale in any case: one explainer before and after.
    """
    arrays = [only_array(sample.values, "values") for _, sample in samples]
    scales = [scale_of(kind, array) for array in arrays]
    shared = max((scales[i] for i in together), default=0.0)
    scales = [shared if i in together else scale for i, scale in enumerate(scales)]
    if view.one_scale:
        scales = [max(scales)] * len(scales)
    return [
        {
            "explainer": label,
            "gap": sample.gap,
            **_drawn(kind, array, inputs, names, (scale, view)),
        }
        for (label, sample), array, scale in zip(samples, arrays, scales, strict=True)
    ]


def _drawn(
    kind: str, values: Array, inputs: Array | None, names: Names, colouring: tuple[float, CardView]
) -> dict[str, Any]:
    scale, view = colouring
    if kind == "image":
        return _coloured(values, scale, view.side, inputs is not None)
    if kind == "series" and view.is_whole:
        return series(values, inputs, names, scale, most=MOST_CHANNELS, points=MOST_POINTS)
    return drawn(kind, values, inputs, names, side=view.side, scale=scale)


def _coloured(values: Array, scale: float, side: int, over: bool) -> dict[str, Any]:
    flat = summed_channels(values)
    signed = bool((flat < 0).any())
    picture = pictures.coloured_heatmap(flat, scale, signed=signed, over=over, side=side)
    return {"picture": picture, "signed": signed, "scale": scale, "words": strongest_pixel(flat)}


def input_picture(kind: str, inputs: Array | None, side: int) -> str:
    """The input of a picture as a data URI; empty for others, and where it was not kept.

    Args:
        kind: of the samples.
        inputs: what was explained.
        side: most pixels of the longer side.
    """
    return pictures.photograph(inputs, side) if kind == "image" and inputs is not None else ""


def parts_of(kind: str, values: Array, inputs: Array | None, names: Names) -> list[str]:
    """The names of what can be marked: tokens, columns; nothing for pictures and series.

    Args:
        kind: of the samples.
        values: an attribution.
        inputs: what was explained.
        names: of columns and tokens.
    """
    if kind == "text":
        ids = [] if inputs is None else inputs.tolist()
        return [str(word) for word in names.tokens(ids)] if names.tokens and ids else [str(i) for i in ids]
    if kind == "tabular":
        count = values.size
        return (
            [str(n) for n in names.features] if len(names.features) == count else [f"feature {i}" for i in range(count)]
        )
    return []


def mark_shape(kind: str, values: Array) -> tuple[int, ...]:
    """The shape of a mark: without channels.

    Args:
        kind: of the samples.
        values: an attribution.
    """
    if kind == "image":
        return tuple(values.shape[-2:])
    return (len(values),) if kind in ("text", "tabular") else (values.shape[-1],)


def position_weights(kind: str, values: Array) -> Array:
    """The size of the relevance at each position that can be marked.

    Args:
        kind: of the samples.
        values: an attribution.
    """
    size = np.abs(np.nan_to_num(values.astype(float)))
    if kind == "text":
        return size.reshape(len(size), -1).sum(1)
    if kind == "tabular":
        return size.reshape(-1)
    extra = size.ndim - (2 if kind == "image" else 1)
    weights: Array = size.sum(tuple(range(extra))) if extra else size
    return weights
