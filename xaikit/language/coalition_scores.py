"""The scores of an answer under prompts that lack some segments; what prompts have in common is computed once."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.rows import agree
from xaikit.core.token_inputs import CACHE_NAMES
from xaikit.language.coalitions import Coalition
from xaikit.language.teacher import decoder_start, is_encoder_decoder

# A prompt cut into pieces: ids, and the segment that they belong to, or None for what is always there.
Pieces = Sequence[tuple[Sequence[int], int | None]]


class CoalitionScorer:
    """Scores of one answer under coalitions of a prompt's segments.

    A causal model reads the prompt piece by piece with its key-value cache. Coalitions are visited in the order of a
    tree: those that share the first pieces share their cache, which is cut back when a branch is done. Models without
    such a cache (state-space models, encoders) read each prompt by itself.

    Args:
        model: that runs, in evaluation mode.
        pieces: of the prompt.
        replacements: ids that stand for each segment that is left out.
        answer: ids.
        score: from the logits of the answer's places (G, V) to a score for each token, (G,).
        device: where the model is.
    """

    def __init__(  # noqa: PLR0913
        self, model: Any, *, pieces: Pieces, replacements: Sequence[int], answer: Sequence[int], score: Any, device: Any
    ) -> None:
        self.model, self.device = model, device
        self.pieces, self.replacements, self.answer, self.score = pieces, list(replacements), list(answer), score
        self.parameters = inspect.signature(model.forward).parameters
        names = [name for name in CACHE_NAMES[:2] if name in self.parameters]  # not a state as Mamba has it
        self._cache_name = names[0] if names else ""
        self.tokens_read = 0  # by the model, over all passes

    def scores(self, coalitions: Sequence[Coalition]) -> Tensor:
        """The scores (coalitions, G).

        Args:
            coalitions: each once.

        Raises:
            InvalidInputError: when a coalition leaves nothing of the prompt.
        """
        with torch.no_grad():
            if not is_encoder_decoder(self.model) and self._cache_name and self._can_cache():
                rows: dict[Coalition, Tensor] = {}
                cache = _new_cache()
                self._visit(list(coalitions), 0, cache, [], rows)
                return torch.stack([rows[coalition] for coalition in coalitions])
            return torch.stack([self._plain(coalition) for coalition in coalitions])

    def _can_cache(self) -> bool:
        """Whether a cached and cut back pass gives what a plain pass gives; asked with two prompts."""
        n = sum(segment is not None for _, segment in self.pieces)
        full = (True,) * n
        shorter = (*(True,) * (n - 1), False)
        rows: dict[Coalition, Tensor] = {}
        try:
            self._visit([full, shorter] if n > 1 else [full], 0, _new_cache(), [], rows)
        except (AttributeError, TypeError, ValueError, NotImplementedError, RuntimeError, LookupError):
            return False  # a model whose cache has another form
        return all(agree(row, self._plain(coalition)) for coalition, row in rows.items())

    def _ids(self, piece: int, coalition: Coalition) -> list[int]:
        ids, segment = self.pieces[piece]
        return list(ids) if segment is None or coalition[segment] else self.replacements

    def _plain(self, coalition: Coalition) -> Tensor:
        prompt = [token for i in range(len(self.pieces)) for token in self._ids(i, coalition)]
        if not prompt:
            raise _nothing_left()
        options: dict[str, Any] = {"use_cache": False} if "use_cache" in self.parameters else {}
        if is_encoder_decoder(self.model):
            decoder = torch.tensor([[decoder_start(self.model), *self.answer[:-1]]], device=self.device)
            ids = torch.tensor([prompt], device=self.device)
            self.tokens_read += ids.numel() + decoder.numel()
            logits = self.model(input_ids=ids, decoder_input_ids=decoder, **options).logits[0]
        else:
            logits = self._run([*prompt, *self.answer[:-1]], options)
        return self._scored(logits)

    def _scored(self, logits: Tensor) -> Tensor:
        scores: Tensor = self.score(logits[-len(self.answer) :])
        return scores

    def _run(self, ids: list[int], options: dict[str, Any]) -> Tensor:
        self.tokens_read += len(ids)
        if "logits_to_keep" in self.parameters:
            options = {**options, "logits_to_keep": min(len(ids), len(self.answer))}
        logits: Tensor = self.model(input_ids=torch.tensor([ids], device=self.device), **options).logits[0]
        return logits

    def _visit(
        self, coalitions: list[Coalition], piece: int, cache: Any, waiting: list[int], rows: dict[Coalition, Tensor]
    ) -> None:
        """Score the coalitions, which agree on all pieces before this one.

        Args:
            coalitions: to score.
            piece: the next one.
            cache: of the pieces before it, without those that wait.
            waiting: ids that are read with the next pass.
            rows: takes the scores.
        """
        if len(coalitions) == 1 or piece == len(self.pieces):
            (coalition,) = coalitions
            behind = [token for i in range(piece, len(self.pieces)) for token in self._ids(i, coalition)]
            length = cache.get_seq_length()
            prompt = [*waiting, *behind]
            if not prompt:
                raise _nothing_left()
            logits = self._run([*prompt, *self.answer[:-1]], {self._cache_name: cache, "use_cache": True})
            _cut_back(cache, length)
            rows[coalition] = self._scored(logits)
            return
        branches: dict[tuple[int, ...], list[Coalition]] = {}
        for coalition in coalitions:
            branches.setdefault(tuple(self._ids(piece, coalition)), []).append(coalition)
        if len(branches) == 1:
            ((ids, group),) = branches.items()
            self._visit(group, piece + 1, cache, [*waiting, *ids], rows)
            return
        if waiting:  # both branches go on from here
            length = cache.get_seq_length()
            # One token waits on, so that the answer always has a token of the prompt before it.
            if len(waiting) > 1:
                self._run(waiting[:-1], {self._cache_name: cache, "use_cache": True})
            for ids, group in sorted(branches.items(), key=lambda branch: len(branch[0])):
                self._visit(group, piece + 1, cache, [waiting[-1], *ids], rows)
            _cut_back(cache, length)
            return
        for ids, group in sorted(branches.items(), key=lambda branch: len(branch[0])):
            self._visit(group, piece + 1, cache, list(ids), rows)


def _cut_back(cache: Any, length: int) -> None:
    """Take the last tokens out of a cache, so that this many are left."""
    surplus = cache.get_seq_length() - length
    if surplus:
        cache.crop(-surplus)


def _nothing_left() -> InvalidInputError:
    return InvalidInputError(
        "without these segments nothing is left of the prompt; keep some text outside of them, or pass a replacement"
    )


def _new_cache() -> Any:
    from transformers import DynamicCache  # noqa: PLC0415 - the model is one of transformers, so it is installed

    return DynamicCache()
