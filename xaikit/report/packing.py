"""Texts packed into few letters that can stand in a page: deflated, thirteen bits in two letters.

`page/packed.js` unpacks them. The letters are ASCII, so a browser keeps a byte for each, whatever the text holds;
base64 of what is deflated would take a twelfth more.
"""

from __future__ import annotations

import zlib

import numpy as np

BITS = 13  # of two letters: 92 * 92 > 2 ** 13
LETTERS = np.array([c for c in range(ord("!"), ord("~") + 1) if chr(c) not in "&<"], np.uint8)


def packed(text: str) -> str:
    """A text in letters from "!" to "~" without "&" and "<".

    Args:
        text: any; it is stored in UTF-8, behind its length in bytes (4 bytes, the highest first).

    >>> len(packed("<p>word</p>" * 1000)) < 120
    True
    """
    content = text.encode()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    stored = len(content).to_bytes(4, "big") + deflate.compress(content) + deflate.flush()
    bits = np.unpackbits(np.frombuffer(stored, np.uint8))
    rows = np.concatenate([bits, np.zeros(-len(bits) % BITS, np.uint8)]).reshape(-1, BITS)
    numbers = rows @ (1 << np.arange(BITS)[::-1])
    return LETTERS[np.stack(np.divmod(numbers, len(LETTERS)), 1).reshape(-1)].tobytes().decode("ascii")
