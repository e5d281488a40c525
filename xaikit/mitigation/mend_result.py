"""What `mend` returns: the model, what was tried, and what came of it, in figures and in a sentence."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from torch import nn

from xaikit.core.pandas_import import import_pandas
from xaikit.core.percentages import percent
from xaikit.core.results import Real, Result, Stopped
from xaikit.core.spec_strings import split_spec
from xaikit.mitigation.assessment import Assessment
from xaikit.mitigation.reliance import RELIES, doubt_of_few
from xaikit.mitigation.tables import aligned

OF_TRAINING = ("lr", "lr_schedule", "n_epochs", "batch_size", "patience", "random_state")
ROUNDING = 1e-9  # of a difference of two shares
# The name of the shortcut in a result if only groups are known, and not where it lies.
GROUPS_TITLE = "the groups"


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MendTry(Result):
    """One training of `mend`, measured on held-out samples; accuracies and shares are fractions.

    Attributes:
        method: the mitigator as a spec string; "unchanged" for the model as it came.
        accuracy_kept: with the shortcut as it is.
        accuracy_exchanged: with that of a sample of another class.
        changed: predictions that change by this.
        epochs: that were trained.
        seconds: that it took.
        note: what was noticed, such as a collapse to one class; empty where all is well.
        changed_within: predictions that change with the shortcut of another sample of the same class.
        worst_group: accuracy in the worst group, with the shortcut exchanged where there is one; NaN without groups.
        reliance_by_class: `changed` less `changed_within`, the mean over the classes: a rare one counts as much.
        follows: predictions that change by the exchange with a sample of another predicted class, less those that
            change by the exchange with one of the same; 0 where that may be chance.
    """

    method: str
    accuracy_kept: Real
    accuracy_exchanged: Real
    changed: Real
    epochs: int = 0
    seconds: Real = 0.0
    note: str = ""
    changed_within: Real = 0.0
    worst_group: Real = math.nan
    reliance_by_class: Real = 0.0
    follows: Real = 0.0

    @property
    def relies(self) -> bool:
        """Whether more predictions change by the shortcut of another class than by that of one's own, by a tenth.

        Where the shortcut tells nothing of the label in the held-out samples: by that of another predicted class.
        """
        beyond = max(self.changed - self.changed_within, self.reliance_by_class)
        return beyond > RELIES or (self.changed > RELIES and self.follows > RELIES)

    @property
    def score(self) -> float:
        """What a try is chosen by: the accuracy with the shortcut exchanged; where groups are known in the worst."""
        return self.accuracy_exchanged if math.isnan(self.worst_group) else self.worst_group


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class MendResult(Result):
    """What `mend` found.

    Attributes:
        shortcut: what must not matter, in words.
        method: the mitigator that was chosen, as a spec string; "unchanged" where no training was better.
        tries: the model as it came, then each training in its order.
        before: the model as it came, assessed on the held-out samples.
        after: the chosen model, likewise; None for a concept.
        max_loss: of accuracy with the shortcut kept, that was allowed.
        stopped: why no more was tried: "done" (a good one was found), "exhausted" (all methods were tried),
            "out_of_time" (the budget is used up), "interrupted" (by Ctrl-C).
        seed: of what is random.
        added: factors beside the named one that the model relied on, which were exchanged with it.
        remaining: factors that often change with the shortcut and that the chosen model still relies on.
        from_scratch: whether each training began with untrained weights.
        model: the chosen model, a copy; the user's own is unchanged. Not saved.
    """

    shortcut: str
    method: str
    tries: list[MendTry]
    before: Assessment | None
    after: Assessment | None
    max_loss: float
    stopped: Stopped = Stopped.DONE
    seed: int = 0
    added: list[str] = dataclasses.field(default_factory=list)
    remaining: list[str] = dataclasses.field(default_factory=list)
    from_scratch: bool = False
    model: nn.Module | None = dataclasses.field(default=None, compare=False)

    @property
    def chosen(self) -> MendTry:
        """The row of the chosen model."""
        return next(row for row in reversed(self.tries) if row.method == self.method)

    @property
    def relies(self) -> bool:
        """Whether the chosen model still relies on the shortcut, or on a factor that often changes with it.

        Where only groups are known: whether the worst of them is more than a tenth below the accuracy over all.
        """
        if self._by_groups_alone:
            return self.chosen.accuracy_kept - self.chosen.worst_group > RELIES
        return self._on_shortcut or bool(self.remaining)

    @property
    def _on_shortcut(self) -> bool:
        return self.after.relies if self.after is not None else self.chosen.relies

    @property
    def _by_groups_alone(self) -> bool:
        return self.shortcut == GROUPS_TITLE

    @property
    def verdict(self) -> str:
        """What came of it, in one sentence, or two where there is a doubt."""
        first, last = self.tries[0], self.chosen
        if self._by_groups_alone:
            return self._of_groups(first, last)
        if self.method == "unchanged" and not self.relies:
            return (
                f"nothing to mend: {percent(first.changed)} of predictions change with {self.shortcut} exchanged; "
                f"accuracy on exchanged data {percent(first.accuracy_exchanged)}{self._doubt}"
            )
        lost = first.accuracy_kept - last.accuracy_kept
        opening = "does not rely on it any more: "
        if lost > RELIES:
            opening = f"does not rely on it any more, but is {100 * lost:.1f} points less right with it kept: "
        if self.relies:
            often = "which often change with it" if len(self.remaining) > 1 else "which often changes with it"
            companions = f"on the {' and the '.join(self.remaining)}, {often}"
            opening = "still relies on it: " if self._on_shortcut else f"relies {companions}: "
        if last.note:
            opening = f"not mended: {last.note}. "
        text = (
            f"{opening}{_changed(first)} of predictions changed with {self.shortcut} exchanged, now "
            f"{_changed(last)}; accuracy on exchanged data {percent(first.accuracy_exchanged)} before, now "
            f"{percent(last.accuracy_exchanged)}, with it kept {percent(first.accuracy_kept)} before, now "
            f"{percent(last.accuracy_kept)}"
        )
        if not math.isnan(last.worst_group):
            text += (
                f", in the worst group with it exchanged {percent(first.worst_group)}, now {percent(last.worst_group)}"
            )
        if self.relies and "n_epochs=" not in last.note:
            text += f"; try {self._advice()}"
        text += self._doubt
        if self.added:
            exchanged = "they were exchanged" if len(self.added) > 1 else "it was exchanged"
            text += f". The model relied on the {' and the '.join(self.added)}, too, so {exchanged} with it"
        if lost > self.max_loss + ROUNDING:
            text += (
                f". With the shortcut kept {100 * lost:.1f} points were lost, more than the {100 * self.max_loss:.1f} "
                "asked for: what the shortcut told is gone, what was named holds more, or the training was too short "
                f"(epochs: {last.epochs}; set n_epochs= higher)"
            )
        return text

    @property
    def _doubt(self) -> str:
        return doubt_of_few(self.after.samples) if self.after is not None and not self.relies else ""

    def _of_groups(self, first: MendTry, last: MendTry) -> str:
        """The verdict where nothing but groups is known."""
        opening = "one group is still left behind: " if self.relies else "no group is left far behind: "
        if last.note:
            opening = f"not mended: {last.note}. "
        text = (
            f"{opening}accuracy in the worst group {percent(first.worst_group)} before, now "
            f"{percent(last.worst_group)}; over all samples {percent(first.accuracy_kept)} before, now "
            f"{percent(last.accuracy_kept)}"
        )
        return f"{text}; try {self._advice()}" if self.relies else text

    def _advice(self) -> str:
        if self.remaining and not self._on_shortcut:
            return "a list of all of these as the shortcut, which are then exchanged together"
        if self.stopped == Stopped.OUT_OF_TIME:
            return "a larger budget"
        if self.from_scratch:
            return "n_epochs= higher, or methods= with other mitigators"
        return "from_scratch=True, or methods= with other mitigators"

    def to_pandas(self) -> Any:
        """One row for each try.

        Raises:
            MissingDependencyError: where pandas is absent.
        """
        pd = import_pandas(".tries")
        fields = [field.name for field in dataclasses.fields(MendTry)]
        return pd.DataFrame([{name: getattr(row, name) for name in fields} for row in self.tries])

    def __repr__(self) -> str:
        has_groups = not math.isnan(self.tries[0].worst_group)
        worst = ["worst group"] if has_groups else []
        lines = [["method", "kept", "exchanged", "changed", *worst, "epochs", "time"]]
        for row in self.tries:
            mark = " *" if row is self.chosen else ""
            figures = [percent(row.accuracy_kept), percent(row.accuracy_exchanged), percent(row.changed)]
            figures += [percent(row.worst_group)] if has_groups else []
            lines.append([_in_short(row.method) + mark, *figures, str(row.epochs), f"{row.seconds:.0f} s"])
        title = f"MendResult of {self.shortcut}"
        return "\n".join([title, self.verdict, *aligned(lines), f"* chosen: {self.method}"])


def _changed(row: MendTry) -> str:
    """The share of predictions that change, and that by class where this alone tells of a reliance."""
    is_rare = row.relies and row.changed <= RELIES
    return percent(row.changed) + (
        f" ({percent(row.reliance_by_class)} with every class counted equally)" if is_rare else ""
    )


def _in_short(method: str) -> str:
    """A spec string without the settings of the training."""
    name, texts = split_spec(method)
    parts = [f"{key}={text}" for key, text in texts.items() if key not in OF_TRAINING]
    return f"{name}:{','.join(parts)}" if parts else name
