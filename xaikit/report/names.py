"""Names of classes, columns and tokens, for figures and reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Names:
    """Names for figures and reports; each may be left out.

    Attributes:
        classes: names of the classes, by index.
        features: names of the columns of a table, or of the channels of a series.
        tokens: a function from the token ids (T,) of a sample to T strings.
        padding: the string that `tokens` gives for the padding token. At the end of a text it is shown once, with the
            number of padding tokens and the sum of their relevance, or not at all if they have none.
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
