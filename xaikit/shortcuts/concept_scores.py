"""What TCAV returns: for each concept, layer and class a score, and whether it differs from that of random vectors."""

from __future__ import annotations

import dataclasses
from typing import Any

from xaikit import upward
from xaikit.core.errors import InvalidInputError
from xaikit.core.pandas_import import import_pandas
from xaikit.core.results import Real, Result


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ConceptScore(Result):
    """A concept at a layer, for a class.

    Attributes:
        concept: its name.
        layer: name of the layer.
        target: the class; of several targets each by its text; None for one target that is no class.
        score: the share of the samples whose score grows along the concept's vector, the mean over the random sets.
        deviation: standard deviation of that share over the random sets.
        p: of a two-sided Welch test of `part_scores` against `random_scores`.
        p_adjusted: p times the number of concepts, at most 1 (Bonferroni).
        accuracy: how often held-out examples are told from random samples by the vector; 0.5 says that the layer does
            not know the concept.
        part_scores: of vectors of disjoint parts of the examples, each against another random set.
        random_scores: of vectors of as many samples of a random set against another one.
        samples: how many samples were explained.
    """

    concept: str
    layer: str
    target: int | str | None
    score: float
    deviation: float
    p: Real
    p_adjusted: Real
    accuracy: float
    part_scores: tuple[float, ...]
    random_scores: tuple[float, ...]
    samples: int

    def row(self) -> dict[str, Any]:
        """The numbers as a row of a table."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if not f.name.endswith("scores")}


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ConceptScores(Result):
    """The scores of all concepts, layers and classes.

    Attributes:
        rows: layer by layer, concept by concept, class by class.
        method: how the vectors were fitted.
    """

    rows: tuple[ConceptScore, ...]
    method: str

    def significant(self, level: float = 0.05) -> list[ConceptScore]:
        """The rows whose adjusted p is below a level, the smallest first.

        Args:
            level: such as 0.05.

        Raises:
            InvalidInputError: for a level that is not between 0 and 1.
        """
        if not 0 < level < 1:
            raise InvalidInputError(f"level must be between 0 and 1, got {level!r}")
        return sorted((row for row in self.rows if row.p_adjusted < level), key=lambda row: row.p_adjusted)

    def to_pandas(self) -> Any:
        """A table with a row for each concept, layer and class.

        Raises:
            MissingDependencyError: without pandas.
        """
        return import_pandas().DataFrame([row.row() for row in self.rows])

    def plot(self, level: float = 0.05) -> Any:
        """Bars of the scores with their deviations, as a matplotlib figure; pale where they are not significant.

        Args:
            level: of the adjusted p.
        """
        return upward.load("concept_figures").concept_scores_figure(self, level)

    def __repr__(self) -> str:
        concepts = {row.concept for row in self.rows}
        n = len(self.significant())
        return f"ConceptScores({len(concepts)} concepts, {len(self.rows)} scores, {n} significant at 0.05)"
