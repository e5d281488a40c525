"""Facts about data: the kind, the value range, the padding, the words of token ids, the names of columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core.channel_axes import image_axis, series_axis
from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnknownNameError, near_names

IMAGE, TEXT, SERIES, TABLE = "image", "text", "time_series", "tabular"
KINDS = (IMAGE, TEXT, SERIES, TABLE)


@dataclasses.dataclass(frozen=True, eq=False)
class DataFacts:
    """Facts about the data that a factor may need beside the samples.

    Attributes:
        kind: "image" (N, C, H, W) or (N, H, W, C), "text" (token ids (N, T)), "time_series" (N, C, T) or (N, T, D),
            "tabular" (N, F).
        low: smallest value of each channel, (C,): black, for images; None for tokens and tables.
        high: largest value of each channel, (C,).
        channel_axis: of images and series. Unless named, the form tells it of images, the model's first layer of
            series.
        padding: the token id that fills texts up; None where there is none.
        special: token ids that must stay where they are, such as those that begin and end a text.
        vocabulary: words by token id; None where unknown.
        columns: names of the columns of a table, or of the channels of a series; empty where unknown.
    """

    kind: str
    low: Tensor | None = None
    high: Tensor | None = None
    channel_axis: int = 1
    padding: int | None = None
    special: tuple[int, ...] = ()
    vocabulary: Mapping[int, str] | None = None
    columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, x: Tensor, **fields: Any) -> DataFacts:
        """The facts that some samples show, with others that the caller knows.

        Args:
            x: samples (N, ...). With more samples, the value range and the padding are more certain.
            fields: fields of this class, in place of what the samples show. `vocabulary` may also be a tokenizer, a
                list of words by id, or a dict from words to ids. `model`: that takes the samples.

        Raises:
            InvalidTypeError: for a name that is no field of this class.
            InvalidInputError: for a shape that several kinds of data have; name the kind then.
            UnknownNameError: for an unknown kind.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        stranger = next((name for name in fields if name not in [*names, "model"]), None)
        if stranger is not None:
            raise InvalidTypeError(f"data have no fact {stranger!r}{near_names(stranger, names)}")
        x = x.detach()
        kind = fields.pop("kind", None) or kind_of(x)
        if kind not in KINDS:
            raise UnknownNameError(f"unknown kind of data {kind!r}{near_names(str(kind), KINDS)}")
        _check_form(x, kind)
        model, axis = fields.pop("model", None), fields.get("channel_axis")
        if axis is None and kind in (IMAGE, SERIES):
            axis = image_axis(x, model) if kind == IMAGE else series_axis(x, model)
        fields["channel_axis"] = (axis or 1) % x.ndim if x.ndim > 2 else 1
        tokenizer = fields.get("vocabulary")
        fields["vocabulary"] = read_vocabulary(tokenizer)
        columns = fields.get("columns")
        fields["columns"] = () if columns is None else tuple(columns)
        if kind == TEXT:
            if fields.get("padding") is None:
                padding = getattr(tokenizer, "pad_token_id", None)
                fields["padding"] = padding_of(x) if padding is None else padding
            special = fields.get("special")
            if special is None or len(special) == 0:
                special = getattr(tokenizer, "all_special_ids", None) or ()
            fields["special"] = tuple(int(token) for token in special)
        elif x.ndim > 2 and fields.get("low") is None:
            places = tuple(d for d in range(x.ndim) if d != fields["channel_axis"])
            fields["low"], fields["high"] = x.float().amin(places), x.float().amax(places)
        return cls(kind, **fields)

    def ordinary(self, tokens: Tensor) -> Tensor:
        """Which tokens (N, T) are neither padding nor special.

        Args:
            tokens: ids.
        """
        reserved = [*self.special, *(() if self.padding is None else (self.padding,))]
        return ~torch.isin(tokens, torch.tensor(reserved, dtype=tokens.dtype, device=tokens.device))

    def word(self, token: int) -> str:
        """The word of a token id, or "token 7" where the words are unknown.

        Args:
            token: its id.
        """
        return f"token {token}" if self.vocabulary is None else self.vocabulary.get(token, f"token {token}")


