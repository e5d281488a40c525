"""Template: a prompt with slots, so that an explanation can tell what each document or example contributed."""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

from xaikit.core.errors import InvalidInputError, InvalidTypeError

Slot = tuple[str, int, int]


class Template:
    r"""A prompt with named slots; a slot with a list holds one unit for each item.

    Args:
        text: the prompt with the names of its slots in braces, as for `str.format`.
        separator: stands between the items of a list.
        slots: the text of each slot, or a list of texts, such as retrieved documents or few-shot examples.

    Raises:
        InvalidInputError: for a slot without text, or text without a slot.
        InvalidTypeError: for a slot that is not text.

    >>> template = Template("{documents} Question: {question}", documents=["A.", "B."], question="Why?")
    >>> template.text
    'A.\n\nB. Question: Why?'
    >>> template.slots
    [('documents 1', 0, 2), ('documents 2', 4, 6), ('question', 17, 21)]
    """

    def __init__(self, text: str, *, separator: str = "\n\n", **slots: str | Sequence[str]) -> None:
        try:
            parts = list(string.Formatter().parse(text))
        except ValueError as error:
            raise InvalidInputError(
                f"the template cannot be read: {error}; write a brace twice where it is meant"
            ) from None
        names = [name for _, name, _, _ in parts if name is not None]
        if sorted(names) != sorted(slots):
            raise InvalidInputError(
                f"the template has the slots {sorted(names)}, and texts came for {sorted(slots)}; each slot stands once"
            )
        self.text = ""
        self.slots: list[Slot] = []
        for literal, name, _, _ in parts:
            self.text += literal
            if name is not None:
                self._fill(name, slots[name], separator)

    def _fill(self, name: str, content: Any, separator: str) -> None:
        items = [content] if isinstance(content, str) else content
        if not isinstance(items, Sequence) or not all(isinstance(item, str) for item in items):
            raise InvalidTypeError(f"slot {name!r} takes a text or a list of texts, got {content!r}")
        for i, item in enumerate(items):
            self.text += separator if i else ""
            start = len(self.text)
            self.text += item
            label = name if isinstance(content, str) else f"{name} {i + 1}"
            if item:
                self.slots.append((label, start, len(self.text)))

    def __repr__(self) -> str:
        return f"Template({self.text!r}, slots {[name for name, _, _ in self.slots]})"
