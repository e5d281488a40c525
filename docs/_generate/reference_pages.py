"""The reference: a page for each room of the library, one entry for each public name, read from the source."""

from __future__ import annotations

import xaikit

ROOMS = {
    "xaikit.core": "Core",
    "xaikit.explainers": "Explainers",
    "xaikit.metrics": "Metrics",
    "xaikit.tuning": "Tuning",
    "xaikit.mitigation": "Mitigation",
    "xaikit.shortcuts": "Shortcuts",
    "xaikit.recommendation": "Recommendation",
    "xaikit.modality": "Modalities",
    "xaikit.transforms": "Transforms",
    "xaikit.runs": "Runs",
    "xaikit.report": "Report and figures",
}
# Public, but not offered by `xaikit` itself.
FURTHER = {
    "xaikit.core": ("xaikit.core.call.Call", "xaikit.core.configured.Configured", "xaikit.core.registry.Registry"),
    "xaikit.transforms": ("xaikit.transforms.Baseline", "xaikit.transforms.FeatureMask"),
    "xaikit.report": ("xaikit.report.figures.plot", "xaikit.report.figures.comparison"),
}


def navigation() -> list[str | dict[str, str]]:
    """The rooms in the order of the table above, then any new one."""
    return ["api/index.md", *({title: f"api/{_file(room)}"} for room, title in _rooms().items())]


def pages() -> dict[str, str]:
    """The reference's pages by path."""
    index = [
        "# Reference",
        "",
        "Every public name; `from xaikit import ...` gives those that are not further down a room.",
        "",
    ]
    made = {}
    for room, title in _rooms().items():
        names = [f"{room}.{name}" for name in sorted(xaikit._HOMES[room], key=str.lower)]  # noqa: SLF001
        names += FURTHER.get(room, ())
        made[f"api/{_file(room)}"] = "\n".join([f"# {title}", "", *(f"::: {name}\n" for name in names)])
        links = ", ".join(f"[`{name.rpartition('.')[2]}`][{name}]" for name in names)
        index += [f"**[{title}]({_file(room)})**: {links}", ""]
    return {"api/index.md": "\n".join(index), **made}


def _rooms() -> dict[str, str]:
    homes = xaikit._HOMES  # noqa: SLF001
    return {**{r: t for r, t in ROOMS.items() if r in homes}, **{r: r for r in homes if r not in ROOMS}}


def _file(room: str) -> str:
    return f"{room.rpartition('.')[2]}.md"
