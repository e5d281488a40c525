"""layer_relevance: how much of a score stands at each token and in each head, from layer to layer."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor

from xaikit import upward
from xaikit.core import Explainer, as_explainer
from xaikit.core import targets as target_rules
from xaikit.core.errors import InvalidInputError
from xaikit.core.pandas_import import import_pandas
from xaikit.core.results import Result
from xaikit.language.blocks import Block, blocks_of, read_tokens_of
from xaikit.language.teacher import bound_model
from xaikit.language.token_text import readable, token_texts


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class LayerRelevance(Result):
    """The relevance of a score in each block of a transformer; `layer_relevance` returns it.

    Attributes:
        values: at the input of each block, summed over features: (N, L, T).
        heads: at what each head hands to the layer that joins them, summed over tokens and features: (N, L, H). NaN
            where a block has fewer heads; H is 0 for a model without attention.
        scores: what is explained, (N,).
        layers: names of the blocks, L of them.
        tokens: how the tokens of each sample read; empty where the model reads none.
        spec: name and settings of the explainer.
    """

    values: Tensor
    heads: Tensor
    scores: Tensor
    layers: list[str]
    tokens: list[list[str]]
    spec: dict[str, Any]

    @property
    def residual(self) -> Tensor:
        """The part of each score that does not stand at the input of a block, (N, L)."""
        return self.scores[:, None] - self.values.sum(-1).to(self.scores)

    @property
    def through_attention(self) -> Tensor:
        """The sum over the heads, (N, L); the rest of a block's relevance goes past its attention."""
        return self.heads.nansum(-1)

    def to_pandas(self) -> Any:
        """A table with a row for each sample and block: the sum at its input, of all heads, and of each head.

        Raises:
            MissingDependencyError: without pandas.
        """
        sums, attention = self.values.sum(-1), self.through_attention
        rows = [
            {
                "sample": sample,
                "layer": name,
                "sum": float(sums[sample, i]),
                "heads": float(attention[sample, i]),
                **{f"head {h}": float(value) for h, value in enumerate(self.heads[sample, i])},
            }
            for sample in range(len(self.values))
            for i, name in enumerate(self.layers)
        ]
        return import_pandas().DataFrame(rows)

    def plot(self, sample: int = 0, *, lens: Any = None) -> Any:
        """A figure: tokens and heads of each block, the last block on top.

        Args:
            sample: which.
            lens: a `LogitLens` of the same samples, drawn beside them.

        Returns:
            A figure of matplotlib.
        """
        return upward.load("layer_figures").layers_figure(self, sample, lens=lens)

    def __repr__(self) -> str:
        n, layers, tokens = self.values.shape
        return (
            f"LayerRelevance by {self.spec.get('name')}: {n} samples, {layers} blocks, {tokens} tokens, "
            f"{self.heads.shape[2]} heads"
        )


def layer_relevance(
    explainer: Explainer,
    inputs: Any,
    targets: Any = None,
    *,
    layers: str | None = None,
    tokenizer: Any = None,
    seed: int = 0,
) -> LayerRelevance:
    """How much of a score stands at each token, and in each head, from block to block.

    The attribution of an explainer to the input of each block, and to the input of the layer that joins its heads. With
    LRP this is the relevance that passes there (Voita et al. 2021, arXiv:2010.10907; Achtibat et al. 2024,
    arXiv:2402.05602), by one forward and one backward pass. What the heads do not carry goes past the attention, along
    the block's residual connection.

    Args:
        explainer: bound to a transformer. Its setting `layer` is not used.
        inputs: as for `Explainer.attribute`: ids, or the model's arguments by name.
        targets: likewise; of a language model for example ``Position(-1, token)``.
        layers: name of the list of blocks; only needed where the model has several, as an encoder and a decoder.
        tokenizer: names the tokens; None shows ids.
        seed: of the explainer's random numbers.

    Raises:
        InvalidInputError: for a model whose blocks are not to be found, or of which one does not run.
        UnboundError: for an explainer without a model.
    """
    if not isinstance(explainer, Explainer):
        explainer = as_explainer(explainer)
    if target_rules.is_several(targets):
        raise InvalidInputError("layer_relevance takes one target; call it for each")
    blocks = blocks_of(bound_model(explainer), layers)
    joined = [block for block in blocks if block.projection]
    points = [f"{block.name}.input" for block in blocks] + [f"{block.projection}.input" for block in joined]
    at_blocks = explainer.set_kwargs(layer=tuple(points))
    attributions = at_blocks.attribute(inputs, targets, seed=seed)
    values = [_by_token(a, block) for a, block in zip(attributions, blocks, strict=False)]
    by_head = {block.name: _by_head(a, block) for a, block in zip(attributions[len(blocks) :], joined, strict=True)}
    n, count = len(values[0]), max((block.n_heads for block in blocks), default=0)
    empty = values[0].new_full((n, count), torch.nan)
    heads = [by_head.get(block.name, empty) for block in blocks]
    padded = [torch.nn.functional.pad(h, (0, count - h.shape[1]), value=torch.nan) for h in heads]
    output = explainer.output(inputs)
    target = target_rules.normalise(targets, n, output.device, output_axes=lambda: output.ndim)
    return LayerRelevance(
        values=torch.stack(values, 1).cpu(),
        heads=torch.stack(padded, 1).cpu(),
        scores=target_rules.score(output, target).detach().cpu(),
        layers=[block.name for block in blocks],
        tokens=[readable(row) for row in read_tokens_of(inputs, tokenizer, token_texts)],
        spec=explainer.describe(),
    )


def _by_token(attribution: Tensor, block: Block) -> Tensor:
    """Summed over features, (N, T).

    Raises:
        InvalidInputError: for a block that reads no vector for each token.
    """
    if attribution.ndim != 3:
        raise InvalidInputError(
            f"the block {block.name!r} reads {tuple(attribution.shape)}, and a vector for each token is needed, (N, T, "
            "D); name the list of blocks with layers="
        )
    return attribution.sum(-1)


def _by_head(attribution: Tensor, block: Block) -> Tensor:
    """Summed over tokens and the features of each head, (N, H).

    Raises:
        InvalidInputError: for features that the heads cannot share.
    """
    features = attribution.shape[-1]
    if features % block.n_heads:
        raise InvalidInputError(
            f"{block.projection!r} reads {features} features, which {block.n_heads} heads cannot share equally"
        )
    return attribution.unflatten(-1, (block.n_heads, -1)).sum(-1).flatten(1, -2).sum(1)
