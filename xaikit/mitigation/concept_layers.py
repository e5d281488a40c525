"""Which layer holds a concept best: measured on samples that its direction was not fitted to."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xaikit.core.errors import InvalidInputError, XaikitError
from xaikit.core.inputs import read_inputs
from xaikit.core.params import Int
from xaikit.core.structure import check_batch, flatten
from xaikit.mitigation.clarc import _moved
from xaikit.mitigation.concepts import Concept, _read_flags, channel_activations
from xaikit.mitigation.forward import class_logits, evaluating

ROWS = 64  # samples in a pass


class ConceptLayer(NamedTuple):
    """A layer, and what was measured there on the half of the samples that nothing was fitted to.

    Attributes:
        layer: its name.
        separation: how well the concept's direction tells samples with it from those without, the area under the ROC
            curve: 1 is perfect, 0.5 chance.
        changed: share of predictions that change where the concept is taken away from samples that show it, and added
            to those that do not.
        concept: fitted there to all samples.
    """

    layer: str
    separation: float
    changed: float
    concept: Concept


def concept_layers(  # noqa: PLR0913
    model: nn.Module,
    inputs: Any,
    labels: Any,
    *,
    layers: Iterable[str] | None = None,
    method: str = "pattern",
    channel_axis: int | None = None,
    head: str | int = "logits",
    seed: int = 0,
) -> list[ConceptLayer]:
    """The layers of a model, the one first at which a mitigator such as `RRClArC` should take the concept.

    Of layers that separate alike (to a hundredth) the one comes first where moving the concept changes more
    predictions: that is where the model reads it.

    Args:
        model: returns logits (N, C), or holds them under `head`; run in evaluation mode.
        inputs: samples (N, ...), as for `Concept.fit`.
        labels: (N,), true or 1 where a sample shows the concept.
        layers: names of layers; None takes all that hold no others and whose outputs have channels.
        method: of the fit, as for `Concept.fit`.
        channel_axis: likewise.
        head: which output holds the logits.
        seed: of the halves.

    Raises:
        InvalidInputError: for fewer than two samples with the concept, or without; where no layer can hold it.

    >>> x, shows = torch.randn(40, 4), torch.arange(40) % 2
    >>> x[:, 0] += 4 * shows
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> first = concept_layers(model, x, shows)[0]
    >>> first.separation > 0.8, first.concept.layer == first.layer
    (True, True)
    """
    Int(ge=0).check(seed, "seed")
    inputs = read_inputs(inputs, model)
    tensors, rebuild = flatten(inputs)
    shows = _read_flags(labels, check_batch(tensors))
    fitted, judged = _halves(shows, seed)
    samples = rebuild(tuple(t[judged.to(t.device)] for t in tensors))
    rows = rebuild(tuple(t[fitted.to(t.device)] for t in tensors))
    names = [name for name, module in model.named_modules() if name and not any(module.children())]
    measured: list[ConceptLayer] = []
    reasons: list[XaikitError] = []
    as_is = _predicted(model, samples, head)
    for name in names if layers is None else layers:
        options: dict[str, Any] = {"layer": name, "method": method, "channel_axis": channel_axis}
        try:
            half = Concept.fit(model, rows, shows[fitted], **options)
            activations, _ = channel_activations(model, samples, name, channel_axis=half.channel_axis)
            along = activations @ half.direction.double().cpu()
            with _moved(model, half, half.absent):
                without = _predicted(model, samples, head)
            with _moved(model, half, half.present):
                added = _predicted(model, samples, head)
            changed = torch.where(shows[judged], without, added) != as_is
            concept = Concept.fit(model, inputs, shows, **options)
        except XaikitError as error:  # the layer has no channels, never ran, or ignores the concept
            if layers is not None:
                raise
            reasons.append(error)
            continue
        separation = _area_under_curve(along, shows[judged])
        measured.append(ConceptLayer(concept.layer, separation, float(changed.double().mean()), concept))
    if not measured:
        reason = f": {reasons[0]}" if reasons else ""
        raise InvalidInputError(f"no layer of the model can hold the concept; name some with layers={reason}")
    return sorted(measured, key=lambda row: (-round(row.separation, 2), -row.changed))


def _halves(shows: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the samples to fit to and to judge by; both have samples with the concept and without."""
    generator, parts = torch.Generator().manual_seed(seed), []
    for flag in (True, False):
        members = (shows == flag).nonzero()[:, 0]
        if len(members) < 2:
            raise InvalidInputError(
                f"concept_layers needs two samples that show the concept and two that do not, got {len(members)} that "
                f"{'do' if flag else 'do not'}"
            )
        parts.append(members[torch.randperm(len(members), generator=generator, device="cpu")].chunk(2))
    fitted, judged = (torch.cat(half).sort().values for half in zip(*parts, strict=True))
    return fitted, judged


def _predicted(model: nn.Module, inputs: Any, head: str | int) -> Tensor:
    """The predicted classes, (N,), on the CPU."""
    tensors, rebuild = flatten(inputs)
    parts = []
    with evaluating(model) as device:
        for rows in torch.arange(len(tensors[0]), device="cpu").split(ROWS):
            batch = rebuild(tuple(t[rows.to(t.device)].to(device) for t in tensors))
            parts.append(class_logits(model, batch, head).argmax(1).cpu())
    return torch.cat(parts)


def _area_under_curve(scores: Tensor, shows: Tensor) -> float:
    """The share of pairs, one with the concept and one without, in which the first has the higher score."""
    others = scores[~shows].sort().values
    below = torch.searchsorted(others, scores[shows]) + torch.searchsorted(others, scores[shows], right=True)
    return float(below.double().mean()) / (2 * len(others))
