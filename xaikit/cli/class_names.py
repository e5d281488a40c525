"""Labels as words: which word stands for which output of the model."""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from xaikit.cli.samples import Samples
from xaikit.core.errors import InvalidInputError, UnknownNameError, near_names

if TYPE_CHECKING:
    from torch import nn

WHOLE = re.compile(r"\d+(\.0*)?")
REMEDY = "name them with --classes, one for each output of the model and in the order of the outputs"


@dataclasses.dataclass(frozen=True)
class ClassNames:
    """The words that labels may use.

    Attributes:
        from_user: the classes in the order of the model's outputs, as --classes gives them; every label must be one.
        from_model: the classes as the model's folder names them; they count if all labels are among them.
        source: who gave `from_user`, for messages.
    """

    from_user: Sequence[str] = ()
    from_model: Sequence[str] = ()
    source: str = "--classes"

    def of(self, labels: list[str]) -> tuple[list[int], Sequence[str]]:
        """Class indices and class names.

        Whole numbers are indices already, also as 1.0, as pandas writes them. Words are numbered in the order of the
        user's or the model's classes, else in alphabetical order.

        Raises:
            UnknownNameError: for a label that is none of the user's classes.
        """
        labels = [label.strip() for label in labels]
        if all(WHOLE.fullmatch(label) for label in labels) and not set(labels) & set(self.from_user):
            labels = [label.partition(".")[0] for label in labels]
        if all(label.isdecimal() for label in labels) and not set(labels) & set(self.from_user):
            return [int(label) for label in labels], self.from_user or self.from_model
        label_words = set(labels)
        unknown = next((label for label in labels if self.from_user and label not in self.from_user), None)
        if unknown is not None:
            raise UnknownNameError(
                f"the label {unknown!r} is none of {self.source}{near_names(unknown, self.from_user)}"
            )
        alphabetical = sorted(label_words)
        _warn_of_spellings(alphabetical)
        names = self.from_user or (self.from_model if label_words <= set(self.from_model) else alphabetical)
        index = {name: i for i, name in enumerate(names)}
        return [index[label] for label in labels], names


def _warn_of_spellings(labels: Sequence[str]) -> None:
    """Tell of two words for one class: "yes" and "Yes"."""
    spellings: dict[str, str] = {}
    for word in labels:
        other = spellings.setdefault(" ".join(word.casefold().split()), word)
        if other != word:
            warnings.warn(f"the labels {other!r} and {word!r} are two classes; write both in one way", stacklevel=3)
            return


def folder_labels(names: Sequence[str]) -> list[str]:
    """The first folder of each picture's path; empty if a picture lies in no folder, or all lie in the same one."""
    folders = [PurePosixPath(name).parts[0] if "/" in name else "" for name in names]
    if all(folders):
        return folders if len(set(folders)) > 1 else []
    if any(folders):
        warnings.warn(
            f"without labels: {sum(map(bool, folders))} pictures lie in folders, and {folders.count('')} beside them, "
            f"such as {names[folders.index('')]}",
            stacklevel=2,
        )
    return []


def fit_labels(data: Any, model: nn.Module, head: str | int, *, needed: bool) -> Any:
    """The data with labels that fit the model's outputs: each label is an output, and words have their number.

    Labels that are only folders' names are left out where they cannot be the classes and nothing needs them.

    Args:
        data: a data set; one that is not of the command line's own is returned as it is.
        model: in evaluation mode, on its device.
        head: which of the model's outputs.
        needed: whether the labels are used, as by --target label.

    Raises:
        InvalidInputError: for labels that cannot be the model's classes; the message names --classes.
    """
    if not isinstance(data, Samples) or not len(data.labels):
        return data
    outputs = _n_outputs(data, model, head)
    problem = "" if outputs is None else _problem(data, outputs)
    if not problem:
        return data
    if data.labels_from == "folders" and not needed:
        warnings.warn(f"without labels, since the folders' names are not taken for classes: {problem}", stacklevel=2)
        return dataclasses.replace(data, labels=(), classes=(), labels_from="")
    raise InvalidInputError(problem)


def _problem(data: Samples, outputs: int) -> str:
    """Why the labels are not the classes of a model with so many outputs; empty where they may be."""
    n_classes = len(data.classes)
    where = "folders of pictures" if data.labels_from == "folders" else "class words"
    if n_classes and outputs > 1 and n_classes != outputs:
        class_list = ", ".join(list(data.classes)[:4]) + (", ..." if n_classes > 4 else "")
        number = f"are {n_classes} {where}" if n_classes > 1 else f"is one of the {where}"
        return f"there {number} ({class_list}), and the model has {outputs} outputs; {REMEDY}"
    smallest, largest = min(data.labels), max(data.labels)
    if smallest < 0:
        name = data.names[list(data.labels).index(smallest)]
        return f"{name} has the label {smallest}, and classes are numbered from 0; leave such samples out of the data"
    limit = max(outputs, 2)  # one output decides between two classes
    if largest >= limit:
        name = data.names[list(data.labels).index(largest)]
        if outputs == 1:
            return (
                f"{name} has the label {largest}, and one output tells the classes 0 and 1 apart; for a regression "
                "leave --labels out, and name what the model gets with --columns"
            )
        return f"{name} has the label {largest}, and the model has {outputs} outputs (0 to {limit - 1})"
    return ""


def _n_outputs(data: Samples, model: nn.Module, head: str | int) -> int | None:
    """The number of outputs of the model for one sample; None where it is no row of scores."""
    from xaikit.cli.options import run_model
    from xaikit.runs.source import SampleSource

    inputs, _ = SampleSource(data).first()
    output = run_model(model, inputs, head)
    return int(output.shape[1]) if output.ndim == 2 else 1 if output.ndim == 1 else None
