"""`xaikit explain --prompt`: the answer of a language model, explained token by token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xaikit.core.errors import InvalidInputError, near_names

if TYPE_CHECKING:
    from xaikit.cli.explain import Explain
    from xaikit.language import Generation

MOST_ROWS = 10  # generated units that are printed
STRONGEST = 5  # columns that are printed of each
CHOICES = ("tokens", "words", "sentences", "lines")


def explain_prompt(job: Explain) -> int:
    """Explain, write, summarise.

    Args:
        job: with a prompt.

    Returns:
        The exit code.

    Raises:
        InvalidInputError: for flags that contradict each other, no tokenizer, a prompt file that cannot be read.
    """
    from xaikit.cli.hugging_face import tokenizer_of
    from xaikit.cli.options import check_out
    from xaikit.cli.single import name_of_text
    from xaikit.core import EXPLAINERS
    from xaikit.language import explain_generation
    from xaikit.language.scores import KINDS

    if job.prompt and job.prompt_file:
        raise InvalidInputError("name either --prompt or --prompt-file")
    if job.answer and job.generate is not None:
        raise InvalidInputError(
            "name either --answer, which is explained, or --generate, how many tokens the model writes"
        )
    if job.generate is not None and job.generate < 1:
        raise InvalidInputError(f"--generate must be at least 1, got {job.generate}")
    score = job.target or "logit"
    for flag, value, choices in (("--units", job.units, CHOICES), ("--target", score, KINDS)):
        if value not in choices:
            raise InvalidInputError(
                f"{flag} of a prompt is one of {', '.join(choices)}, got {value!r}{near_names(value, choices)}"
            )
    if job.out is not None:
        check_out(job.out, ".npz", ".safetensors")
    prompt = job.prompt or read_prompt_file(job.prompt_file or Path())
    name = EXPLAINERS.create(job.explainer).NAME
    tokenizer = tokenizer_of(job.tokenizer or job.model)
    if tokenizer is None:
        raise InvalidInputError("a prompt needs a tokenizer: name the model as hf:FOLDER, or --tokenizer hf:FOLDER")
    answer: dict[str, Any] = (
        {"generated": job.answer}
        if job.answer
        else {}
        if job.generate is None
        else {"generation": {"max_new_tokens": job.generate}}
    )
    explainer = job.bound(job.explainer, job.loaded())
    generation = explain_generation(explainer, tokenizer, prompt, target=score, seed=job.seed, **answer)
    result = job.out or Path(f"{name_of_text(generation.prompt)}.{name}.npz")
    result.parent.mkdir(parents=True, exist_ok=True)
    in_units = generation if job.units == "tokens" else generation.aggregate(job.units)
    written = [in_units.save(result)]
    if job.figure:
        picture, page = result.with_suffix(".png"), result.with_suffix(".html")
        in_units.plot().savefig(picture, dpi=120)
        in_units.to_html(page)
        written += [picture, page]
    files = [str(path) for path in written]
    text = f"{generation_summary(in_units)}\nwrote {', '.join(files)}"
    rows = [
        {"generated": row, "score": float(row_score), "rests_on": dict(in_units.top(STRONGEST, i))}
        for i, (row, row_score) in enumerate(zip(in_units.generated, in_units.scores, strict=True))
    ]
    job.tell(text, answer=generation.answer, score=generation.score, rows=rows, written=files)
    return 0


def read_prompt_file(path: Path) -> Any:
    """The prompt in a file: text, or messages in a .json.

    Args:
        path: the file.

    Raises:
        InvalidInputError: for a file that cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
        return text if path.suffix.lower() != ".json" else json.loads(text)
    except (OSError, ValueError) as error:
        raise InvalidInputError(f"--prompt-file {path} holds no prompt that can be read: {error}") from error


def generation_summary(generation: Generation) -> str:
    """The answer, and what its first parts rest on.

    Args:
        generation: to print.
    """
    lines = [f"answer: {generation.answer.strip()!r}"]
    for i, text in enumerate(generation.generated[:MOST_ROWS]):
        strongest = ", ".join(f"{name.strip()!r} {value:.3g}" for name, value in generation.top(STRONGEST, i))
        lines.append(f"{text.strip()!r} ({generation.score} {float(generation.scores[i]):.3g}): {strongest}")
    more = len(generation.generated) - MOST_ROWS
    return "\n".join([*lines, *([f"and {more} more {generation.units}"] if more > 0 else [])])
