"""A scan in figures and in a report: how many predictions follow each factor, and exchanged samples."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from xaikit.report.figures import show_image
from xaikit.report.html import Picture, Table
from xaikit.report.plain_text import PlainFigure
from xaikit.shortcuts import Effect, Scan
from xaikit.shortcuts.effects import SUSPECT

MOST_BARS, MOST_ROWS, SAMPLES = 14, 5, 2
COLOURS = {"suspect": "#b2182b", "content": "#4477aa", "nuisance": "#999999"}


def scan_sections(scan: Scan, *, title: str = "Scan") -> list[Table | Picture]:
    """The figure, and the table of all factors with the conclusion.

    Args:
        scan: what `scan` measured.
        title: of the figure; the table's says that it has all factors.
    """
    title = f"{title} of {scan.model}" if scan.model else title
    columns = {
        "follows": "follow it",
        "changed": "change",
        "accuracy": "accuracy",
        "worst accuracy": "in the worst class",
    }
    rows = []
    for name, row in scan.to_pandas().to_dict("index").items():
        nature = f"{row['nature']}, suspect" if row["suspect"] else row["nature"]
        rows.append({"factor": name, "nature": nature, **{label: float(row[key]) for key, label in columns.items()}})
    conclusion = f"scan of {scan.model}: {scan.verdict}" if scan.model else scan.verdict
    note = (
        "Each factor is exchanged with samples of other classes. Follow it: predictions that become the donor's class, "
        "less those that damage alone changes."
    )
    description = f"Share of predictions that follow each factor. {conclusion}"
    table = Table(f"{title}, all factors", rows, note, shares=True, conclusion=conclusion)
    return [Picture(title, scan_figure(scan), description), table]


def scan_figure(scan: Scan) -> Figure:
    """Bars with intervals; beside them, for the first factors, samples as they are, the donors, and exchanged.

    Args:
        scan: what `scan` measured.
    """
    effects = scan.effects[:MOST_BARS]
    pictured = [e for e in effects if e.title in scan.pictures and scan.pictures[e.title].shape[2] in (1, 3)]
    rows = pictured[:MOST_ROWS]
    height = max(1.6 + 0.26 * len(effects), 1.2 * len(rows))
    figure = PlainFigure(figsize=(11 if rows else 6, height), layout="constrained")
    if not rows:
        _bars(figure.add_subplot(), effects)
        return figure
    chart, gallery = figure.subfigures(1, 2, width_ratios=[5, 6])  # type: ignore[misc]
    _bars(chart.add_subplot(), effects)
    grid = gallery.subplots(len(rows), 3 * SAMPLES, squeeze=False)
    for line, effect in zip(grid, rows, strict=True):
        _pictures(line, effect, scan.pictures[effect.title])
    for axes, title in zip(grid[0], ("sample", "donor", "exchanged") * SAMPLES, strict=True):
        axes.set_title(title, fontsize=8, pad=3)
    return figure


def _bars(axes: Any, effects: tuple[Effect, ...]) -> None:
    """One bar for each factor, the first on top."""
    for place, effect in enumerate(reversed(effects)):
        follows = effect.follows
        ends = [[max(0.0, follows.mean - follows.low)], [max(0.0, follows.high - follows.mean)]]
        colour = COLOURS["suspect" if effect.is_suspect else effect.nature]
        axes.barh(place, follows.mean, color=colour, height=0.7, xerr=ends, ecolor="#333333", capsize=2)
    axes.set_yticks(range(len(effects)), [effect.title for effect in reversed(effects)], fontsize=8)
    axes.axvline(SUSPECT, color="#b2182b", linewidth=1, linestyle=":")
    axes.set_xlim(min(0.0, *(e.follows.mean for e in effects)), 1.02)
    axes.set_xlabel("share of predictions that follow it", fontsize=9)
    labels = ("suspect", "content", "nuisance")
    handles = [axes.barh(0, 0, color=COLOURS[name]) for name in labels]
    axes.legend(handles, labels, fontsize=7, frameon=False, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)


def _pictures(line: Any, effect: Effect, pictures: Any) -> None:
    """Samples, donors and exchanged samples of one factor, side by side."""
    for k in range(SAMPLES):
        for axes, image in zip(line[3 * k : 3 * k + 3], pictures[k] if k < len(pictures) else (), strict=False):
            show_image(axes, image.float().numpy())
            axes.set_xticks([])
            axes.set_yticks([])
        if k >= len(pictures):
            for axes in line[3 * k : 3 * k + 3]:
                axes.axis("off")
    line[0].set_ylabel(effect.title, fontsize=7, rotation=0, ha="right", va="center")
