"""Text that a terminal may show: names of files can hold line breaks and codes that move the cursor."""

from __future__ import annotations


def printable(text: str, *, lines: bool = False) -> str:
    r"""A text in which what cannot be printed is written out.

    Args:
        text: a message, perhaps with names from elsewhere in it.
        lines: line breaks and tabs stay.

    >>> printable("red\x1b[31m.png")
    'red\\x1b[31m.png'
    """
    stay = "\n\t" if lines else ""
    return "".join(c if c.isprintable() or c in stay else repr(c)[1:-1] for c in text)
