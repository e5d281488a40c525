"""What `scan` returns: how much the predictions follow each factor."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import Tensor

from xaikit.core.errors import UnknownNameError, near_names
from xaikit.core.pandas_import import import_pandas
from xaikit.core.percentages import percent
from xaikit.core.registries import FACTORS
from xaikit.core.results import Interval, Real, Result
from xaikit.mitigation.tables import aligned

SUSPECT = 0.1  # share of predictions that follow a nuisance, above which it is a suspect
LEVEL = 0.95


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Effect(Result):
    """What the exchange of one factor with samples of other classes does to the predictions.

    Attributes:
        title: the factor's name for people.
        spec: the factor, as `Factor.spec` gives it; `factor` is the object.
        nature: "nuisance", which should not matter, or "content", which may.
        changed: share of predictions that change.
        follows: share of predictions that become the donor's class, less the share that become that class when the
            donor is of the sample's own class: what is left when mere damage is taken off. Classes are those that the
            model predicts.
        leading_class: the class of the donors that are followed most.
        leads: `follows` for donors of this class alone; its interval allows for the choice among the classes
            of all factors.
        accuracy: share of right predictions on exchanged samples.
        lost: accuracy of the samples as they are, less that.
        worst_class: the class with the lowest accuracy on exchanged samples.
        worst_accuracy: this accuracy.
        size: share of a sample's numbers that the exchange alters, mean over the samples.
        changed_samples: the numbers of the samples whose prediction changes, in the order of the data.
    """

    title: str
    spec: dict[str, Any]
    nature: str
    changed: Interval
    follows: Interval
    leading_class: int
    leads: Interval
    accuracy: Real
    lost: Real
    worst_class: int
    worst_accuracy: Real
    size: Real
    changed_samples: tuple[int, ...] = ()

    @property
    def factor(self) -> Any:
        """The factor itself."""
        return FACTORS.create(self.spec)

    @property
    def is_suspect(self) -> bool:
        """Whether it should not matter and is followed by more than a tenth of the predictions, the interval's low end.

        What only one class shows, such as a patch on some images of it, is followed by few predictions altogether, so
        the class that leads most counts by itself, too.
        """
        return self.nature == "nuisance" and self.strength > SUSPECT

    @property
    def rank(self) -> tuple[int, float, float]:
        """For sorting: suspects, then content that is followed, then the rest.

        Within these the factor that is followed most comes first; of those that are followed alike, the smaller one.
        """
        place = 0 if self.is_suspect else 1 if self.nature == "content" and self.strength > SUSPECT else 2
        return (place, -round(max(self.follows.mean, self.strength), 2), self.size)

    @property
    def strength(self) -> float:
        """The larger low end of `follows` and `leads`."""
        return max((i.low for i in (self.follows, self.leads) if not math.isnan(i.low)), default=0.0)

    def sentence(self, class_names: Any = None) -> str:
        """Such as "67 % of predictions follow the hue".

        Args:
            class_names: names of the classes by number; None shows the numbers.
        """
        if self.follows.low > SUSPECT or self.follows.mean >= self.leads.mean:
            return f"{percent(self.follows.mean, 0)} of predictions follow the {self.title}"
        name = self.leading_class if class_names is None else class_names[self.leading_class]
        return f"{percent(self.leads.mean, 0)} of predictions follow the {self.title} of class {name}"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Scan(Result):
    """What `scan` measured: the factors, the one that is followed most first.

    Attributes:
        effects: one for each factor.
        kind: of the data, such as "image".
        accuracy: share of right predictions on the samples as they are.
        samples: how many there were.
        seed: of the pairing with donors.
        model: what was scanned, for people, such as the file of its weights; empty where nobody named it.
        pictures: by title, for the first factors, some samples (k, 3, ...): as it is, donor, exchanged. Not saved.
    """

    effects: tuple[Effect, ...]
    kind: str
    accuracy: Real
    samples: int
    seed: int = 0
    model: str = ""
    pictures: dict[str, Tensor] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def suspects(self) -> tuple[Effect, ...]:
        """The factors that should not matter and do."""
        return tuple(effect for effect in self.effects if effect.is_suspect)

    @property
    def verdict(self) -> str:
        """The conclusion in a sentence or two."""
        return self.conclusion()

    def conclusion(self, class_names: Any = None) -> str:
        """The verdict, with names of classes.

        Args:
            class_names: names of the classes by number; None shows the numbers.
        """
        suspects = self.suspects
        if suspects:
            first = f"suspect: {suspects[0].sentence(class_names)}"
            others = ", ".join(effect.title for effect in suspects[1:])
            text = f"{first}; also suspect: {others}" if others else first
        else:
            text = "no suspect: no factor that should not matter is followed by more than 10 % of predictions"
        undecided = [
            e.title for e in self.effects if e.nature == "nuisance" and e.follows.low <= SUSPECT < e.follows.high
        ]
        undecided = [title for title in undecided if title not in {e.title for e in suspects}]
        if undecided:
            text += f"; {self.samples} samples are too few to tell of: {', '.join(undecided)}"
        content = next((e for e in self.effects if e.nature == "content" and e.strength > SUSPECT), None)
        judge = f"; to judge for yourself: {content.sentence(class_names)}" if content is not None else ""
        return text + judge

    def __getitem__(self, title: str) -> Effect:
        """The effect of a factor by its title.

        Raises:
            UnknownNameError: for a factor that was not measured.
        """
        by_title = {effect.title: effect for effect in self.effects}
        if title not in by_title:
            raise UnknownNameError(f"no factor {title!r} was measured{near_names(title, by_title)}")
        return by_title[title]

    def to_pandas(self) -> Any:
        """One row for each factor, by its title.

        Raises:
            MissingDependencyError: where pandas is absent.
        """
        rows = {
            effect.title: {
                "nature": effect.nature,
                "suspect": effect.is_suspect,
                "follows": effect.follows.mean,
                "follows low": effect.follows.low,
                "follows high": effect.follows.high,
                "leading class": effect.leading_class,
                "leads": effect.leads.mean,
                "changed": effect.changed.mean,
                "accuracy": effect.accuracy,
                "lost": effect.lost,
                "worst class": effect.worst_class,
                "worst accuracy": effect.worst_accuracy,
                "size": effect.size,
            }
            for effect in self.effects
        }
        return import_pandas().DataFrame.from_dict(rows, orient="index")

    def table(self, class_names: Any = None, most: int | None = None) -> list[str]:
        """Lines of text, the heading first.

        Args:
            class_names: names of the classes by number; None shows the numbers.
            most: factors that are shown; None: all.
        """
        lines = [["factor", "follow it", "change", "accuracy", "worst class", "nature"]]
        for effect in self.effects[:most]:
            worst = effect.worst_class if class_names is None else class_names[effect.worst_class]
            ends = f"[{round(100 * effect.follows.low)}, {round(100 * effect.follows.high)}]"
            lines.append(
                [
                    effect.title,
                    f"{percent(effect.follows.mean)} {ends}",
                    percent(effect.changed.mean),
                    percent(effect.accuracy),
                    f"{percent(effect.worst_accuracy)} ({worst})",
                    f"{effect.nature}, suspect" if effect.is_suspect else effect.nature,
                ]
            )
        return aligned(lines)

    def plot(self) -> Any:
        """A figure: the share of predictions that follow each factor, and pictures of exchanged samples."""
        from xaikit import upward

        return upward.load("scans").scan_figure(self)

    def __repr__(self) -> str:
        head = f"Scan of {self.samples} samples, accuracy {percent(self.accuracy)}"
        more = [f"and {len(self.effects) - 12} more"] if len(self.effects) > 12 else []
        return "\n".join([head, self.verdict, *self.table(most=12), *more])
