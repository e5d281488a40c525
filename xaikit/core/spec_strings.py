"""The grammar of spec strings: ``name:key=value,key=[1,2]``."""

from __future__ import annotations

import json
import re
from typing import Any

from xaikit.core.errors import InvalidInputError

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
    for item in re.split(r",(?![^\[{(]*[\]})])", arguments) if arguments else ():
        key, equals, value = item.partition("=")
        if not equals or not key.strip():
            raise InvalidInputError(f"a spec reads 'name:key=value,key=value', got {text!r} (at {item!r})")
        texts[key.strip()] = value.strip()
    return name.strip(), texts
