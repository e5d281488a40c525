"""TCAV: how often a class's score grows towards a concept, against random vectors."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.core.batch import count_batches, read_batches
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.inputs import read_inputs
from xaikit.core.layers import find_point, layers_to_name
from xaikit.core.spec_strings import target_text
from xaikit.core.structure import check_batch, flatten
from xaikit.core.target_values import Class
from xaikit.core.targets import described, is_several
from xaikit.explainers import Gradient
from xaikit.mitigation.concepts import channel_activations, check_method, separating_direction
from xaikit.shortcuts.concept_scores import ConceptScore, ConceptScores

FEWEST_SETS = 3
FEWEST_EXAMPLES = 6  # three parts of two
ROWS = 64  # samples in a pass


def tcav(  # noqa: PLR0913
    model: nn.Module,
    data: Any,
    concepts: Mapping[str, Any],
    *,
    random_sets: Sequence[Any] | None = None,
    layers: str | Sequence[str] | None = None,
    method: str = "pattern",
    channel_axis: int | None = None,
    head: str | int | None = "logits",
    progress: bool = True,
) -> ConceptScores:
    """The share of the samples of each class whose score grows towards each concept (TCAV, Kim et al. 2018).

    A concept's vector v is fitted at a layer between its examples and a random set, once for each random set. With the
    gradient g of the score at the layer, a sample's derivative along v is the sum over positions of g · v; the TCAV
    score is the share of the samples where it is above 0 (arXiv:1711.11279, eq. 2). Here v is a direction among the
    channels, the same at all positions.

    The paper tests the scores against those of vectors between two random sets. They share the concept's examples, so
    they are not independent, and that test calls a third to a half of random concepts significant at 0.05. Here
    vectors of disjoint parts of the examples, each against another random set, are compared with vectors of equally
    many random samples, by a two-sided Welch test; p is multiplied by the number of concepts (Bonferroni).

    Args:
        model: the model, run in evaluation mode.
        data: the samples that are explained: (x, labels), a loader or a data set of these; each sample counts for its
            label. Instead of labels also one class, a target or a function for all, None for a model with a single
            output, or in (x, [...]) several targets for all, which get rows of their own.
        concepts: the examples of each concept, inputs (n, ...), by its name; at least 6, better 40.
        random_sets: must be given, at least 3 sets of other samples, better 20, such as
            ``x[torch.randperm(500)].chunk(20)``.
        layers: must be given, one or several layers by name, which return (N, channels, ...).
        method: how v is fitted, as for `Concept.fit`: "pattern", or "svm" and "ridge" as in the paper.
        channel_axis: where the layers have their channels, such as -1 in (N, tokens, channels); None: as for
            `Concept.fit`.
        head: which output is explained.
        progress: show a progress bar.

    Returns:
        A score with its p for each concept, layer and class, or target.

    Raises:
        InvalidInputError: for no concept, too few random sets or examples, or a layer that does not tell them apart.
        InvalidTypeError: for concepts that are no mapping, random sets that are no list, or either of `random_sets` and
            `layers` left out.
        UnknownNameError: for a layer that is not there.

    >>> x, more = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([4.0, 0, 0])
    >>> model = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), nn.Linear(3, 2))
    >>> concepts, options = {"first": x[:40] + more}, {"random_sets": x[40:].chunk(8), "progress": False}
    >>> result = tcav(model, (x[:20], 0), concepts, layers="0", **options)
    >>> len(result.rows), 0 <= result.rows[0].p_adjusted <= 1
    (1, True)
    """
    check_method(method)
    if random_sets is None:
        raise InvalidTypeError(
            "tcav needs random_sets=, at least 3 sets of samples that are not of the concept, to tell a score from "
            "chance; of 500 other samples, such as random_sets=other_x[torch.randperm(500)].chunk(20)"
        )
    if layers is None:
        raise InvalidTypeError(f"tcav needs layers=, one or several layers by name, {layers_to_name(model)}")
    examples, others = _examples(model, concepts, random_sets)
    data, targets = _with_several_targets(data)
    points = [layers] if isinstance(layers, (str, nn.Module)) else list(layers)
    if not points:
        raise InvalidInputError("layers must name at least one layer, got none")
    names = list(dict.fromkeys(find_point(model, layer).name for layer in points))
    if len(names) > 1 and isinstance(data, Iterator):
        raise InvalidInputError("several layers read the data once each, and an iterator can be read once; pass a list")
    batches = count_batches(data, ROWS)
    total = None if batches is None else len(names) * (len(others) + len(examples) + batches)
    rows: list[ConceptScore] = []
    with tqdm(total=total, disable=not progress, desc="tcav", unit="pass") as bar:

        def read(x: Any, layer: str) -> tuple[Tensor, int]:
            activations = channel_activations(model, x, layer, channel_axis=channel_axis)
            bar.update()
            return activations

        for name in names:
            first, axis = read(others[0], name)
            randoms = [first, *(read(x, name)[0] for x in others[1:])]
            vectors = {key: ConceptVectors.of(read(x, name)[0], randoms, method, name) for key, x in examples.items()}
            stacked = torch.cat([torch.cat((v.full, v.parts, v.random)) for v in vectors.values()])
            explainer = Gradient(model, layer=name, head=head)
            shares = _shares(explainer, data, targets, stacked, channel_axis=axis, tick=bar.update)
            rows += _rows(name, vectors, shares)
    return ConceptScores(tuple(rows), method)


class ConceptVectors(NamedTuple):
    """The vectors of a concept at a layer.

    Attributes:
        full: of all examples against each random set, (sets, channels).
        parts: of disjoint parts of the examples, each against another random set.
        random: of as many samples of each random set against the next set.
        accuracy: how often held-out samples are told apart by the vectors of all examples.
    """

    full: Tensor
    parts: Tensor
    random: Tensor
    accuracy: float

    @classmethod
    def of(cls, examples: Tensor, randoms: list[Tensor], method: str, layer: str) -> ConceptVectors:
        """Fit them to activations, (n, channels) each.

        Args:
            examples: of the concept.
            randoms: of the random sets.
            method: as for `tcav`.
            layer: its name, for messages.
        """
        fit = functools.partial(_vector, method=method, layer=layer)
        n_parts = min(len(randoms), len(examples) // 2)
        size = len(examples) // n_parts
        return cls(
            torch.stack([fit(examples, other) for other in randoms]),
            torch.stack([fit(examples[k::n_parts], randoms[k]) for k in range(n_parts)]),
            torch.stack(
                [fit(part[:size], other) for part, other in zip(randoms, randoms[1:] + randoms[:1], strict=True)]
            ),
            float(np.mean([_accuracy(examples, other, fit) for other in randoms])),
        )


def welch(scores: Any, others: Any) -> float:
    """P of the two-sided t-test for two means without equal variances; where nothing varies 1 for equal means, else 0.

    Args:
        scores: numbers of one kind.
        others: of the other.
    """
    from scipy import stats  # a second to import, for all who read a mask

    if np.ptp(scores) == 0 and np.ptp(others) == 0:
        return float(scores[0] == others[0])
    # From the moments, since scipy warns of numbers that do not vary, and a score of 1 for all sets is usual.
    moments = [number for group in (scores, others) for number in (np.mean(group), np.std(group, ddof=1), len(group))]
    return float(stats.ttest_ind_from_stats(*moments, equal_var=False).pvalue)


def _examples(model: nn.Module, concepts: Any, random_sets: Any) -> tuple[dict[str, Any], list[Any]]:
    """The examples of the concepts by their names, and the random sets, read and checked."""
    if not isinstance(concepts, Mapping):
        raise InvalidTypeError(
            f"concepts must be a mapping from names to examples, {{'stripes': x}}, got {type(concepts).__name__}"
        )
    if isinstance(random_sets, Iterator):
        random_sets = list(random_sets)
    if not isinstance(random_sets, (list, tuple)):
        raise InvalidTypeError(
            f"random_sets must be a list of sets of samples, such as x.chunk(10), got {type(random_sets).__name__}"
        )
    if not concepts:
        raise InvalidInputError("concepts must hold the examples of at least one concept, got none")
    if len(random_sets) < FEWEST_SETS:
        raise InvalidInputError(
            f"a test needs at least {FEWEST_SETS} random sets, got {len(random_sets)}; split the samples into more"
        )
    examples = {str(name): _read(model, x, f"concept {str(name)!r}") for name, x in concepts.items()}
    return examples, [_read(model, x, f"random set {k}") for k, x in enumerate(random_sets)]


def _read(model: nn.Module, inputs: Any, what: str) -> Any:
    inputs = read_inputs(inputs, model, what=what)
    n = check_batch(flatten(inputs)[0])
    if n < FEWEST_EXAMPLES:
        raise InvalidInputError(f"{what} must hold at least {FEWEST_EXAMPLES} samples, got {n}")
    return inputs


def _vector(with_it: Tensor, without: Tensor, *, method: str, layer: str) -> Tensor:
    shows = torch.arange(len(with_it) + len(without), device="cpu") < len(with_it)
    return separating_direction(torch.cat([with_it, without]), shows, method=method, layer=layer)


def _accuracy(with_it: Tensor, without: Tensor, fit: Callable[[Tensor, Tensor], Tensor]) -> float:
    """How often the vector of every other sample tells the samples in between apart; the mean of both kinds."""
    fitted, others = with_it[::2], without[::2]
    direction = fit(fitted, others)
    middle = (fitted.mean(0) + others.mean(0)) / 2 @ direction
    right = (with_it[1::2] @ direction > middle).double().mean() + (without[1::2] @ direction <= middle).double().mean()
    return float(right / 2)


def _rows(
    layer: str, vectors: Mapping[str, ConceptVectors], by_class: Mapping[int | str | None, tuple[Tensor, int]]
) -> list[ConceptScore]:
    """The scores of each concept and class at a layer, of the shares that `_shares` gives of all vectors."""
    rows, begin = [], 0
    for concept, v in vectors.items():
        counts = [len(v.full), len(v.parts), len(v.random)]
        for target, (shares, samples) in by_class.items():
            full, parts, random = (s.numpy() for s in shares[begin : begin + sum(counts)].split(counts))
            p = welch(parts, random)
            rows.append(
                ConceptScore(
                    concept=concept,
                    layer=layer,
                    target=target,
                    score=float(full.mean()),
                    deviation=float(full.std(ddof=1)),
                    p=p,
                    p_adjusted=min(1.0, p * len(vectors)),
                    accuracy=v.accuracy,
                    part_scores=tuple(parts.tolist()),
                    random_scores=tuple(random.tolist()),
                    samples=samples,
                )
            )
        begin += sum(counts)
    return rows


def _with_several_targets(data: Any) -> tuple[Any, list[Any] | None]:
    """The data, and the targets in (x, [targets]), each for all samples."""
    if isinstance(data, (tuple, list)) and len(data) == 2 and is_several(data[1]):
        return (data[0], None), data[1]
    return data, None


def _shares(
    explainer: Gradient,
    data: Any,
    targets: list[Any] | None,
    vectors: Tensor,
    *,
    channel_axis: int,
    tick: Callable[[], object],
) -> dict[int | str | None, tuple[Tensor, int]]:
    """For each class the share of its samples whose score grows along each vector, (vectors,), and their number."""
    names = None if targets is None else _names(targets)
    grows: dict[int | str | None, Tensor] = {}
    counts: dict[int | str | None, int] = {}
    for batch in read_batches(data, model=explainer.model, rows=ROWS, targets=True):
        gradient = explainer.attribute(batch.inputs, batch.labels if targets is None else targets).double().cpu()
        every = [gradient] if names is None else gradient
        for k, part in enumerate(every):
            g = part.movedim(channel_axis, 1)
            positive = (g.flatten(2).sum(2) if g.ndim > 2 else g) @ vectors.T > 0
            keys = _keys(batch.labels, len(g)) if names is None else [names[k]] * len(g)
            for key in dict.fromkeys(keys):
                members = positive[torch.tensor([other == key for other in keys], device="cpu")]
                grows[key] = grows.get(key, 0) + members.sum(0)
                counts[key] = counts.get(key, 0) + len(members)
        tick()
    order = sorted(grows, key=lambda key: key or 0) if names is None else list(grows)
    return {key: (grows[key].double() / counts[key], counts[key]) for key in order}


def _keys(labels: Any, n: int) -> list[int | None]:
    """The class of each sample; None where what is explained is no class."""
    labels = labels.index if isinstance(labels, Class) else labels
    if not isinstance(labels, Tensor):
        return [labels if isinstance(labels, int) else None] * n
    return [int(label) for label in labels.expand(n).tolist()]


def _names(targets: Sequence[Any]) -> list[int | str]:
    """What the targets are called in the table, each otherwise: a class by its number, others by their text."""
    names: list[int | str] = []
    for target in targets:
        value = target.index if isinstance(target, Class) else target
        if not isinstance(value, int):
            value = getattr(value, "__name__", None) or target_text(described(target))
        names.append(value if value not in names else f"{value} ({len(names)})")
    return names
