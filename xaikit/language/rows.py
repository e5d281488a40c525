"""The rows of a generation: the attribution of each score to the embeddings of all tokens, by any explainer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaikit.core import Explainer
from xaikit.core.errors import InvalidInputError
from xaikit.core.process_wide import warnings_ignored

if TYPE_CHECKING:
    from xaikit.core import Attribution, Call
    from xaikit.core.structure import Tensors
    from xaikit.language.scores import TokenScore
    from xaikit.language.teacher import Teacher

# Scores that share a forward pass of a method of several passes, which holds an attribution of the size of the
# embeddings for each until all passes are done. Methods of one pass hold one at a time.
SCORES_PER_PASS = 16
# Tokens in a pass of a method that stacks versions of its input. On a CPU more than a few hundred are no faster.
CPU_TOKENS, GPU_TOKENS = 512, 16384


@dataclasses.dataclass(frozen=True)
class RowsOfTokens:
    """The attributions of some scores.

    Attributes:
        values: (scores, tokens), summed over the embedding.
        scores: (scores,).
        total: the explanation of all scores together, whose books count for all of them; None where the method
            promises no total.
    """

    values: Tensor
    scores: Tensor
    total: Attribution | None


def explain_rows(
    explainer: Explainer,
    teacher: Teacher,
    scores: Sequence[TokenScore],
    *,
    seed: int = 0,
    scores_per_pass: int | None = None,
) -> RowsOfTokens:
    """The attribution of each score to each token that the model reads.

    Args:
        explainer: at the layers of the teacher.
        teacher: how the model is run.
        scores: what is explained.
        seed: of the method's random numbers.
        scores_per_pass: how many scores share a forward pass; None chooses.
    """
    explainer = _bounded(explainer, teacher)
    chunk = scores_per_pass or (len(scores) if explainer.SINGLE_BACKWARD else SCORES_PER_PASS)
    rows: list[Tensor] = []
    explained: list[Tensor] = []

    def method(call: Call) -> tuple[Tensors, ...]:
        device = call.inputs[0].device

        def note(output: Any) -> None:
            if not explained:
                explained.extend(score.scores(output.detach())[0] for score in scores)

        if explainer.SHARES_TASK_FORWARD:
            call = dataclasses.replace(call, on_output=note)
        for start in range(0, len(scores), chunk):
            first, *others = [score.on(device) for score in scores[start : start + chunk]]
            every = dataclasses.replace(call, target=first, more_targets=tuple(others))
            rows.extend(_by_token(values, teacher) for values in explainer.attribute_each(every))
        with torch.no_grad():
            note(call.run(call.inputs) if not explained else None)
        return ()

    explainer.run_call(method, teacher.inputs, None, seed=seed)
    total = None
    if explainer.promises_total():
        every_score = lambda output: torch.stack([score.scores(output) for score in scores]).sum(0)  # noqa: E731
        # LRP starts at the logits, and what a softmax of these keeps back is told by `Generation.residual`.
        with warnings_ignored(r".*relevance is lost in the target function \([^)]*\)$"):
            total = explainer.explain(teacher.inputs, every_score, seed=seed)
    return RowsOfTokens(torch.stack(rows), torch.stack(explained), total)


def _bounded(explainer: Explainer, teacher: Teacher) -> Explainer:
    """The explainer with as many rows in a pass as a text of this length leaves room for, unless the user chose."""
    if getattr(explainer, "max_rows", 0) is not None:
        return explainer
    tokens = CPU_TOKENS if explainer.device.type == "cpu" else GPU_TOKENS
    return explainer.set_kwargs(max_rows=max(1, tokens // sum(teacher.lengths)))


def _by_token(values: Tensors, teacher: Teacher) -> Tensor:
    """An attribution of the embeddings (1, T, D) of each layer, summed over D and set side by side."""
    parts = []
    for value, layer, length in zip(values, teacher.layers, teacher.lengths, strict=True):
        summed: Any = value.detach().flatten(2).sum(2) if value.ndim > 2 else value.detach()
        if summed.shape != (1, length):
            raise InvalidInputError(
                f"layer {layer!r} must return a vector for each of the {length} tokens, (1, {length}, D), it returns "
                f"{tuple(value.shape)}; name the layer that embeds the tokens, layer= of the explainer"
            )
        parts.append(summed[0])
    return torch.cat(parts)
