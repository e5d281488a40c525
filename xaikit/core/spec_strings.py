"""The grammar of spec strings: ``name:key=value,key=[1,2]``."""

from __future__ import annotations

import json
import re
from typing import Any

from xaikit.core.errors import InvalidInputError

WORDS = {"None": None, "none": None, "True": True, "False": False}


def from_text(text: str) -> Any:
    """The value that a word in a spec string means: a JSON value, else the word itself."""
    if text in WORDS:
        return WORDS[text]
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def parse_spec(text: str) -> tuple[str, dict[str, Any]]:
    """Split ``"name:key=value,key=[1,2]"`` into the name and the settings (JSON values, else strings)."""
    name, words = split_spec(text)
    return name, {key: from_text(word) for key, word in words.items()}


def split_spec(text: str) -> tuple[str, dict[str, str]]:
    """Split ``"name:key=value,key=[1,2]"`` into the name and the settings as they are written.

    Raises:
        InvalidInputError: for a text of another form.
    """
    name, _, rest = text.partition(":")
    words: dict[str, str] = {}
    for item in re.split(r",(?![^\[{(]*[\]})])", rest) if rest else ():
        key, equals, word = item.partition("=")
        if not equals or not key.strip():
            raise InvalidInputError(f"a spec reads 'name:key=value,key=value', got {text!r} (at {item!r})")
        words[key.strip()] = word.strip()
    return name.strip(), words
