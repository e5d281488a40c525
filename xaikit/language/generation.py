"""Generation: which tokens of the prompt and of the answer each generated token rests on."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from xaikit import upward
from xaikit.core.errors import InvalidInputError
from xaikit.core.files import write_whole
from xaikit.core.pandas_import import import_pandas
from xaikit.core.results import Result
from xaikit.language.combining import aggregated, contrasted


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Generation(Result):
    """An explained answer, as a matrix; `explain_generation` returns it.

    Attributes:
        values: the attribution (G, C): a row for each generated token, a column for each token of the prompt and then
            of the answer. A token has zeros for itself and for all that comes after it.
        generated: how each generated token reads, G texts.
        tokens: how each token reads that a row may rest on, C texts.
        kinds: of each column: "prompt", "system" (of a system message), "special" or "answer".
        n_prompt: the number of columns that the prompt has.
        scores: what is explained of each generated token, (G,).
        residual: the part of each score that is not in its row, (G,).
        score: what is explained, in words.
        spec: name and settings of the explainer.
        prompt, answer: both as text, as far as the tokens say it; empty without a tokenizer.
        spans: the characters of each column in the text of prompt and answer, (first, behind the last).
        ids: of the columns (C,), where these are tokens; else None.
        units: what rows and columns are: "tokens", "words", ...
        gap: how far the sum of all values is from what the method promises; None where nothing is promised.
        absorbed: of all scores together, what LRP's rules give to biases and stabilizers; None for other methods.
        lost: of all scores together, what each operation lost against its rule of LRP; None for other methods.
        slots: of the template that the prompt was made from: name, first character, behind the last.
        generation: the arguments with which the answer was generated; None where the user gave the answer.
        seed: of the random numbers of the method and of the sampling.
    """

    values: Tensor
    generated: list[str]
    tokens: list[str]
    kinds: list[str]
    n_prompt: int
    scores: Tensor
    residual: Tensor
    score: str
    spec: dict[str, Any]
    prompt: str = ""
    answer: str = ""
    spans: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    ids: Tensor | None = None
    units: str = "tokens"
    gap: float | None = None
    absorbed: float | None = None
    lost: dict[str, float] | None = None
    slots: list[tuple[str, int, int]] = dataclasses.field(default_factory=list)
    generation: dict[str, Any] | None = None
    seed: int = 0

    @property
    def to_prompt(self) -> Tensor:
        """The columns of the prompt, (G, n_prompt)."""
        return self.values[:, : self.n_prompt]

    @property
    def to_answer(self) -> Tensor:
        """The columns of the answer, (G, C - n_prompt)."""
        return self.values[:, self.n_prompt :]

    def row(self, generated: int | str) -> Tensor:
        """What a generated token rests on, (C,).

        Args:
            generated: its place, counted from 0, or how it reads, with or without the spaces around it.

        Raises:
            InvalidInputError: for a token that was not generated, or several times.
        """
        if isinstance(generated, str):
            places = [i for i, text in enumerate(self.generated) if generated in (text, text.strip())]
            if len(places) != 1:
                raise InvalidInputError(
                    f"{generated!r} was generated {len(places)} times in "
                    f"{self.generated[:20]}; pass its place, from 0 on"
                )
            return self.values[places[0]]
        if not -len(self.values) <= generated < len(self.values):
            raise InvalidInputError(f"the answer has the rows 0 to {len(self.values) - 1}, got {generated}")
        return self.values[generated]

    def top(self, n: int = 5, generated: int | str | None = None) -> list[tuple[str, float]]:
        """The columns with the largest values, as (text, value).

        Args:
            n: how many.
            generated: a generated token as for `row`; None takes the sum over the whole answer.

        Raises:
            InvalidInputError: as `row`.
        """
        values = self.values.sum(0) if generated is None else self.row(generated)
        order = values.argsort(descending=True, stable=True)[:n].tolist()
        return [(self.tokens[i], float(values[i])) for i in order]

    def aggregate(self, units: Any, *, rows: Any = None) -> Generation:
        """The same with tokens added up to units; the sums stay what they were.

        Args:
            units: of the columns: "words", "sentences", "lines", "slots" (of a `Template`), or spans of the prompt: a
                list or a dict by name, each (first, behind the last) character or a text that stands there once. Spans
                leave no gap. What a template has between its slots, special tokens and the answer are a column each.
            rows: of the generated tokens: "tokens", "words", "sentences", "lines", or "answer" for one row. None takes
                the units of the columns where these are words, sentences or lines, else tokens.

        Raises:
            InvalidInputError: for unknown units, spans that overlap or leave gaps, a generation without text.
            InvalidTypeError: for anything else.
        """
        return aggregated(self, units, rows)

    def minus(self, other: Generation) -> Generation:
        """Why this answer and not the other: one row, the difference of the sums of both.

        Args:
            other: another answer to the same prompt, with the same score and explainer.

        Returns:
            A generation whose last columns are the other answer's.

        Raises:
            InvalidInputError: for another prompt, score or explainer.
        """
        return contrasted(self, other)

    def to_pandas(self) -> Any:
        """The matrix as a DataFrame, with the texts of the tokens as its labels.

        Raises:
            MissingDependencyError: without pandas.
        """
        pd = import_pandas()
        return pd.DataFrame(self.values.float().cpu().numpy(), index=self.generated, columns=self.tokens)

    def plot(self, **options: Any) -> Any:
        """A figure of the matrix.

        Args:
            options: of `xaikit.report.generation_figures.matrix_figure`.

        Returns:
            A figure of matplotlib.
        """
        return upward.load("generation_figures").matrix_figure(self, **options)

    def plot_units(self, **options: Any) -> Any:
        """A figure with a bar for each column: what the whole answer rests on, such as documents.

        Args:
            options: of `xaikit.report.generation_figures.bars_figure`.

        Returns:
            A figure of matplotlib.
        """
        return upward.load("generation_figures").bars_figure(self, **options)

    def to_html(self, path: str | Path | None = None) -> str:
        """The page on which a token shows what it rests on, when it is pointed at or clicked.

        Args:
            path: also writes the page there; None only returns it.

        Raises:
            OSError: when the disk refuses.
        """
        page: str = upward.load("generation_page").page_of(self)
        if path is not None:
            write_whole(Path(path), page)
        return page

    @classmethod
    def _decode(cls, state: Mapping[str, Any]) -> Generation:
        result = super()._decode(state)
        shape = (len(result.generated), len(result.tokens))
        if tuple(result.values.shape) != shape or len(result.kinds) != shape[1]:
            raise InvalidInputError(
                f"the content is no Generation: values has the shape {tuple(result.values.shape)}, and there are "
                f"{shape[0]} generated tokens and {shape[1]} columns"
            )
        return result

    def __repr__(self) -> str:
        rows, columns = self.values.shape
        name = self.spec.get("name", "an explainer")
        answer = self.answer.strip() or " ".join(text.strip() for text in self.generated)
        excerpt = answer if len(answer) <= 60 else f"{answer[:57]}..."
        return (
            f"Generation by {name} of the {self.score}: {rows} generated {self.units} over {self.n_prompt} of "
            f"the prompt and {columns - self.n_prompt} of the answer; answer {excerpt!r}"
        )


def with_future(values: Tensor, columns: int) -> Tensor:
    """Rows of values with zeros for the columns that follow.

    Args:
        values: (G, K).
        columns: how many there are.
    """
    return torch.nn.functional.pad(values, (0, columns - values.shape[1]))
