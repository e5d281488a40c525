"""The studio: a local web application. Look at a run, mark what must not matter, mend the model, see what changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xaikit.studio.studio import Studio as Studio

__all__ = ["Studio"]


def __getattr__(name: str) -> Any:
    if name == "Studio":
        from xaikit.studio.studio import Studio

        return Studio
    raise AttributeError(f"module 'xaikit.studio' has no attribute {name!r}")
