"""How a share is written for people."""

from __future__ import annotations


def percent(share: float, digits: int = 1) -> str:
    """``0.123`` as ``12.3 %``.

    Args:
        share: a fraction.
        digits: behind the point.
    """
    return f"{100 * share:.{digits}f} %"
