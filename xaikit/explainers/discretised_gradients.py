"""Discretised integrated gradients: a path from baseline to text that stays close to real words."""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from xaikit.core import BASELINES, EXPLAINERS, Call, Choice, Explainer, Int
from xaikit.core.errors import InvalidInputError, near_names
from xaikit.core.structure import Tensors, joined_parts
from xaikit.core.token_inputs import token_inputs

STRATEGIES = ("greedy", "maxcount")
ROWS = 64  # tokens whose distances to all words are in memory at once


def _strategy(value: Any, where: str) -> Any:
    if value not in STRATEGIES:
        raise InvalidInputError(f"{where} is greedy or maxcount, got {value!r}{near_names(str(value), STRATEGIES)}")
    return value


@EXPLAINERS.register("discretised_integrated_gradients")
class DiscretisedIntegratedGradients(Explainer):
    """Sum over k of dS/dx at x_k times (x_{k+1} - x_k), along a path of words (Sanyal and Ren 2021, arXiv:2108.13654).

    The path of a token leads from its embedding x over m - 1 anchors to the baseline b, and is walked from b to x. An
    anchor is one of the `n_neighbors` words that are nearest to the last one, and no earlier one: the word that the
    following changes least ("greedy"), or in the fewest dimensions ("maxcount"). Where a dimension of the anchor does
    not lie between the last point w and b, it is set to w - (w - b) / m, so that the path never turns back.

    The words are those of the embedding at `layer`, which must be an `nn.Embedding`. What is no text has no words: its
    path is the straight line in equal steps. Steps from word to word are large, so the sum only approaches S(x) - S(b);
    `explain` warns where it misses by more than half. Models that divide embeddings by their length (RMSNorm: Llama)
    have a gradient of about 1 / sqrt(eps) at zeros, where the path begins, and the first step outweighs all others:
    take a word, ``baseline="token_id:token=..."``. The choice of words has no derivative; losses refuse it.

    >>> import torch
    >>> model = torch.nn.Linear(3, 2, bias=False)
    >>> x = torch.rand(1, 3)
    >>> DiscretisedIntegratedGradients(model).attribute(x, 0).allclose(model.weight[:1] * x)
    True
    """

    DIFFERENTIABLE = False
    GAP_TOLERANCE = 0.5
    GAP_REMEDY = (
        "where the model normalises its embeddings (RMSNorm), a baseline of zeros is too steep for steps from word to "
        "word: name a word with baseline='token_id:token=...'; elsewhere take more steps with n_steps="
    )
    PASSES = ("n_steps",)
    USES_GLOBAL_RANDOM = False

    n_steps: Annotated[int, Int(low=10, high=100, step=10, ge=1), "steps from the baseline to the input, m"] = 30
    baseline: Annotated[Any, Choice(BASELINES), "where the path starts: a name, a number, a tensor or a Baseline"] = (
        "zeros"
    )
    strategy: Annotated[str, _strategy, "how an anchor is chosen: greedy or maxcount"] = "greedy"
    n_neighbors: Annotated[int, Int(ge=1), "words among which an anchor is chosen"] = 50
    max_rows: Annotated[int | None, Int(ge=1, optional=True), "most rows in one forward pass; None chooses"] = None

    def _attribute(self, call: Call) -> Tensors:
        return self._attribute_each(call)[0]

    def _attribute_each(self, call: Call) -> tuple[Tensors, ...]:
        baselines = self.baseline.of(call)
        paths = [self._path(call, i, b) for i, b in enumerate(baselines)]
        parts, n_done = [], 0
        for part, passes in call.passes(self.n_steps, self.max_rows):
            chosen = slice(n_done, n_done + part.n)
            n_done += part.n
            sums = [[torch.zeros_like(x) for x in part.inputs] for _ in part.targets]
            for copies in passes:
                line = tuple(path[copies.start : copies.stop, chosen].flatten(0, 1) for path in paths)
                for totals, grads in zip(sums, part.grads_of(line, len(copies)), strict=True):
                    for i, g in enumerate(grads):
                        ends = paths[i][copies.start + 1 : copies.stop + 1, chosen]
                        steps = ends - paths[i][copies.start : copies.stop, chosen]
                        totals[i] = totals[i] + (steps * g.view(steps.shape)).sum(0)
            parts.append([tuple(totals) for totals in sums])
        return joined_parts(parts)

    def _promised_total(self, call: Call) -> Tensor:
        return call.scores(call.inputs) - call.scores(self.baseline.of(call))

    def _path(self, call: Call, index: int, baseline: Tensor) -> Tensor:
        """The points from the baseline to an input, (m + 1, N, ...)."""
        x = call.inputs[index].detach()
        baseline = baseline.detach().expand_as(x)
        vocabulary = _vocabulary(call, index)
        if vocabulary is None or vocabulary.shape[1:] != x.shape[2:]:
            shares = torch.linspace(0, 1, self.n_steps + 1, dtype=torch.float64, device="cpu").to(x)
            return baseline + shares.view(-1, *[1] * x.ndim) * (x - baseline)
        exact = torch.promote_types(x.dtype, torch.float32)  # torch has no distances in half precision
        tokens, ends = (t.to(exact).flatten(0, 1).split(ROWS) for t in (x, baseline))
        points = [self._word_path(t, e, vocabulary.to(exact)) for t, e in zip(tokens, ends, strict=True)]
        return torch.cat(points, 1).flip(0).unflatten(1, x.shape[:2]).to(x.dtype)

    def _word_path(self, x: Tensor, baseline: Tensor, vocabulary: Tensor) -> Tensor:
        """The points from some tokens (P, D) to their baselines, (m + 1, P, D)."""
        anchors = torch.cdist(x, vocabulary).argmin(1)
        is_past = torch.zeros(len(x), len(vocabulary), dtype=torch.bool, device=x.device)
        ends = torch.cdist(baseline, vocabulary).argmin(1)
        is_word = (vocabulary[ends] == baseline).all(1)
        is_past.scatter_(1, ends[:, None], is_word[:, None])  # the baseline is the end of the path, and no anchor
        points = [x]
        count = min(self.n_neighbors + 1, len(vocabulary))  # the word itself is its nearest
        for _ in range(self.n_steps - 1):
            last = vocabulary[anchors]
            is_past.scatter_(1, anchors[:, None], True)  # noqa: FBT003
            near = torch.cdist(last, vocabulary).topk(count, dim=1, largest=False).indices
            changed, n_changed = self._towards(vocabulary[near], last[:, None], baseline[:, None])
            distances = (changed - vocabulary[near]).norm(dim=-1)
            cost = distances if self.strategy == "greedy" else n_changed.to(distances)
            best = cost.masked_fill(is_past.gather(1, near), torch.inf).min(1)
            is_end = best.values.isinf()  # no word is left: the path goes straight on
            anchors = torch.where(is_end, anchors, near.gather(1, best.indices[:, None])[:, 0])
            following, _ = self._towards(vocabulary[anchors], points[-1], baseline)
            straight = points[-1] - (points[-1] - baseline) / self.n_steps
            points.append(torch.where(is_end[:, None], straight, following))
        return torch.stack([*points, baseline])

    def _towards(self, points: Tensor, start: Tensor, baseline: Tensor) -> tuple[Tensor, Tensor]:
        """Points with all dimensions between start and baseline, and how many had to be changed."""
        low, high = torch.minimum(start, baseline), torch.maximum(start, baseline)
        is_between = (points >= low) & (points <= high)
        return torch.where(is_between, points, start - (start - baseline) / self.n_steps), (~is_between).sum(-1)


def _vocabulary(call: Call, index: int) -> Tensor | None:
    """The embeddings of all words (V, D) at one of the call's layers; None where there is no text.

    Raises:
        InvalidInputError: for a text that is explained at a layer that embeds no single words.
    """
    if not call.layers:
        return None
    point = call.layers[index]
    if isinstance(point.module, nn.Embedding) and not point.is_input:
        with torch.no_grad():
            ids = torch.arange(point.module.num_embeddings, device=call.inputs[index].device)
            embedded: Tensor = point.module(ids)
        return embedded.detach()
    embeddings = [name for name, m in call.model.named_modules() if isinstance(m, nn.Embedding)]
    if embeddings and token_inputs(call):
        raise InvalidInputError(
            f"discretised integrated gradients go along the embeddings of words, and layer {point.name!r} is no "
            f"nn.Embedding; name one with layer=, of {embeddings}"
        )
    return None
