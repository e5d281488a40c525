"""What a factor must know beside the samples, read off the data and the fields of a job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xaikit.cli.judging import ShortcutFields
    from xaikit.cli.mitigate import Mitigate
    from xaikit.cli.scan import FactorScan

CHANNEL_AXIS_HELP = "Axis of the channels of images or series, 1 or -1. Default: as the form and the model tell."


def factor_facts(job: ShortcutFields | FactorScan | Mitigate, data: Any) -> dict[str, Any]:
    """The channels' axis, the words of token ids, the names of columns, black and white after --mean and --std.

    Args:
        job: with the fields `text`, `tokenizer`, `model` and `channel_axis`.
        data: the data set.

    Returns:
        Fields of `xaikit.factors.DataFacts`.
    """
    import torch

    from xaikit.cli.hugging_face import tokenizer_of
    from xaikit.core.errors import InvalidInputError

    if job.channel_axis not in (None, 1, -1):
        raise InvalidInputError(f"--channel-axis is 1 or -1, got {job.channel_axis}")

    facts: dict[str, Any] = {} if job.channel_axis is None else {"channel_axis": job.channel_axis}
    if names := tuple(getattr(data, "features", ())):
        facts["columns"] = names
    if job.text and (tokenizer := tokenizer_of(job.tokenizer or job.model)) is not None:
        facts["vocabulary"] = tokenizer
    pictures = getattr(data, "pictures", None)
    if pictures is not None and pictures.preparation.mean and pictures.preparation.std:
        mean, std = (torch.tensor(v) for v in (pictures.preparation.mean, pictures.preparation.std))
        facts |= {"low": (0 - mean) / std, "high": (1 - mean) / std}
    return facts
