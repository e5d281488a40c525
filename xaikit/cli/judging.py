"""Fields of the verbs that judge a model by a shortcut: where it is, and the samples with labels and masks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import field_validator

from xaikit.cli.factor_facts import CHANNEL_AXIS_HELP, factor_facts
from xaikit.cli.job import flag
from xaikit.cli.sources import MaskFields, ModelJob

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

    from xaikit.cli.stream import Stream

RELIES_CODE = 3  # exit code of --fail-if-relies


class ShortcutFields(MaskFields, ModelJob):
    """A shortcut: --mask or --mask-names, or --factor."""

    mask: Path | None = flag(
        None, help="Where the shortcut is: .png, .npy, a folder named like the images, COCO, LabelMe, CVAT or YOLO."
    )
    factor: tuple[str, ...] = flag(
        (), help="The shortcut, in place of --mask: hue, corner:size=5, ...; several are exchanged together."
    )
    channel_axis: int | None = flag(None, help=CHANNEL_AXIS_HELP)
    seed: int = flag(0, help="Seed of what is random.")

    @field_validator("factor", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        """A job file may name one factor without a list."""
        return ((value,) if value else ()) if isinstance(value, str) else value

    @property
    def named_factor(self) -> Any:
        """The factor, or a list of several; None for none."""
        return list(self.factor) if len(self.factor) > 1 else next(iter(self.factor), None)

    def check_shortcut(self) -> None:
        """Refuse a call that names no shortcut, or two.

        Raises:
            InvalidInputError: for such a call.
        """
        from xaikit.core import Int
        from xaikit.core.errors import InvalidInputError

        Int(ge=0).check(self.seed, "--seed")
        by_mask = self.mask is not None or bool(self.mask_names)
        if self.channel_axis is not None and not self.factor:
            raise InvalidInputError("--channel-axis is about a factor; name one with --factor, or leave it out")
        if by_mask and self.factor:
            raise InvalidInputError("name the shortcut by --mask or by --factor, not by both")
        if not by_mask and not self.factor:
            raise InvalidInputError(
                f"{self.VERB} needs the shortcut: --mask or --mask-names say where it is, --factor what"
            )

    def judged(self, model: nn.Module, like: Any = None) -> tuple[Any, Stream, Sequence[str]]:
        """The data set, its samples with labels and masks, and the names of the classes.

        Args:
            model: that is judged.
            like: data whose classes and encoding of columns this data takes: a word means the same in both.
        """
        from xaikit.cli.class_names import ClassNames
        from xaikit.cli.options import check_has_labels
        from xaikit.cli.stream import Stream

        classes = getattr(like, "classes", ())
        names = ClassNames(classes, source="the classes of --data") if classes else None
        samples = self.samples(self.model, names, getattr(like, "encoding", None))
        data = self.fit_labels(samples, model, needed=True)
        check_has_labels(data, "--data" if like is None else "--validation")
        return data, Stream(data, self.masks(data)), getattr(data, "classes", ())

    def assess_options(self, data: Any, classes: Sequence[str]) -> dict[str, Any]:
        """Arguments of `assess` that these fields give."""
        options: dict[str, Any] = {"head": self.view()["head"], "seed": self.seed, "progress": not self.quiet}
        if classes:
            options["groups"] = named_classes(classes)
        if self.factor:
            options |= {"factor": self.named_factor, "facts": factor_facts(self, data)}
        return options


def named_classes(classes: Sequence[str]) -> Callable[[Any, Tensor], list[str]]:
    """What tells the groups of `assess` by the names of the labels; by number, where one has none.

    Args:
        classes: their names.
    """
    return lambda _, y: [classes[k] if 0 <= k < len(classes) else str(k) for k in y.tolist()]


def finite(value: Any) -> Any:
    """Plain JSON values, with None for what is not finite.

    Args:
        value: of lists, dicts and numbers.
    """
    import math

    if isinstance(value, dict):
        return {k: finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
