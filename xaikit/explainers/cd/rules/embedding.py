"""Token ids with a mask: an embedding turns them into a decomposed tensor."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xaikit.core import torch_private
from xaikit.core.errors import InvalidTypeError, UnsupportedOperationError
from xaikit.core.torch_private import tree_map_only
from xaikit.explainers.cd import shares
from xaikit.explainers.cd.decomposed import Decomposed
from xaikit.explainers.cd.registry import cd_rule
from xaikit.explainers.cd.ruleset import Context
from xaikit.torch_ops import by_name, calling_module, operation_name, plain_name


class MaskedTokens(torch.Tensor):
    """Token ids that carry which tokens are relevant until an embedding turns them into values.

    Attributes:
        ids: the ids, an integer tensor.
        masks: (masks, *shape of the ids).
        share: the undecided share.
        context: the rules followed.
    """

    @staticmethod
    def __new__(cls: type[MaskedTokens], ids: Tensor, masks: Tensor, share: Tensor, context: Context) -> MaskedTokens:
        """The ids under another type."""
        return torch_private.make_subclass(cls, ids)

    def __init__(self, ids: Tensor, masks: Tensor, share: Tensor, context: Context) -> None:
        self.ids, self.masks, self.share, self.context = ids, masks, share, context

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"MaskedTokens(shape={tuple(self.ids.shape)}, masks={self.masks.shape[0]})"

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Iterable[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is functional.embedding:
            return embedding(*args, **kwargs)
        if operation_name(func) == "embedding" and len(args) > 1 and isinstance(args[1], MaskedTokens):
            return embedding(args[1], args[0])  # torch.embedding takes the weight first
        if func is functional.embedding_bag:
            return embedding_bag(*args, **kwargs)
        try:
            plain_args, plain_kwargs = tree_map_only(MaskedTokens, lambda tokens: tokens.ids, (args, kwargs))
            result = func(*plain_args, **plain_kwargs)
        except RuntimeError as refused:
            raise InvalidTypeError(
                f"token ids reached `{getattr(func, '__name__', func)}` in {calling_module()} before any embedding: "
                f"{str(refused).splitlines()[0]}; for a model of numbers pass inputs.float()"
            ) from refused
        if not args or not isinstance(args[0], MaskedTokens):
            return result
        return _carried(func, args, kwargs, result)


@cd_rule("embedding", "embedding_bag")
def numbers(function: Any, input: Any, *args: Any, **kwargs: Any) -> Any:
    """An embedding takes token ids; a table that is explained itself is read by them."""
    if function is functional.embedding and args and not isinstance(input, Decomposed):
        return args[0][input]
    raise InvalidTypeError(
        f"an embedding takes whole token ids, but {calling_module()} met inputs of {input.dtype}; pass integers, with "
        "token masks"
    )


_SAME = {"to", "long", "int", "contiguous", "clone", "detach", "cpu", "cuda", "clamp", "clip", "clamp_min", "clamp_max"}
_SAME |= {"add", "__add__", "sub", "__sub__", "remainder", "__mod__", "masked_fill", "abs"}
_RESHAPED = {"view", "reshape", "flatten", "squeeze", "unsqueeze"}
_INDEXED = {"__getitem__", "transpose", "permute", "t", "narrow", "select", "slice"}


def _carried(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> Any:
    """Masks follow their tokens through copies, views and slices; whatever else is computed from ids is a constant."""
    tokens, name = args[0], plain_name(function)
    if name == "__get__" and function.__self__.__name__ in ("T", "mT") and tokens.ids.dim() == 2:
        return tokens.transpose(0, 1)
    if name in _SAME and isinstance(result, Tensor) and not result.is_floating_point():
        return MaskedTokens(result, tokens.masks.to(result.device), tokens.share, tokens.context)
    if name in _RESHAPED | _INDEXED:
        masks = torch.stack([function(mask, *args[1:], **kwargs) for mask in tokens.masks])
        if name in _RESHAPED:
            share = shares.reshaped(tokens.share, tokens.ids.shape, result.shape)
        else:
            share = shares.restructured(
                tokens.share,
                tokens.ids.shape,
                lambda value: torch.stack([function(row, *args[1:], **kwargs) for row in value[0]]).unsqueeze(0),
            )
        return MaskedTokens(result, masks, share, tokens.context)
    return result


def embedding(input: Any, weight: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Relevant part r = m e and irrelevant part s = (1 - m) e, for the embeddings e of tokens with mask m."""
    values = functional.embedding(input.ids, weight, *args, **kwargs)
    masks = input.masks.unsqueeze(-1).to(values.dtype)
    share = input.share if shares.is_uniform(input.share) else input.share.unsqueeze(-1)
    return Decomposed(torch.stack([masks * values, (1 - masks) * values]), share.to(values.dtype), input.context)


def embedding_bag(input: Any, weight: Tensor, *args: Any, **kwargs: Any) -> Any:
    """The sum or mean of the embeddings in each row of ids; those of padding do not count."""
    call = by_name(functional.embedding_bag, (input, weight, *args), kwargs)
    mode, padding, ids = call["mode"], call["padding_idx"], input.ids
    if ids.dim() != 2 or call["offsets"] is not None or mode == "max":
        raise UnsupportedOperationError(
            "contextual decomposition of an embedding bag takes ids of shape (batch, tokens), mode 'sum' or 'mean', "
            f"without offsets; the ids have shape {tuple(ids.shape)} and the mode is {mode!r}"
        )
    values = embedding(input, weight, max_norm=call["max_norm"], norm_type=call["norm_type"])
    if call["per_sample_weights"] is not None:
        values = values * call["per_sample_weights"].unsqueeze(-1)
    if padding is None:
        return values.sum(1) if mode == "sum" else values.mean(1)
    valid = ids != padding % len(weight)
    total = (values * valid.unsqueeze(-1)).sum(1)
    return total if mode == "sum" else total / valid.sum(1, keepdim=True).clamp(min=1)
