"""Figures of attributions: images, series, tables, and grids of several explainers.

Every function returns a `matplotlib.figure.Figure` and none touches pyplot, so they work without a display, in
threads, and leave no figure open. A figure saves itself: ``figure.savefig("map.png")``.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xaikit.core import Attribution
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError
from xaikit.core.image_forms import channels_first
from xaikit.core.spec_strings import target_text
from xaikit.report.columns import rows_figure
from xaikit.report.names import Names
from xaikit.report.plain_text import PlainFigure
from xaikit.report.token_strip import token_strip

Array = NDArray[Any]

KINDS = {2: "tabular", 3: "series", 4: "image"}  # by the number of axes of a batch
SIGNED, UNSIGNED = "RdBu_r", "inferno"
# Colours that can be distinguished without seeing red and green.
BARS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#999999")
INTERVAL: dict[str, Any] = {"fmt": "none", "elinewidth": 1.0, "capsize": 2, "ecolor": "#444444"}
MAX_SAMPLES, MAX_CHANNELS = 8, 6
ACROSS = 4  # maps beside each other, where they stand without inputs
QUANTILE = 0.995  # of |values|, where an image's colours end: a few extreme pixels must not blank the rest


def plot(
    attribution: Attribution,
    inputs: Any = None,
    *,
    samples: int | Sequence[int] | None = None,
    kind: str | None = None,
    part: int | str | None = None,
    names: Sequence[Any] | Names | None = None,
    outline: Any = None,
) -> Figure:
    """One row (image), one block (series, text) or one panel (tabular) for each sample.

    A row of a table is drawn as a waterfall that ends at its score if the method promises a sum, else as bars.

    Args:
        attribution: what `Explainer.explain` returned.
        inputs: what was explained, to be drawn beside and under the attribution.
        samples: which samples; None draws the first eight.
        kind: "image" (N, C, H, W), "series" (N, C, T), "tabular" (N, F) or "text" (N, T) or (N, T, D). None chooses
            "text" if the attribution holds token ids, else the kind with as many axes.
        part: which tensor, where inputs are a tuple or a dict.
        names: names of the features (tabular) or the channels (series), or for each sample its T tokens (text); None
            shows numbers or token ids. A `xaikit.report.Names` also names the classes in the titles.
        outline: a map (H, W), 1 inside, whose border is drawn on images.

    Raises:
        InvalidInputError: for values whose shape no kind has, or inputs of another shape.
        InvalidTypeError: for anything but an attribution.
        UnknownNameError: for a part that does not exist.
    """
    if not isinstance(attribution, Attribution):
        raise InvalidTypeError(f"plot takes the Attribution that explain() returns, got {type(attribution).__name__}")
    values = _array(_pick(attribution.values, part, "the attribution"))
    ids = None if attribution.tokens is None else _array(attribution.tokens)
    kind = kind or ("text" if ids is not None else KINDS.get(values.ndim))
    input_values = None if inputs is None else _array(_pick(inputs, part, "inputs"))
    if (
        input_values is not None
        and kind != "text"
        and (len(input_values) != len(values) or input_values.ndim != values.ndim)
    ):
        raise InvalidInputError(f"inputs must fit the attribution {values.shape}, got {input_values.shape}")
    chosen = _choose(samples, len(values))
    classes = names if isinstance(names, Names) else Names()
    names = _names_of_parts(names, ids) if isinstance(names, Names) else names
    titles = [_title(attribution, i, classes) for i in chosen]
    picked = None if input_values is None else input_values[chosen]
    match kind:
        case "image" if values.ndim in (3, 4):
            return _images(values[chosen], picked, titles, outline)
        case "series" if values.ndim in (2, 3):
            return _series(values[chosen], picked, titles, names)
        case "tabular":
            scores = attribution.scores if attribution.gap is not None else None
            return rows_figure(
                values[chosen], picked, titles, names, None if scores is None else _array(scores)[chosen]
            )
        case "text" if values.ndim in (2, 3):
            tokens = None if names is None else [names[i] for i in chosen]
            return token_strip(values[chosen], titles, tokens, None if ids is None else ids[chosen])
    allowed = ", ".join(f"{name!r} ({axes} axes)" for axes, name in KINDS.items()) + ", 'text' (2 or 3 axes)"
    raise InvalidInputError(f"an attribution of shape {values.shape} is not drawn as {kind!r}; kinds are {allowed}")


def comparison(
    attributions: Mapping[str, Any],
    inputs: Any,
    *,
    labels: Sequence[str] | None = None,
    captions: Mapping[str, Sequence[str]] | None = None,
    samples: int | Sequence[int] | None = None,
    outline: Any = None,
) -> Figure:
    """A grid of images: one row for each sample, the input first, then one column for each explainer.

    Every map has its own colour scale, from minus to plus its largest absolute value, because the relevances of
    different explainers differ by orders of magnitude.

    Args:
        attributions: by column title; attributions or plain tensors (N, C, H, W).
        inputs: images (N, C, H, W).
        labels: a short text for each sample.
        captions: by column title, a short text below each map, such as the predicted class.
        samples: which samples; None draws the first eight.
        outline: a map (H, W), 1 inside, whose border is drawn on every image.
    """
    images = _array(inputs)
    columns = {
        name: _array(a.values if isinstance(a, Attribution) else _pick(a, None, name))
        for name, a in attributions.items()
    }
    for name, values in columns.items():
        if len(values) != len(images):
            raise InvalidInputError(f"{name!r} has {len(values)} samples, the inputs have {len(images)}")
    chosen = _choose(samples, len(images))
    signs = [s for s in (True, False) if any(bool((v[chosen] < 0).any()) == s for v in columns.values())]
    figure, grid = _grid(len(chosen), 1 + len(columns), width=1.7, height=1.75, margin=0.75 * len(signs))
    for row, i in zip(grid, chosen, strict=True):
        show_image(row[0], images[i])
        row[0].set_ylabel(str(i) if labels is None else labels[i])
        for axes, (name, values) in zip(row[1:], columns.items(), strict=True):
            _overlay(axes, values[i], images[i])
            if captions is not None and name in captions:
                axes.set_xlabel(captions[name][i], fontsize=8)
        for axes in row:
            _draw_outline(axes, outline, images[i].shape[-2:])
    for axes, name in zip(grid[0], ["input", *columns], strict=True):
        axes.set_title(name, fontsize=9)
    for sign in signs:
        colours = ScalarMappable(Normalize(-1 if sign else 0, 1), SIGNED if sign else UNSIGNED)
        # A bar is 0.12 inches wide, whatever the figure's width.
        share = 0.12 / figure.get_figwidth()
        bar = figure.colorbar(
            colours, ax=grid, shrink=min(1.0, 2.4 / len(chosen)), fraction=share, pad=share, aspect=20
        )
        bar.set_ticks([-1 if sign else 0, 1], labels=["against", "for"] if sign else ["none", "most"], fontsize=8)
    return figure


def grouped_bars(
    table: Mapping[str, Mapping[str, float]],
    *,
    title: str = "",
    percent: bool = True,
    margins: Mapping[str, Mapping[str, float]] | None = None,
) -> Figure:
    """Grouped bars, one for each number, with the number above it.

    Args:
        table: the numbers by series (colour) and group (position).
        title: above the figure.
        percent: whether the numbers are shares. Their axis ends at 100 %, or at the largest if all are below 30 %.
        margins: half the width of each number's interval, by series and group; drawn as lines.
    """
    groups = list(dict.fromkeys(group for row in table.values() for group in row))
    figure = PlainFigure(figsize=(1.5 + 0.42 * len(groups) * (len(table) + 1), 3.6), layout="constrained")
    axes = figure.subplots()
    width = 0.84 / len(table)
    ends = [row[g] + (margins[name].get(g, 0.0) if margins else 0.0) for name, row in table.items() for g in row]
    top = max((e for e in ends if math.isfinite(e)), default=1.0)
    small = percent and top < 0.3  # a whole axis would hide shares so small
    label_of = (lambda v: f"{100 * v:.1f}" if small else f"{100 * v:.0f}") if percent else "{:.2g}"
    for k, (name, row) in enumerate(table.items()):
        places = np.arange(len(groups)) + (k - (len(table) - 1) / 2) * width
        values = [row.get(g, np.nan) for g in groups]
        hatch = "///" if k >= len(BARS) else None  # a colour that was used before
        axes.bar(places, values, width * 0.94, color=BARS[k % len(BARS)], hatch=hatch, edgecolor="white", label=name)
        upper = np.zeros(len(groups))
        if margins is not None:
            spread = np.array([margins[name].get(g, 0.0) for g in groups])
            # A share lies between 0 and 1, and so does what is drawn of its interval.
            lower, upper = (np.minimum(spread, v) if percent else spread for v in (values, 1 - np.array(values)))
            visible = spread > 0
            axes.errorbar(places[visible], np.array(values)[visible], (lower[visible], upper[visible]), **INTERVAL)
        for place, value, above in zip(places, values, upper, strict=True):
            if math.isfinite(value):
                text = label_of(value) if callable(label_of) else label_of.format(value)
                offset, side = ((0, -2), "top") if value < 0 else ((0, 2), "bottom")
                style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "va": side, "fontsize": 7}
                axes.annotate(text, (place, value + above), offset, **style)
    axes.set_xticks(range(len(groups)), groups)
    if percent:
        axes.set_ylim(0, 1.2 * top if small and top > 0 else 1.08)
        axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.0f} %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title)
    figure.legend(loc="outside lower center", ncols=min(3, len(table)), frameon=False, fontsize=8)
    return figure


# ---------------------------------------------------------------------- one kind each


def _images(values: Array, inputs: Array | None, titles: Sequence[str], outline: Any) -> Figure:
    """One row for each sample, its input on the left; maps alone stand side by side."""
    across, panels = (min(len(values), ACROSS), 1) if inputs is None else (1, 2)
    figure, grid = _grid(-(-len(values) // across), across * panels, width=3.0, height=2.7)
    cells = grid.reshape(-1, panels)
    for row in cells[len(values) :]:
        row[0].set_axis_off()
    for i, row in enumerate(cells[: len(values)]):
        image = None if inputs is None else inputs[i]
        if image is not None:
            show_image(row[0], image)
        drawn = _overlay(row[-1], values[i], image)
        figure.colorbar(drawn, ax=row[-1], shrink=0.85, extend="both" if drawn.norm.vmin else "max")
        row[0].set_title(titles[i], loc="left", fontsize=9)
        for axes in row:
            _draw_outline(axes, outline, values[i].shape[-2:])
    return figure


def _series(values: Array, inputs: Array | None, titles: Sequence[str], names: Sequence[str] | None) -> Figure:
    """The attribution as colour behind the curve; of many channels, those with the most attribution."""
    values = values[:, None] if values.ndim == 2 else values
    inputs = inputs[:, None] if inputs is not None and inputs.ndim == 2 else inputs
    if names and len(names) != values.shape[1]:
        raise InvalidInputError(f"names must hold {values.shape[1]} channels, got {len(names)}")
    n_channels = min(values.shape[1], MAX_CHANNELS)
    figure, grid = _grid(len(values) * n_channels, 1, width=7.0, height=1.3 if n_channels > 1 else 1.8)
    for i, value in enumerate(values):
        channels = np.sort(np.argsort(-np.abs(value).sum(1), kind="stable")[:n_channels])
        norm, colours = _scale(value, 1.0)
        colours = colours if colours == SIGNED else "Reds"  # a black curve must be seen on every colour
        for axes, channel in zip(grid[i * n_channels : (i + 1) * n_channels, 0], channels, strict=True):
            curve = value[channel] if inputs is None else inputs[i, channel]
            low, high = float(curve.min()), float(curve.max())
            margin = 0.08 * (high - low) or 1.0
            frame = (-0.5, len(curve) - 0.5, low - margin, high + margin)
            drawn = axes.imshow(value[channel][None], colours, norm, aspect="auto", extent=frame, interpolation="none")
            axes.plot(np.arange(len(curve)), curve, color="black", linewidth=1)
            word = str(names[channel]) if names else f"channel {channel}"
            axes.set_ylabel(textwrap.fill(word, 16), fontsize=8, rotation=0, ha="right", va="center")
            axes.tick_params(labelsize=8, labelbottom=channel == channels[-1])
        grid[i * n_channels, 0].set_title(titles[i], loc="left", fontsize=9)
        figure.colorbar(drawn, ax=list(grid[i * n_channels : (i + 1) * n_channels, 0]))
    return figure


# ---------------------------------------------------------------------- parts


def _grid(rows: int, columns: int, *, width: float, height: float, margin: float = 0.6) -> tuple[Figure, Any]:
    """Axes in a grid; `margin` inches are left for colour bars."""
    figure = PlainFigure(figsize=(columns * width + margin, rows * height + 0.3), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _scale(values: Array, quantile: float = QUANTILE) -> tuple[Normalize, str]:
    """The range and the name of a colour map: centred at 0 for values of both signs, from 0 upwards for others."""
    size = np.abs(values)
    end = float(np.quantile(size, quantile)) or float(size.max()) or 1.0
    return (Normalize(-end, end), SIGNED) if (values < 0).any() else (Normalize(0, end), UNSIGNED)


def show_image(axes: Axes, image: Array, shades: tuple[float, float] = (0.0, 1.0)) -> None:
    """An image in its own colours (three channels) or in grey, its range stretched to the shades.

    Args:
        axes: to draw on.
        image: (H, W) or (C, H, W).
        shades: of the smallest and the largest value, from 0 (black) to 1 (white).
    """
    image = image[None] if image.ndim == 2 else channels_first(image)
    image = image if image.shape[0] in (1, 3) else image.mean(0, keepdims=True)
    span = float(image.max() - image.min()) or 1.0
    darkest, brightest = shades
    pixels = (darkest + (brightest - darkest) * (image - image.min()) / span).transpose(1, 2, 0)
    axes.imshow(pixels.repeat(3 // pixels.shape[2], axis=2), interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])


def _overlay(axes: Axes, values: Array, image: Array | None) -> Any:
    """The attribution, channels summed; over an image, small values are transparent."""
    flat = channels_first(values).sum(0) if values.ndim == 3 else values
    norm, colours = _scale(flat)
    opacity: Any = None
    if image is not None:
        grey = channels_first(image).mean(0, keepdims=True) if image.ndim == 3 else image
        # Colours that fade to white lie on a light image, those that fade to black on a dark one.
        show_image(axes, grey, (0.55, 1.0) if norm.vmin else (0.0, 0.6))
        opacity = 0.25 + 0.75 * np.clip(np.abs(flat) / norm.vmax, 0, 1)
    height, width = (flat if image is None else image).shape[-2:]
    frame = (-0.5, width - 0.5, height - 0.5, -0.5)
    drawn = axes.imshow(flat, colours, norm, alpha=opacity, extent=frame, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    return drawn


def _draw_outline(axes: Axes, outline: Any, shape: tuple[int, ...]) -> None:
    if outline is None:
        return
    inside = _array(outline) > 0.5
    if inside.shape != shape:
        raise InvalidInputError(f"outline must be a map of shape {shape}, got {inside.shape}")
    # Segments between a pixel inside and a neighbour outside: exact on the pixel grid, where a contour would cut.
    padded = np.pad(inside, 1)
    across, along = np.argwhere(padded[:, 1:] != padded[:, :-1]), np.argwhere(padded[1:] != padded[:-1])
    style: dict[str, Any] = {"colors": "#2ca02c", "linewidth": 1.2, "clip_on": False, "zorder": 3}
    axes.vlines(across[:, 1] - 0.5, across[:, 0] - 1.5, across[:, 0] - 0.5, **style)
    axes.hlines(along[:, 0] - 0.5, along[:, 1] - 1.5, along[:, 1] - 0.5, **style)


def _names_of_parts(names: Names, ids: Array | None) -> Sequence[Any] | None:
    """The tokens of each sample, if these are texts; else the names of the features."""
    if ids is not None:
        return None if names.tokens is None else [names.tokens(row) for row in ids.tolist()]
    return names.features or None


def _title(attribution: Attribution, sample: int, names: Names) -> str:
    targets = attribution.targets
    target = targets[sample] if isinstance(targets, Sequence) else targets
    parts = [str(attribution.spec.get("name", "attribution"))]
    if target is not None:
        parts.append(f"class {names.of_class(target)}" if isinstance(target, int) else target_text(target))
    if attribution.scores is not None:
        parts.append(f"score {float(attribution.scores[sample]):.3g}")
    return ", ".join(parts)


def _choose(samples: int | Sequence[int] | None, n: int) -> list[int]:
    chosen = list(range(min(n, MAX_SAMPLES))) if samples is None else [samples] if isinstance(samples, int) else samples
    for i in chosen:
        if not -n <= i < n:
            raise InvalidInputError(f"samples must lie in 0..{n - 1}, got {i}")
    if not chosen:
        raise InvalidInputError("no sample to draw")
    return [i % n for i in chosen]


def _pick(values: Any, part: int | str | None, what: str) -> Any:
    """The tensor itself, or the entry `part` of a tuple or dict."""
    if isinstance(values, (tuple, list)):
        values = dict(enumerate(values))
    if not isinstance(values, Mapping):
        return values
    part = next(iter(values)) if part is None and len(values) == 1 else part
    if part not in values:
        raise UnknownNameError(f"{what}: one of several tensors is drawn; name it with part=, one of {list(values)}")
    return values[part]


def _array(values: Any) -> Array:
    tensor = torch.as_tensor(values, device="cpu").detach()
    return tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy()
