"""A token of the vocabulary as a baseline: the padding or mask token in place of an absent word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import torch
from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.params import Int
from xaikit.core.registries import BASELINES
from xaikit.core.token_inputs import token_inputs
from xaikit.transforms.baselines import Baseline

if TYPE_CHECKING:
    from xaikit.core.call import Call


def _ids(value: Any, where: str) -> Any:
    if not isinstance(value, (tuple, list)):
        raise InvalidTypeError(f"{where} must be a tuple of token ids, got {value!r}")
    return tuple(Int(ge=0).check(item, where) for item in value)


@BASELINES.register("token_id")
class TokenId(Baseline):
    """The same token everywhere, such as the tokenizer's padding or mask token; `keep` lists tokens that stay.

    It stands in for token ids (N, T); masks, token types and positions stay. An explanation at `layer=` gets the
    activations that the layer has for those ids, so with ``layer="embedding"`` the token's embedding.

    >>> import torch
    >>> TokenId(token=0, keep=(101, 102))(torch.tensor([[101, 7, 8, 102]]))
    tensor([[101,   0,   0, 102]])
    """

    token: Annotated[int, Int(ge=0), "the token's id"]
    keep: Annotated[tuple[int, ...], _ids, "ids of tokens that stay, such as those that begin and end a text"] = ()

    def __call__(self, x: Tensor) -> Tensor:
        """The token in place of all others.

        Raises:
            InvalidTypeError: for inputs that are no token ids.
        """
        if x.is_floating_point() or x.is_complex() or x.dtype == torch.bool:
            raise InvalidTypeError(
                f"{self!r} stands in for token ids, got {x.dtype} of shape {tuple(x.shape)}; "
                f"explain token ids at their embedding with layer="
            )
        stays = torch.isin(x, torch.tensor(self.keep, dtype=x.dtype, device=x.device))
        return torch.where(stays, x, self.token)

    def of_input(self, call: Call, index: int) -> Tensor:
        """The stand-in of an input; of a layer, its activations for the stand-ins of the model's own inputs.

        Args:
            call: the open call.
            index: which of `call.inputs`.

        Raises:
            InvalidInputError: for a token that no embedding of the model has.
            InvalidTypeError: for inputs that are no token ids.
        """
        if call.uncut is None:
            x = call.inputs[index]
            return self(x) if x.is_floating_point() or index in token_inputs(call) else x
        sizes = [m.num_embeddings for m in call.model.modules() if isinstance(m, nn.Embedding)]
        if sizes and self.token >= max(sizes):
            raise InvalidInputError(f"{self!r}: the model's embedding has the tokens 0..{max(sizes) - 1} only")
        inputs = call.own_inputs
        if all(x.is_floating_point() for x in inputs):
            self(inputs[0])  # says that these are no token ids
        tokens = token_inputs(call)
        return call.activations(tuple(self(x) if i in tokens else x for i, x in enumerate(inputs)))[index]