def kind_of(x: Tensor) -> str:
    """The kind of data that the form of samples tells.

    Args:
        x: samples (N, ...).

    Raises:
        InvalidInputError: for a form that could be several kinds.
    """
    numbers = x.is_floating_point()
    by_rank = {2: TABLE if numbers else TEXT, 4: IMAGE, **({3: SERIES} if numbers else {})}
    if x.ndim not in by_rank or x.is_complex():
        raise InvalidInputError(
            f"samples of {x.dtype} and shape {tuple(x.shape)} could be several kinds of data; name theirs, one of "
            f"{', '.join(KINDS)}"
        )
    return by_rank[x.ndim]


def _check_form(x: Tensor, kind: str) -> None:
    """Refuse a kind of data that no samples of this form can be."""
    forms = {IMAGE: "(N, C, H, W)", SERIES: "(N, C, T) or (N, T, D)", TABLE: "(N, F)", TEXT: "whole numbers (N, T)"}
    rank = {IMAGE: 4, SERIES: 3, TABLE: 2, TEXT: 2}[kind]
    if x.ndim != rank or (kind == TEXT and x.is_floating_point()):
        raise InvalidInputError(
            f"data of the kind {kind} are {forms[kind]}, got {x.dtype} of shape {tuple(x.shape)}; name their kind"
        )


def read_vocabulary(value: Any) -> dict[int, str] | None:
    """Words by token id.

    Args:
        value: a tokenizer with `get_vocab`, a list of words by id, a dict from ids to words or from words to ids; None.

    Raises:
        InvalidTypeError: for anything else.
    """
    if hasattr(value, "get_vocab"):
        value = value.get_vocab()
    if value is None:
        return None
    if isinstance(value, Mapping):
        pairs = value.items()
        swapped = all(isinstance(key, str) for key in value)
        return {int(v): k for k, v in pairs} if swapped else {int(k): str(v) for k, v in pairs}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return {number: str(word) for number, word in enumerate(value)}
    raise InvalidTypeError(
        f"a vocabulary is a tokenizer, a list of words, or a dict of words and ids, got {type(value).__name__}"
    )


def padding_of(tokens: Tensor) -> int | None:
    """The token that fills texts up: it ends (or begins) some of them in a run and stands nowhere else.

    Args:
        tokens: ids (N, T).
    """
    for row_order in (tokens.flip(1), tokens):
        candidate = int(row_order[:, 0].mode().values)
        is_candidate = row_order == candidate
        in_run = is_candidate.int().cumprod(1).bool()
        runs = in_run.sum(1)
        if torch.equal(in_run, is_candidate) and int(runs.max()) > 1 and len(runs.unique()) > 1:
            return candidate
    return None


def read_facts(facts: Any, x: Tensor) -> DataFacts:
    """What is known of samples.

    Args:
        facts: of the user: `DataFacts`, a dict of its fields, or None.
        x: the samples, which show the rest.

    Raises:
        InvalidInputError, InvalidTypeError: as `DataFacts.of`.
    """
    return facts if isinstance(facts, DataFacts) else DataFacts.of(x, **facts_fields(facts))


def facts_fields(facts: Any, where: str = "facts") -> dict[str, Any]:
    """The fields of `DataFacts` that a user named.

    Args:
        facts: `DataFacts`, a dict of its fields, or None.
        where: name of the argument, for messages.

    Raises:
        InvalidTypeError: for anything else.
    """
    if isinstance(facts, DataFacts):
        return {field.name: getattr(facts, field.name) for field in dataclasses.fields(facts)}
    if facts is not None and not isinstance(facts, Mapping):
        raise InvalidTypeError(f"{where} must be a dict such as {{'vocabulary': tokenizer}}, got {facts!r}")
    return dict(facts or {})


def known_facts(facts: Any, data: Any, model: nn.Module) -> Any:
    """The facts with the model, and the names of the columns where the samples are a DataFrame and nobody named them.

    Args:
        facts: as for `read_facts`.
        data: of the user, in any form: inputs, or a tuple that begins with them.
        model: that takes the samples.
    """
    if isinstance(facts, DataFacts):
        return facts
    inputs = data[0] if isinstance(data, (tuple, list)) and len(data) else data
    names = getattr(inputs, "columns", None) if hasattr(inputs, "to_numpy") else None
    return {
        "model": model,
        **({} if names is None else {"columns": [str(name) for name in names]}),
        **facts_fields(facts),
    }
