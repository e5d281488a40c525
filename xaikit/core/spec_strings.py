"""The grammar of spec strings: ``name:key=value,key=[1,2],key=(name:key=value,key=value)``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from xaikit.core.errors import InvalidInputError
from xaikit.core.setting_json import ITEMS

WORDS = {"None": None, "none": None, "True": True, "False": False}


def from_text(text: str) -> Any:
    """The value that a text in a spec string means: a JSON value, else the text itself.

    Args:
        text: what stands behind ``key=``.
    """
    if text in WORDS:
        return WORDS[text]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``"name:key=value,key=[1,2]"`` into the name and the settings (JSON values, else strings).

    Args:
        text: a spec string.

    Raises:
        InvalidInputError: for a text of another form.
    """
    name, texts = split_spec(text)
    return name, {key: from_text(value) for key, value in texts.items()}


def split_spec(text: str) -> tuple[str, dict[str, str]]:
    """Split ``"name:key=value,key=[1,2]"`` into the name and the settings as they are written.

    Args:
        text: a spec string.

    Raises:
        InvalidInputError: for a text of another form.
    """
    name, _, arguments = text.partition(":")
    texts: dict[str, str] = {}
    for item in parts_between_commas(arguments) if arguments else ():
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise InvalidInputError(f"a spec reads 'name:key=value,key=value', got {text!r} (at {item!r})")
        if key.strip() in texts:
            raise InvalidInputError(f"a spec names each setting once, got {key.strip()!r} twice in {text!r}")
        texts[key.strip()] = value.strip()
    return name.strip(), texts


def nested(text: str) -> str:
    """A spec inside a spec, without the parentheses that keep its commas apart: ``of=(position:position=-1,index=5)``.

    Args:
        text: what stands behind ``key=``.
    """
    return text[1:-1].strip() if text.startswith("(") and text.endswith(")") and ":" in text else text


def parts_between_commas(text: str) -> Iterator[str]:
    """The parts of a text between commas that stand in no brackets.

    Args:
        text: of a spec string, or of a list in one.
    """
    depth, start = 0, 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth <= 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]


def target_text(spec: Any) -> str:
    """A target's spec as a spec string: "position:position=-1,index=5"; a class as its number.

    Args:
        spec: a number, or a dict of name and settings.

    >>> target_text({"name": "position", "settings": {"position": -1, "index": 5}})
    'position:position=-1,index=5'
    >>> target_text({"name": "probability", "settings": {"of": {"name": "position", "settings": {"index": 5}}}})
    'probability:of=position:index=5'
    """
    if not isinstance(spec, Mapping) or "name" not in spec:
        return str(spec)
    settings = {name: value for name, value in spec.get("settings", {}).items() if value is not None}
    if spec["name"] == "class":
        return str(settings.get("index", 0))
    written = ",".join(f"{name}={_value_text(value)}" for name, value in settings.items())
    return f"{spec['name']}:{written}" if written else str(spec["name"])


def _value_text(value: Any) -> str:
    if isinstance(value, Mapping) and set(value) == {ITEMS}:
        value = dict(value[ITEMS])
    if isinstance(value, Mapping) and "name" not in value:
        return "{" + ", ".join(f'"{key}": {target_text(part)}' for key, part in value.items()) + "}"
    if isinstance(value, (list, Mapping)) and "name" not in value:
        return "..."  # a mask
    text = target_text(value)
    return f"({text})" if "," in text else text
