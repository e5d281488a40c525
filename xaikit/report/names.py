"""What a reader calls things: classes, columns, tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Names:
    """What to call things; each may be left out.

    Attributes:
        classes: of the classes, by index.
        features: of the columns of a table, or of the channels of a series.
        tokens: a function of a sample's token ids (T,) that gives T strings.
        padding: what that calls the token that fills a text up; at the end of a text it is shown once, with its number
            and its sum, and not at all where it has no relevance.
    """

    classes: Sequence[str] = ()
    features: Sequence[str] = ()
    tokens: Callable[[Sequence[int]], Sequence[str]] | None = None
    padding: str = ""

    def of_class(self, index: int | None) -> str:
        """The name of a class, or its number where it has none.

        Args:
            index: of the class; None gives an empty text.
        """
        if index is None:
            return ""
        return str(self.classes[index]) if 0 <= index < len(self.classes) else str(index)
