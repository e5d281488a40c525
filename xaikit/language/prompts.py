"""Reading prompts: text, messages, token ids, batches of these, padded on either side or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xaikit.core.arrays import is_array, to_tensor
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.language.template import Slot, Template
from xaikit.language.token_text import Span, joined, readable, special_ids, token_texts

ROLES = ("system", "developer", "user", "assistant", "tool")


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt, read.

    Attributes:
        ids: of its tokens, without padding.
        names: how each token reads.
        kinds: of each token: "prompt", "system" (of a system message), or "special".
        text: the whole as text; empty without a tokenizer.
        spans: the characters of each token in the text, (first, behind the last).
        continues: whether an answer's text stands right behind the prompt's, so that both are tokenised together.
        slots: of the template that it was made from.
        more: further tensors of the model for this prompt.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    kinds: tuple[str, ...]
    text: str
    spans: tuple[Span, ...]
    continues: bool = False
    slots: tuple[Slot, ...] = ()
    more: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


def read_prompts(  # noqa: PLR0911 - one return for each form of a prompt
    prompt: Any, tokenizer: Any
) -> tuple[list[Prompt], bool]:
    """The prompts that a user passes, and whether these are a batch.

    Args:
        prompt: a text, a `Template`, a conversation (dicts with "role" and "content"), token ids, what a tokenizer
            returned, or a list of one of these.
        tokenizer: of Hugging Face; None for ids.

    Returns:
        The prompts; False where it was a single one.

    Raises:
        InvalidInputError: for an empty prompt, text without a tokenizer, ids with gaps in their mask.
        InvalidTypeError: for anything else.
    """
    if isinstance(prompt, Mapping):
        return _of_mapping(prompt, tokenizer)
    if isinstance(prompt, str):
        return [_of_text(prompt, tokenizer)], False
    if isinstance(prompt, Template):
        return [dataclasses.replace(_of_text(prompt.text, tokenizer), slots=tuple(prompt.slots))], False
    if is_array(prompt):
        rows = to_tensor(prompt, "prompt")
        return [_of_ids(row.tolist(), tokenizer) for row in (rows if rows.ndim > 1 else rows[None])], rows.ndim > 1
    if not isinstance(prompt, Sequence):
        raise InvalidTypeError(
            f"prompt must be text, messages, token ids or a batch of these, got a {type(prompt).__name__}"
        )
    if not prompt:
        raise InvalidInputError("the prompt is empty; pass at least one token")
    if all(_is_message(item) for item in prompt):
        return [_of_messages(prompt, tokenizer)], False
    if all(_is_id(item) for item in prompt):
        return [_of_ids([int(token) for token in prompt], tokenizer)], False
    return [_one(item, tokenizer, i) for i, item in enumerate(prompt)], True


def _one(item: Any, tokenizer: Any, index: int) -> Prompt:
    prompts, is_batch = read_prompts(item, tokenizer)
    if is_batch:
        raise InvalidInputError(f"prompt {index} of the batch is a batch itself; pass one flat list of prompts")
    return prompts[0]


def _is_message(item: Any) -> bool:
    return isinstance(item, Mapping) and "role" in item and "content" in item


def _is_id(item: Any) -> bool:
    return hasattr(item, "__index__") and not isinstance(item, (bool, Tensor))


def _of_text(text: str, tokenizer: Any, *, special: bool = True, systems: Sequence[Span] = ()) -> Prompt:
    if tokenizer is None:
        raise InvalidInputError("a prompt of text needs a tokenizer; pass one, or the prompt as token ids")
    if not text:
        raise InvalidInputError("the prompt is empty; pass at least one token")
    fast = bool(getattr(tokenizer, "is_fast", False))
    encoded = tokenizer(text, add_special_tokens=special, return_offsets_mapping=fast)
    ids = [int(token) for token in encoded["input_ids"]]
    specials = special_ids(tokenizer)
    names = token_texts(tokenizer, ids)
    if fast:
        spans, end = [], 0
        for token, (a, b) in zip(ids, encoded["offset_mapping"], strict=True):
            spans.append((end, end) if token in specials and a == b else (int(a), int(b)))
            end = spans[-1][1]
    else:
        text, spans = joined(names, [token in specials for token in ids])
    kinds = [
        "special" if token in specials else "system" if _inside(span, systems) else "prompt"
        for token, span in zip(ids, spans, strict=True)
    ]
    return _prompt(ids, names, kinds, text, spans, continues=special and kinds[-1:] != ["special"])


def _inside(span: Span, others: Sequence[Span]) -> bool:
    return any(a <= span[0] and span[1] <= b and span[0] < span[1] for a, b in others)


def _of_messages(messages: Sequence[Any], tokenizer: Any) -> Prompt:
    template = getattr(tokenizer, "apply_chat_template", None)
    if template is None or getattr(tokenizer, "chat_template", None) is None:
        raise InvalidInputError(
            "messages need a tokenizer with a chat template, and this one has none; pass the prompt as text"
        )
    last = messages[-1]["role"]
    options = {"continue_final_message": True} if last == "assistant" else {"add_generation_prompt": True}
    plain = [{**m, "content": m["content"].text} if isinstance(m["content"], Template) else m for m in messages]
    text = str(template(plain, tokenize=False, **options))
    systems, slots, start = [], [], 0
    for message, read in zip(messages, plain, strict=True):
        content = read["content"]
        place = text.find(content, start) if isinstance(content, str) and content else -1
        if place < 0:
            continue
        start = place + len(content)
        if isinstance(message["content"], Template):
            slots += [(name, a + place, b + place) for name, a, b in message["content"].slots]
        if message["role"] in ("system", "developer"):
            systems.append((place, start))
    return dataclasses.replace(_of_text(text, tokenizer, special=False, systems=systems), slots=tuple(slots))


def _of_ids(ids: Sequence[int], tokenizer: Any, more: Mapping[str, Tensor] | None = None) -> Prompt:
    if not ids:
        raise InvalidInputError("the prompt is empty; pass at least one token")
    if not all(_is_id(token) and token >= 0 for token in ids):
        raise InvalidTypeError("the ids of a prompt must be whole numbers from 0 on; pass what the tokenizer returned")
    names, specials = token_texts(tokenizer, ids), special_ids(tokenizer)
    kinds = ["special" if token in specials else "prompt" for token in ids]
    text, spans = joined(names, [kind == "special" for kind in kinds]) if tokenizer is not None else ("", [])
    return _prompt(ids, names, kinds, text, spans, more=more or {})


def _of_mapping(prompt: Mapping[str, Any], tokenizer: Any) -> tuple[list[Prompt], bool]:
    if "input_ids" not in prompt:
        raise InvalidInputError(f"a prompt as a mapping needs 'input_ids', got {sorted(prompt)}")
    tensors = {name: to_tensor(value, f"prompt[{name!r}]") for name, value in prompt.items()}
    ids = tensors.pop("input_ids")
    mask = tensors.pop("attention_mask", torch.ones_like(ids))
    is_batch = ids.ndim > 1
    rows, masks = (ids, mask) if is_batch else (ids[None], mask[None])
    if rows.shape != masks.shape:
        raise InvalidInputError(
            f"attention_mask must have the shape {tuple(rows.shape)} of input_ids, got {tuple(masks.shape)}"
        )
    dropped = ("token_type_ids", "position_ids", "special_tokens_mask", "offset_mapping", "length")
    prompts = []
    for i, (row, attended) in enumerate(zip(rows, masks.bool(), strict=True)):
        places = attended.nonzero()[:, 0]
        if len(places) and len(places) != int(places[-1] - places[0]) + 1:
            raise InvalidInputError(
                f"the attention mask of prompt {i} has gaps; padding stands at one end, so pass the tokens without it"
            )
        more = {k: v[i : i + 1] if is_batch else v for k, v in tensors.items() if k not in dropped}
        prompts.append(_of_ids(row[attended].tolist(), tokenizer, more))
    return prompts, is_batch and (len(prompts) > 1 or not isinstance(prompt["input_ids"], list))


def _prompt(  # noqa: PLR0913
    ids: Sequence[int], names: Sequence[str], kinds: Sequence[str], text: str, spans: Sequence[Span], **fields: Any
) -> Prompt:
    return Prompt(tuple(ids), tuple(readable(names)), tuple(kinds), text, tuple(spans), **fields)
