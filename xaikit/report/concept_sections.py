"""Sections of a report about the channels of a layer: a concept atlas."""

from __future__ import annotations

from collections import Counter

from xaikit.core.percentages import percent
from xaikit.report.concept_figures import concept_atlas_figure
from xaikit.report.html import Picture, Table
from xaikit.report.names import Names
from xaikit.shortcuts import ConceptAtlas


def concept_sections(
    atlas: ConceptAtlas, names: Names | None = None, *, title: str = "Concept atlas"
) -> list[Table | Picture]:
    """Crops of the samples that each channel stands for, and a table of the classes among them.

    Args:
        atlas: what `concept_atlas` returned.
        names: of the classes.
        title: of the picture, and before that of the table.

    Returns:
        A picture and a table.
    """
    names = names or Names()
    rows = []
    for k, channel in enumerate(atlas.channels):
        classes = Counter(names.of_class(c if c >= 0 else None) for c in atlas.classes[k].tolist())
        listed = ", ".join(f"{name} ({n})" for name, n in classes.most_common() if name)
        numbers = ", ".join(map(str, atlas.samples[k].tolist()))
        row = {"channel": channel, "share": atlas.shares[k], "samples": numbers}
        rows.append({**row, "their classes": listed} if listed else row)
    channels = ", ".join(
        f"{channel} ({percent(share)})" for channel, share in zip(atlas.channels, atlas.shares, strict=True)
    )
    description = (
        f"Channels of layer {atlas.layer} with the share of the relevance that passes them: {channels}. Beside each "
        f"are crops of the {atlas.samples.shape[1]} samples in which it has most; the rest is under a grey veil."
    )
    note = (
        f"The channels of layer {atlas.layer} whose relevance has the largest mean size over the data, as a part of "
        "that of all channels, and the samples in which it is largest."
    )
    return [
        Picture(title, concept_atlas_figure(atlas), description),
        Table(f"{title}: channels", rows, note),
    ]
