"""What `assess` returns: accuracies, shares of changed predictions, and whether the model relies on the shortcut."""

from __future__ import annotations

import dataclasses
from typing import Any

from xaikit.core.errors import InvalidInputError
from xaikit.core.pandas_import import import_pandas
from xaikit.core.percentages import percent
from xaikit.core.results import Interval, Real, Result
from xaikit.mitigation.decoys import FLIPPED, KEPT, REMOVED
from xaikit.mitigation.reliance import RELIES, doubt_of_few, is_reliance
from xaikit.mitigation.tables import aligned

UNKNOWN = "whether it relies on the shortcut is unknown: nothing was exchanged"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Assessment(Result):
    """The result of `assess`; all values are fractions.

    Attributes:
        accuracy: over all samples, for each variant of the shortcut: "kept", "randomised", "flipped", "removed".
        groups: the same in each group.
        changed: the share of samples whose predicted class differs from that with the shortcut kept, by variant.
        mass: the share of sum |attribution| that lies in the mask, by explainer; mean over the samples with a mask.
        area: the share of the features that lie in the mask, over the same samples. Relevance that is spread evenly has
            this mass.
        samples: how many there were.
        seed: of what was random: the donors and the explainers.
        reliance: the share of predictions that change by the exchange with a sample of another class, less the share
            that change by the exchange with one of the same class; None where no donors lent the shortcut, as with a
            decoy. Where only one class shows the shortcut, for donors of that class alone; where one class relies most
            on it, for the samples of that class.
        follows: the share of predictions that change by the exchange with a sample of which the model predicts another
            class, less the share that change by the exchange with one of which it predicts the same; None as above.
        changed_by_class: as `changed`, the mean over the classes, so that a rare one counts as much as any.
    """

    accuracy: dict[str, Real]
    groups: dict[str, dict[Any, Real]]
    changed: dict[str, Real]
    mass: dict[str, Real]
    area: Real | None
    samples: int
    seed: int | None = None
    reliance: Interval | None = None
    changed_by_class: dict[str, Real] = dataclasses.field(default_factory=dict)
    follows: Interval | None = None

    @property
    def worst(self) -> dict[str, float]:
        """Accuracy in the worst group, for each variant of the shortcut."""
        return {name: min(groups.values()) for name, groups in self.groups.items()}

    @property
    def exchange(self) -> str | None:
        """What `verdict` goes by: "flipped", or without that the change that moves most predictions; None for none."""
        exchanges = [name for name in self.changed if name not in (KEPT, REMOVED)] or list(self.changed)
        if not exchanges:
            return None
        return FLIPPED if FLIPPED in exchanges else max(exchanges, key=lambda n: self.changed[n])

    @property
    def relies(self) -> bool:
        """Whether the model relies on the shortcut: more than a tenth of the predictions change by the exchange.

        It is a tenth of all samples, or where that is more the mean over the classes: of a rare one, such as the ill
        among the healthy, all predictions may change without being a tenth of all.
        Predictions of a weak model, or of one that any disturbance confuses, change by every exchange. A shortcut
        says the same in samples of one class. So the exchange with samples of the same class is a measure of the
        rest: `reliance`, what remains without it, must be above a tenth, too, and its interval above 0. Where the
        shortcut tells nothing of the label in these samples, as in a balanced test set, an exchange within a class
        changes as much. So it will do if this holds of `follows`, which asks no label.

        Raises:
            InvalidInputError: where nothing was exchanged.
        """
        if self.exchange is None:
            raise InvalidInputError(
                f"{UNKNOWN}; assess needs samples of two classes, and a factor, a decoy, or a masked region that is "
                "neither empty nor the same in all of them"
            )
        return self._moved > RELIES and (self.reliance is None or is_reliance(self.reliance) or self._by_prediction)

    @property
    def _by_prediction(self) -> bool:
        """Whether predictions follow the shortcut, which tells nothing of the label in these samples."""
        tells_label = self.reliance is None or is_reliance(self.reliance)
        return not tells_label and self.follows is not None and is_reliance(self.follows)

    @property
    def _moved(self) -> float:
        """The share of predictions that change by the exchange, over all samples or the classes, whichever is more."""
        assert self.exchange is not None
        return max(self.changed[self.exchange], self.changed_by_class.get(self.exchange, 0.0))

    @property
    def verdict(self) -> str:
        """One sentence: whether the model relies on the shortcut, and how right it is when that is exchanged."""
        name = self.exchange
        if name is None:
            return UNKNOWN
        too_few = not self.relies and self.reliance is not None and self._moved > RELIES < self.reliance.mean
        opening = "still relies on it" if self.relies else "does not rely on it"
        if too_few:
            opening = f"{self.samples} samples are too few to tell whether it relies on it"
        equally = f" ({percent(self._moved)} with every class counted equally)" if self.changed[name] <= RELIES else ""
        text = (
            f"{opening}: {percent(self.changed[name])} of predictions change when it is exchanged"
            f"{equally if self._moved > RELIES else ''}; accuracy on exchanged data {percent(self.accuracy[name])}"
        )
        if self.relies and self._by_prediction:
            text += "; they follow it, though in these samples it tells nothing of the label"
        if not too_few and not self.relies and self._moved > RELIES and self.reliance is not None:
            beyond = percent(max(0.0, self.reliance.mean))
            text += f"; about as many change by an exchange within a class ({beyond} fewer), which tells nothing"
        elif not too_few and not self.relies:
            text += doubt_of_few(self.samples)
        return text

    def row(self, *, groups: bool = False) -> dict[str, float]:
        """All measures in one line: accuracy, worst group, changed, reliance, mass, by names such as ``worst flipped``.

        "relies" is 1 where the verdict says so, else 0.

        Args:
            groups: also the accuracy in each group, by names such as ``benign flipped``.
        """
        by_group = {f"{g} {name}": v for name, values in self.groups.items() for g, v in values.items()}
        return {
            **(by_group if groups else {}),
            **{f"accuracy {name}": value for name, value in self.accuracy.items()},
            **{f"worst {name}": value for name, value in self.worst.items()},
            **{f"changed {name}": value for name, value in self.changed.items()},
            **({} if self.reliance is None else {"reliance": max(0.0, self.reliance.mean)}),
            **({} if self.exchange is None else {"relies": float(self.relies)}),
            **{f"mass {name}": value for name, value in self.mass.items()},
        }

    def to_pandas(self) -> Any:
        """One row for each variant of the shortcut: accuracy, worst group, changed, and each group.

        Raises:
            MissingDependencyError: where pandas is absent.
        """
        pd = import_pandas()
        worst = self.worst
        rows = {
            name: {"accuracy": value, "worst": worst[name], "changed": self.changed.get(name, 0.0), **self.groups[name]}
            for name, value in self.accuracy.items()
        }
        return pd.DataFrame.from_dict(rows, orient="index")

    def __repr__(self) -> str:
        lines = [["shortcut", "accuracy", "worst group", "changed"]]
        for name, value in self.accuracy.items():
            groups = self.groups[name]
            worst = min(groups, key=lambda group: groups[group])
            changed = percent(self.changed[name]) if name in self.changed else ""
            lines.append([name, percent(value), f"{percent(groups[worst])} ({worst})", changed])
        text = [f"Assessment of {self.samples} samples", self.verdict, *aligned(lines)]
        if self.mass:
            shares = ", ".join(f"{name} {percent(value)}" for name, value in self.mass.items())
            text.append(f"relevance in the mask, {percent(self.area or 0.0)} of the features: {shares}")
        return "\n".join(text)
