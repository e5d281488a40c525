"""The text that `xaikit explain INPUT` prints: predicted class, second class, score and the strongest features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.spec_strings import target_text
from xaikit.report import Names
from xaikit.report.cards import drawn

if TYPE_CHECKING:
    from xaikit.cli.single import SampleInput
    from xaikit.core import Attribution

SHOWN = 10  # samples that are printed


def summary(attribution: Attribution, sample_input: SampleInput, output: Tensor, classes: Sequence[str]) -> str:
    """A line or two for each of the first samples.

    Args:
        attribution: of the input.
        sample_input: the input.
        output: of the model for it, (N, classes) or (N,).
        classes: names of the classes, by index; may be empty.
    """
    names = Names(classes=classes)
    targets, scores, gaps = attribution.targets, attribution.scores, attribution.gap
    lines = []
    n = 0 if scores is None else len(scores)
    for i in range(min(n, SHOWN)):
        target = targets[i] if isinstance(targets, (list, tuple)) else targets
        clauses = [f"sample {i}:"] if n > 1 else []
        clauses += prediction(output[i], names)
        clauses += (
            [f"class {named(target, names)}," if isinstance(target, int) else f"{target_text(target)},"]
            if target is not None
            else []
        )
        clauses += [f"score {float(scores[i]):.4g}"] if scores is not None else []
        clauses += [f"(the sum of the attribution misses it by {float(gaps[i]):.2g})"] if gaps is not None else []
        lines.append(" ".join(clauses))
        lines += strongest(attribution, sample_input, i)
    return "\n".join([*lines, *([f"and {n - SHOWN} more samples"] if n > SHOWN else [])])


def prediction(scores: Tensor, names: Names) -> list[str]:
    """The predicted class and the next one with their probabilities, of one sample's scores; nothing for one output."""
    if scores.ndim != 1 or len(scores) < 2:
        return []
    shares = probabilities(scores)
    order = shares.argsort(descending=True)[:2].tolist()
    first, second = (f"{named(k, names)} ({100 * float(shares[k]):.1f} %)" for k in order)
    return [f"predicted {first}, then {second};"]


def probabilities(scores: Tensor) -> Tensor:
    """The scores themselves where they are probabilities, else their softmax."""
    scores = scores.detach().double()
    if bool((scores >= 0).all()) and abs(float(scores.sum()) - 1) < 1e-4:
        return scores
    return torch.softmax(scores, 0)


def named(index: int, names: Names) -> str:
    """A class as its number, with its name where it has one."""
    name = names.of_class(index)
    return name if name == str(index) else f"{index} {name}"


def check_classes(classes: Sequence[str], output: Tensor) -> None:
    """Refuse another number of class names than the model has outputs.

    Raises:
        InvalidInputError: which names --classes.
    """
    if classes and output.ndim == 2 and output.shape[1] > 1 and len(classes) != output.shape[1]:
        raise InvalidInputError(
            f"--classes names {len(classes)} classes, and the model has {output.shape[1]} outputs; name each, in order"
        )


def strongest(attribution: Attribution, sample_input: SampleInput, i: int) -> list[str]:
    """The tokens of a text, or the columns of a named table, that count most in a sample."""
    tokens, values = attribution.tokens, attribution.values
    if tokens is not None:
        texts = sample_input.words(tokens[i : i + 1])
        names = Names(tokens=None if texts is None else lambda _: texts[0])
        return [drawn("text", values[i].float().cpu().numpy(), tokens[i].cpu().numpy(), names)["words"]]
    if sample_input.features and fits(values, sample_input):
        names = Names(features=sample_input.features)
        return [drawn("tabular", values[i].cpu().numpy(), sample_input.picture[i].numpy(), names)["words"]]
    return []


def fits(values: Any, sample_input: SampleInput) -> bool:
    """Whether an attribution has one value for each token of a text or each column of a table."""
    return bool(values.shape == sample_input.picture.shape)


def as_json(attribution: Attribution, output: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """The contents of an attribution as plain JSON values."""
    scores, gaps = attribution.scores, attribution.gap
    ranked = output.ndim == 2 and output.shape[1] > 1
    return {
        "spec": attribution.spec,
        "targets": attribution.targets,
        "scores": None if scores is None else scores.tolist(),
        "gap": None if gaps is None else gaps.tolist(),
        "predicted": output.argmax(1).tolist() if ranked else None,
        "probabilities": [float(probabilities(row).max()) for row in output] if ranked else None,
        "classes": list(classes) or None,
    }
