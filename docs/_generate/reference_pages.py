"""The reference: a page for each room of the library, one entry for each public name, read from the source."""

from __future__ import annotations

import importlib
import inspect

ROOMS = {
    "xaikit.core": "Core",
    "xaikit.explainers": "Explainers",
    "xaikit.explainers.interactions": "Interactions",
    "xaikit.metrics": "Metrics",
    "xaikit.tuning": "Tuning",
    "xaikit.mitigation": "Mitigation",
    "xaikit.factors": "Factors",
    "xaikit.shortcuts": "Shortcuts",
    "xaikit.influence": "Influence of training samples",
    "xaikit.language": "Generated text",
    "xaikit.recommendation": "Recommendation",
    "xaikit.modality": "Modalities",
    "xaikit.transforms": "Transforms",
    "xaikit.runs": "Runs",
    "xaikit.report": "Report and figures",
}
# Public, but not offered by a room itself, or under a longer name.
FURTHER = {
    "xaikit.core": ("xaikit.core.call.Call", "xaikit.core.configured.Configured", "xaikit.core.registry.Registry"),
    "xaikit.transforms": ("xaikit.transforms.Baseline", "xaikit.transforms.FeatureMask"),
    "xaikit.report": ("xaikit.report.figures.plot", "xaikit.report.figures.comparison"),
}


def navigation() -> list[str | dict[str, str]]:
    """The rooms in the order of the table above."""
    return ["api/index.md", *({title: f"api/{_file(room)}"} for room, title in ROOMS.items())]


def pages() -> dict[str, str]:
    """The reference's pages by path."""
    index = [
        "# Reference",
        "",
        "Every public name by its subpackage. The names that are used most can also be imported from `xaikit` itself.",
        "",
    ]
    made = {}
    for room, title in ROOMS.items():
        names = _names(room)
        made[f"api/{_file(room)}"] = "\n".join([f"# {title}", "", *(f"::: {name}\n" for name in names)])
        links = ", ".join(f"[`{name.rpartition('.')[2]}`][{name}]" for name in names)
        index += [f"**[{title}]({_file(room)})**: {links}", ""]
    return {"api/index.md": "\n".join(index), **made}


def _names(room: str) -> list[str]:
    """The full names of what a room offers; `FURTHER` has those that the site knows by another one."""
    further = FURTHER.get(room, ())
    elsewhere = {name.rpartition(".")[2] for name in further}
    module = importlib.import_module(room)
    public = [n for n in module.__all__ if n not in elsewhere and not inspect.ismodule(getattr(module, n))]
    return [*(f"{room}.{name}" for name in sorted(public, key=str.lower)), *further]


def _file(room: str) -> str:
    return f"{room.rpartition('.')[2]}.md"
