"""`xaikit list`: everything that is registered, with its settings."""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from xaikit.cli.job import Job, argument

if TYPE_CHECKING:
    from xaikit.core import Configured, Registry
    from xaikit.core.configured import Setting


class List(Job):
    """List explainers, metrics, mitigators, factors, transforms, modalities; with a name also settings and sources.

    Without a name the items of each kind are listed by name. A star marks the settings that xaikit tune searches, with
    the range.

    \b
    Examples:
      xaikit list
      xaikit list metrics
      xaikit list vargrad --json
    """  # noqa: D301

    VERB = "list"

    name: str = argument("", metavar="[NAME]", help="A kind, such as metrics or baselines, or the name of one item.")

    def run(self) -> int:
        """Print the items of a registry, or one of them."""
        by_kind = _select(self.name)
        described = {kind: [_describe(cls) for cls in classes] for kind, classes in by_kind.items()}
        if self.name:
            text = "\n".join(_section(kind, classes) for kind, classes in by_kind.items())
        else:
            text = _overview({kind: [item["name"] for item in items] for kind, items in described.items()})
        self.tell(text, **described)
        return 0


def _section(kind: str, classes: list[type[Configured]]) -> str:
    base = _base(classes[0])
    several = len(classes) > 1
    lines = [f"{kind}:", *(_block(_describe(cls), without=base.SETTINGS if several else ()) for cls in classes)]
    if several and base.SETTINGS:
        lines.append(f"  every one of these {kind} also takes\n" + _settings(_describe(base)["settings"]))
    return "\n".join([*lines, ""])


def _overview(names: dict[str, list[str]]) -> str:
    """The names of each kind, and how to see more."""
    lines = []
    for kind, items in names.items():
        lines.append(f"{len(items)} {kind.replace('_', ' ')}:")
        lines += textwrap.wrap(", ".join(items), 100, initial_indent="  ", subsequent_indent="  ")
    example = names["explainers"][0]
    lines.append(f"Settings and sources: xaikit list explainers, or of one item: xaikit list {example}")
    return "\n".join(lines)


def _registries() -> dict[str, Registry]:
    from xaikit import core

    return {
        "explainers": core.EXPLAINERS,
        "metrics": core.METRICS,
        "mitigators": core.MITIGATORS,
        "factors": core.FACTORS,
        "baselines": core.BASELINES,
        "feature_masks": core.FEATURE_MASKS,
        "poolings": core.POOLINGS,
        "normalizations": core.NORMALIZATIONS,
        "modalities": core.MODALITIES,
    }


def _select(name: str) -> dict[str, list[type[Configured]]]:
    from xaikit.core.errors import UnknownNameError, near_names

    registries = _registries()
    if name in registries or not name:
        return {kind: [r.get(n) for n in r] for kind, r in registries.items() if name in ("", kind)}
    by_kind = {kind: [r.get(name)] for kind, r in registries.items() if name in r}
    if not by_kind:
        choices = [*registries, *(n for r in registries.values() for n in r)]
        raise UnknownNameError(f"nothing is called {name!r}{near_names(name, choices)}")
    return by_kind


def _base(cls: type[Configured]) -> type[Configured]:
    """The base class of all items of a kind."""
    from xaikit.core import Configured

    return [c for c in cls.__mro__ if issubclass(c, Configured) and c is not Configured][-1]


def _describe(cls: type[Configured]) -> dict[str, Any]:
    summary = (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")
    source = re.search(r"\s*\(([^()]*\b\d{4}\b[^()]*)\)", summary)
    item = {
        "name": cls.NAME,
        "class": f"{cls.__module__}.{cls.__qualname__}",
        "summary": summary.replace(source[0], "") if source else summary,
        "source": source[1] if source else None,
        "settings": {name: _setting(setting) for name, setting in cls.SETTINGS.items()},
    }
    for trait in ("DIFFERENTIABLE", "DIRECTION"):
        if hasattr(cls, trait):
            item[trait.lower()] = getattr(cls, trait)
    return item


def _setting(setting: Setting) -> dict[str, Any]:
    from xaikit.core.configured import REQUIRED

    spec, required = setting.spec, setting.default is REQUIRED
    default = None if required else setting.default
    low, high = getattr(spec, "low", None), getattr(spec, "high", None)
    return {
        "default": default if default is None or isinstance(default, (bool, int, float, str)) else repr(default),
        "required": required,
        "tunable": spec is not None and spec.tunable,
        "choices": list(getattr(spec, "choices", ())) or None,
        "range": None if low is None else [low, high],
        "meaning": setting.doc,
    }


def _block(item: dict[str, Any], without: Collection[str]) -> str:
    differentiable = {None: None, True: "differentiable", False: "not differentiable"}[item.get("differentiable")]
    traits = [differentiable, item.get("direction"), item["source"]]
    trait_list = "; ".join(trait for trait in traits if trait)
    heading = f"  {item['name']}  [{trait_list}]" if trait_list else f"  {item['name']}"
    own_settings = {name: setting for name, setting in item["settings"].items() if name not in without}
    return "\n".join([heading, f"      {item['summary']}", *([_settings(own_settings)] if own_settings else [])])


def _settings(settings: dict[str, Any]) -> str:
    lines = []
    for name, setting in settings.items():
        values = " | ".join(map(str, setting["choices"] or ()))
        values = "{:g} .. {:g}".format(*setting["range"]) if setting["range"] else values
        star = "*" if setting["tunable"] else " "
        default = " (required)" if setting["required"] else f"={setting['default']}"
        lines.append(f"    {star} {name}{default}{f' ({values})' if values else ''}: {setting['meaning']}")
    return "\n".join(lines)
