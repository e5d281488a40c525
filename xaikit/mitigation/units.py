"""Words and other units of texts: the attribution of a unit is the sum over its tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.structure import Tensors

INSIDE = "##"  # what WordPiece writes before the inside of a word
BEGINS = ("Ġ", "▁")  # what byte-level and SentencePiece tokenizers write before a word
BREAKS = ("Ċ", "ĉ", "<0x0A>", "<0x09>")  # lines and tabs
ENDS = "</w>"  # what CLIP's tokenizer writes behind a word
NONE = -1  # padding: in no unit

Units = Callable[[Tensor], Tensor]


class WordUnits:
    """A function from token ids (N, T) to the number of each token's word, (N, T); -1 at padding.

    Words are told by what the tokenizer writes in its tokens: ``##`` inside of a word, ``Ġ`` or ``▁`` before one,
    ``</w>`` behind one. A tokenizer without such marks has a token for each word. Special tokens are units of their
    own. A WordPiece tokenizer has punctuation in tokens of its own, so it is a word there; others join it to the word
    before.

    Args:
        tokenizer: of Hugging Face.

    Raises:
        InvalidTypeError: for anything else.
    """

    def __init__(self, tokenizer: Any) -> None:
        if not all(hasattr(tokenizer, name) for name in ("get_vocab", "convert_ids_to_tokens", "all_special_ids")):
            raise InvalidTypeError(f"WordUnits needs a Hugging Face tokenizer, got {type(tokenizer).__name__}")
        self._tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self._pieces = any(token.startswith(INSIDE) and token != INSIDE for token in vocabulary)
        self._spaces = any(token.startswith(BEGINS) for token in vocabulary)
        self._suffixes = any(token.endswith(ENDS) and token != ENDS for token in vocabulary)

    def __call__(self, ids: Tensor) -> Tensor:
        """The number of each token's word in its text.

        Args:
            ids: whole numbers (N, T).
        """
        rows = [self._numbers(row) for row in ids.tolist()]
        return torch.tensor(rows, device=ids.device).reshape(ids.shape)

    def _numbers(self, ids: list[int]) -> list[int]:
        special, padding = set(self._tokenizer.all_special_ids), getattr(self._tokenizer, "pad_token_id", None)
        numbers: list[int] = []
        number, before = NONE, ""
        for token, text in zip(ids, self._tokenizer.convert_ids_to_tokens(ids), strict=True):
            if token == padding:
                numbers.append(NONE)
                before = ""
                continue
            if token in special:
                number, before = number + 1, ""
            else:
                number += int(not before or self._begins(text, before))
                before = text
            numbers.append(number)
        return numbers

    def _begins(self, text: str, before: str) -> bool:
        """Whether a token begins a word, behind another one."""
        if self._pieces:
            return not text.startswith(INSIDE)
        if self._spaces:
            return text.startswith((*BEGINS, *BREAKS)) or before.endswith(BREAKS)
        return before.endswith(ENDS) if self._suffixes else True


MOST_CANCELLED = 0.01  # a sum in which less than this share of its parts is left counts as cancelled
CANCELLED = (
    "the attributions of the masked words are sums of parts that cancel to less than a hundredth, as gradient x input "
    "does under LayerNorm or RMSNorm, so their penalty hardly acts with a small weight; set balance=True, which scales "
    "it to the task's gradient, or leave units= out"
)


def read_units(units: Units, inputs: Tensors, explained: Tensor) -> Tensor:
    """The unit of each token, (N, T), as a user's function gives them.

    Args:
        units: the function.
        inputs: of the model; one of them are the token ids.
        explained: the attribution, (N, T) or (N, T, D).

    Raises:
        InvalidInputError: where nothing is about tokens, or the function returns something else.
    """
    tokens = [x for x in inputs if x.shape == explained.shape[:2] and not x.is_floating_point()]
    if not tokens:
        raise InvalidInputError(
            f"units= joins tokens, and an attribution of shape {tuple(explained.shape)} is about none of the inputs' "
            "token ids; explain the embedding with the explainer's layer=, or leave units= out"
        )
    ids = max(tokens, key=lambda x: int(x.max()))  # not the attention mask
    numbers = units(ids)
    if not isinstance(numbers, Tensor) or numbers.shape != ids.shape or numbers.is_floating_point():
        got = f"{tuple(numbers.shape)} {numbers.dtype}" if isinstance(numbers, Tensor) else type(numbers).__name__
        raise InvalidInputError(
            f"units= must return a whole number for each token, of shape {tuple(ids.shape)}, got {got}"
        )
    return numbers.to(explained.device).long()


def summed(attribution: Tensor, mask: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The attribution of each unit, (N, U), and the largest mask of its tokens.

    Args:
        attribution: (N, T) or (N, T, D).
        mask: of the same shape.
        numbers: the unit of each token, (N, T); tokens below 0 are left out.
    """
    values, masks = (t if t.ndim == 2 else t.flatten(2) for t in (attribution, mask))
    values, masks = (values, masks) if values.ndim == 2 else (values.sum(2), masks.amax(2))
    count = max(1, int(numbers.max()) + 1)
    places = numbers.where(numbers >= 0, count)  # `count` is a further column, which is cut off below
    sums = values.new_zeros(len(values), count + 1).scatter_add(1, places, values)
    largest = masks.new_zeros(len(masks), count + 1).scatter_reduce(1, places, masks, "amax")
    return sums[:, :count], largest[:, :count]


def sums_cancel(attribution: Tensor, mask: Tensor, units: tuple[Tensor, Tensor]) -> bool:
    """Whether the sums over masked units are far smaller than their parts; never on a GPU, which would have to wait.

    Args:
        attribution: (N, T) or (N, T, D).
        mask: of the same shape.
        units: what `summed` makes of both.
    """
    if attribution.device.type != "cpu":
        return False
    parts = (attribution.detach() * mask.to(attribution)).abs().sum()
    return bool((units[0].detach() * units[1]).abs().sum() < MOST_CANCELLED * parts)


def separate(masks: Tensor, numbers: Tensor) -> Tensor:
    """Masks (M, N, T, ...) with one unit each: the first masked unit of each sample, the second, and so on.

    A unit is masked as a whole by the largest mask of its tokens.

    Args:
        masks: (M, N, T, ...).
        numbers: the unit of each token, (N, T).
    """
    separated = []
    for mask in masks:
        flat = mask.flatten(2).amax(2) if mask.ndim > 2 else mask
        _, largest = summed(torch.zeros_like(flat), flat, numbers)
        order = (largest == 0).int().argsort(dim=1, stable=True)  # the masked units first, in their order
        for place in range(max(1, int((largest != 0).sum(1).max()))):
            unit = order[:, place : place + 1]
            values = largest.gather(1, unit) * (numbers == unit)
            separated.append(values.view(*values.shape, *[1] * (mask.ndim - 2)).expand_as(mask))
    return torch.stack(separated).to(masks)


def check_units(value: Any, where: str) -> Any:
    """Check a setting that is such a function.

    Raises:
        InvalidTypeError: for anything else.
    """
    if value is not None and not callable(value):
        raise InvalidTypeError(
            f"{where} must be a function from token ids (N, T) to each token's unit, such as WordUnits(tokenizer), got "
            f"{value!r}"
        )
    return value
