"""Experiment: a model, samples, and what was measured on them; nothing is computed twice."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from xaikit.core import EXPLAINERS, METRICS, Configured, Explainer, Float, Int
from xaikit.core.batch import Batch, read_batches
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.fingerprints import fingerprint_of_data, fingerprint_of_model, fingerprint_of_tensor
from xaikit.core.results import Stopped
from xaikit.core.structure import flatten
from xaikit.metrics.base import Metric, Postprocess
from xaikit.metrics.evaluate import TableCell, as_table, bound, check_masks, labelled, measure
from xaikit.metrics.kept_attributions import KeptAttributions
from xaikit.metrics.table import Evaluation


class Experiment:
    """Explainers, ways to postprocess and metrics on the same model and samples, compared step by step.

    `evaluate` remembers two things: the attribution of each explainer, which all metrics and all ways to postprocess
    share, and the values of each explainer, postprocessing and metric. So a further metric costs its own passes only, a
    further explainer costs its own, and what was measured before costs none. Objects with equal settings count as the
    same; functions only if they are the same object. Where the model (weights, buffers, layers, numbers that it holds)
    or the samples have changed since, all is forgotten. Errors and what Ctrl-C cut off are not remembered.

    Unlike other objects of xaikit this one grows: attributions stay in memory, on the CPU, up to `max_gigabytes`. Above
    that the explainers that were used least recently are explained again when they are needed; the values stay.

    Args:
        model: what is explained.
        data: as for `evaluate`, in memory: batches of a loader are kept.
        relevant_region: likewise.
        confidence: of the intervals.
        seed: of every random number.
        max_gigabytes: most attributions that are kept.

    Raises:
        InvalidInputError, InvalidTypeError: for data that cannot be read.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))
    >>> experiment = Experiment(model, (torch.rand(5, 4), 0))
    >>> table = experiment.evaluate(["gradient", "lrp_epsilon_plus"], "sparseness", progress=False)
    >>> table = experiment.evaluate("gradient", ["sparseness", "abpc"], progress=False)  # passes for abpc alone
    >>> experiment
    Experiment(5 samples: 2 explanations, 3 measurements)
    """

    def __init__(  # noqa: PLR0913
        self,
        model: nn.Module,
        data: Any,
        *,
        relevant_region: Any = None,
        confidence: float = 0.95,
        seed: int = 0,
        max_gigabytes: float = 2.0,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InvalidTypeError(f"an experiment needs a torch.nn.Module, got {type(model).__name__}")
        options: dict[str, Any] = {"model": model, "rows": None, "targets": True}
        self._model, self._batches = model, list(read_batches(data, relevant_region, what="relevant_region", **options))
        self._confidence = Float(gt=0, lt=1).check(confidence, "confidence")
        self._seed = Int(ge=0).check(seed, "seed")
        self._state = self._fingerprint()
        self._attributions = KeptAttributions(Float(ge=0).check(max_gigabytes, "max_gigabytes"))
        self._cells: dict[Any, TableCell] = {}

    def evaluate(
        self, explainers: Any, metrics: Any, *, postprocess: Postprocess | None = None, progress: bool = True
    ) -> Evaluation:
        """The table that `xaikit.evaluate` gives, with passes only for what is not known yet.

        Args:
            explainers: as for `evaluate`; without a model, or with that of the experiment.
            metrics: as for `evaluate`.
            postprocess: of the attributions, as for `evaluate`.
            progress: show a progress bar.

        Raises:
            InvalidInputError, InvalidTypeError, UnknownNameError: as for `evaluate`, and for an explainer of another
                model.
        """
        by_label = bound(labelled(explainers, EXPLAINERS, Explainer), self._model)
        named_metrics: dict[str, Metric] = labelled(metrics, METRICS, Metric)
        for label, explainer in by_label.items():
            if explainer.model is not self._model:
                raise InvalidInputError(
                    f"an experiment is about one model, and the explainer {label!r} has another; make an Experiment "
                    "for that"
                )
        for batch in self._batches:
            check_masks(named_metrics, batch)
        self._forget_what_has_changed()
        keys = {
            (e, m): tuple(map(_key, (by_label[e], postprocess, named_metrics[m])))
            for e in by_label
            for m in named_metrics
        }
        cells = {names: self._cells.get(key, TableCell()) for names, key in keys.items()}
        missing = {e: {m: named_metrics[m] for m in named_metrics if keys[e, m] not in self._cells} for e in by_label}
        total = len(self._batches) * sum(1 + len(of_explainer) for of_explainer in missing.values() if of_explainer)
        stopped = Stopped.DONE
        with tqdm(total=total, desc="evaluate", unit="step", disable=not progress) as bar:
            try:
                for label, of_explainer in missing.items():
                    bar.set_postfix_str(label)
                    open_cells = {m: cells[label, m] for m in of_explainer}
                    for number, batch in enumerate(self._batches):
                        attribute = functools.partial(self._attribute, number)
                        options = {"step_done": bar.update, "attribute": attribute}
                        measure(by_label[label], of_explainer, open_cells, batch, postprocess, self._seed, **options)
                    self._cells.update({keys[label, m]: c for m, c in open_cells.items() if c.error is None})
            except KeyboardInterrupt:
                if not any(cell.values for cell in cells.values()):
                    raise
                stopped = Stopped.INTERRUPTED
        return as_table(by_label, named_metrics, cells, confidence=self._confidence, seed=self._seed, stopped=stopped)

    def _attribute(self, number: int, explainer: Explainer, batch: Batch) -> Any:
        """The attribution of a batch, that with the number."""
        key = _key(explainer)
        attribution = self._attributions.get(key, number)
        if attribution is None:
            attribution = moved(explainer.attribute(batch.inputs, batch.labels, seed=self._seed), "cpu")
            self._attributions.add(key, number, attribution)
        return moved(attribution, explainer.device)

    def _forget_what_has_changed(self) -> None:
        state = self._fingerprint()
        if state != self._state:
            self._state = state
            self._attributions.clear()
            self._cells.clear()

    def _fingerprint(self) -> tuple[Any, ...]:
        """What the values depend on: also what a model holds beside its state, such as other layers or numbers."""
        numbers = [
            (name, key, value)
            for name, module in self._model.named_modules()
            for key, value in vars(module).items()
            if type(value) in (int, float, str, bool) and key != "training"
        ]
        buffers = [_content(buffer) for buffer in self._model.buffers()]
        state = fingerprint_of_model(self._model), fingerprint_of_data(self._batches)
        return *state, repr(self._model), numbers, buffers

    def __repr__(self) -> str:
        samples = sum(batch.size for batch in self._batches)
        explanations = len(self._attributions)
        return f"Experiment({samples} samples: {explanations} explanations, {len(self._cells)} measurements)"


def moved(attributions: Any, device: torch.device | str) -> Any:
    """Attributions without a graph, on a device.

    Args:
        attributions: a tensor, or several in a tuple or dict.
        device: such as "cpu".
    """
    tensors, rebuild = flatten(attributions)
    return rebuild(tuple(tensor.detach().to(device) for tensor in tensors))


def _key(value: Any) -> tuple[Any, Any]:
    """What tells an explainer, a metric or a postprocessing from others, also where a tensor in it is changed later."""
    return value, _content(value)


def _content(value: Any) -> Any:
    """Fingerprints of the tensors and models in a value; None where it holds none."""
    if isinstance(value, nn.Module):
        return fingerprint_of_model(value)
    if isinstance(value, (Tensor, np.ndarray)):
        return fingerprint_of_tensor(torch.as_tensor(value, device="cpu"))
    if isinstance(value, Configured):
        value = value.settings()
    if isinstance(value, (Mapping, list, tuple)):
        items = value.values() if isinstance(value, Mapping) else value
        return tuple(map(_content, items))
    return None
