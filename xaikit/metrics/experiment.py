"""Experiment: a model, samples, and what was measured on them; nothing is computed twice."""

from __future__ import annotations

import functools
import os
import warnings
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
from xaikit.explainers.lrp.registry import USER_RULES as LRP_RULES
from xaikit.metrics.base import Metric, Postprocess
from xaikit.metrics.content import NOT_STATE, UnknownContentError, digest_of
from xaikit.metrics.evaluate import TableCell, as_table, bound, check_masks, labelled, measure
from xaikit.metrics.experiment_folder import ExperimentFolder, as_values
from xaikit.metrics.kept_attributions import KeptAttributions
from xaikit.metrics.table import Evaluation


class Experiment:
    """Explainers, ways to postprocess and metrics on the same model and samples, compared step by step.

    `evaluate` remembers two things: the attribution of each explainer, which all metrics and all ways to postprocess
    share, and the values of each explainer, postprocessing and metric. So a further metric costs its own passes only, a
    further explainer costs its own, and what was measured before costs none. Objects with equal settings count as the
    same; functions if they are the same object, and what they name has not changed. Where the model (weights, buffers,
    layers, numbers that it holds) or the samples have changed since, all is forgotten. What was measured before Ctrl-C
    is remembered batch by batch, errors are not.

    With a `folder` all of it is also kept in files of arrays there, and an experiment that is made again in that folder
    goes on where it ended. A file is found by a digest of all that its numbers depend on: weights, buffers, settings
    and the code of the classes of model, explainer and metric, the samples, the seed, versions of packages. So one
    folder may serve several models and data sets, and what has changed is computed again. What holds something of which
    this cannot be told (an open file, say) stays in memory alone, with a warning.

    Unlike other objects of xaikit this one grows: attributions stay in memory, on the CPU, up to `max_gigabytes`. Above
    that the explainers that were used least recently are explained again when they are needed; the values stay.

    Args:
        model: what is explained.
        data: as for `evaluate`, in memory: batches of a loader are kept.
        relevant_region: likewise.
        confidence: of the intervals.
        seed: of every random number.
        max_gigabytes: most attributions that are kept in memory.
        folder: where to keep attributions and values; None: in memory alone.

    Raises:
        InvalidInputError, InvalidTypeError: for data that cannot be read, a folder that holds something else.

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
        folder: str | os.PathLike[str] | None = None,
    ) -> None:
        if not isinstance(model, nn.Module):
            raise InvalidTypeError(f"an experiment needs a torch.nn.Module, got {type(model).__name__}")
        options: dict[str, Any] = {"model": model, "rows": None, "targets": True}
        self._model, self._batches = model, list(read_batches(data, relevant_region, what="relevant_region", **options))
        self._confidence = Float(gt=0, lt=1).check(confidence, "confidence")
        self._seed = Int(ge=0).check(seed, "seed")
        self._state = self._fingerprint()
        self._attributions = KeptAttributions(Float(ge=0).check(max_gigabytes, "max_gigabytes"))
        self._values: dict[Any, dict[int, list[float]]] = {}  # of each measurement, batch by batch
        self._folder = None if folder is None else ExperimentFolder(folder)
        self._of_data = ""
        self._warned: set[str] = set()

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
        postprocess = _hashable(postprocess)
        self._forget_what_has_changed()
        keys = {
            (e, m): tuple(map(_key, (by_label[e], postprocess, named_metrics[m])))
            for e in by_label
            for m in named_metrics
        }
        self._note_digests(by_label, postprocess, named_metrics)
        cells = {names: TableCell() for names in keys}
        batches = range(len(self._batches))
        missing = {
            (e, i): [m for m in named_metrics if self._value(keys[e, m], i) is None] for e in by_label for i in batches
        }
        total = sum(1 + len(of_batch) for of_batch in missing.values() if of_batch)
        stopped = Stopped.DONE
        with tqdm(total=total, desc="evaluate", unit="step", disable=not progress) as bar:
            try:
                for label in by_label:
                    bar.set_postfix_str(label)
                    for number in batches:
                        of_batch = {m: named_metrics[m] for m in missing[label, number] if not cells[label, m].error}
                        new = {m: TableCell() for m in of_batch}
                        attribute = functools.partial(self._attribute, number)
                        options: dict[str, Any] = {"step_done": bar.update, "attribute": attribute}
                        try:
                            if new:
                                batch = self._batches[number]
                                measure(by_label[label], of_batch, new, batch, postprocess, self._seed, **options)
                        finally:
                            for m, cell in new.items():
                                cells[label, m].error = cell.error
                                if cell.values:
                                    self._remember(keys[label, m], number, cell.values)
                            for m in named_metrics:
                                cells[label, m].values += self._value(keys[label, m], number) or []
            except KeyboardInterrupt:
                if not any(cell.values for cell in cells.values()):
                    raise
                stopped = Stopped.INTERRUPTED
        return as_table(by_label, named_metrics, cells, confidence=self._confidence, seed=self._seed, stopped=stopped)

    def _attribute(self, number: int, explainer: Explainer, batch: Batch) -> Any:
        """The attribution of a batch, that with the number."""
        key = _key(explainer)
        attribution = self._attributions.get(key, number)
        digest = self._digest_of(key, number)
        if attribution is None and digest is not None and self._folder is not None:
            attribution = self._folder.read(digest)
            if attribution is not None:
                self._attributions.add(key, number, attribution)
        if attribution is None:
            attribution = moved(explainer.attribute(batch.inputs, batch.labels, seed=self._seed), "cpu")
            self._attributions.add(key, number, attribution)
            if digest is not None and self._folder is not None:
                self._folder.write(digest, attribution)
        return moved(attribution, explainer.device)

    def _value(self, key: Any, number: int) -> list[float] | None:
        """The values of a measurement on the batch with the number, from memory or the folder; None for none."""
        by_batch = self._values.setdefault(key, {})
        if number not in by_batch and self._folder is not None:
            digest = self._digest_of(key, number)
            stored = None if digest is None else self._folder.read(digest)
            if isinstance(stored, Tensor) and stored.shape == (self._batches[number].size,):
                by_batch[number] = as_values(stored)
        return by_batch.get(number)

    def _remember(self, key: Any, number: int, values: list[float]) -> None:
        self._values.setdefault(key, {})[number] = values
        digest = self._digest_of(key, number)
        if digest is not None and self._folder is not None:
            self._folder.write(digest, torch.tensor(values, dtype=torch.float64, device="cpu"))

    def _note_digests(self, *parts: Any) -> None:
        """Look once for each call what the values depend on; warn where it cannot be told."""
        self._digests: dict[Any, str | None] = {}
        if self._folder is not None:
            rules = LRP_RULES  # of the user, which change what LRP gives
            self._of_data = self._digest("the model, the samples or a rule", self._model, self._batches, rules) or ""

    def _digest_of(self, key: Any, number: int) -> str | None:
        """Under which name the folder keeps what a key stands for, on one batch; None for no folder or no name."""
        if self._folder is None or not self._of_data:
            return None
        if key not in self._digests:
            members = [part[0] for part in (key if isinstance(key[0], tuple) else (key,))]
            self._digests[key] = self._digest(" or ".join(map(repr, members)), members, self._seed)
        digest = self._digests[key]
        return None if digest is None else digest_of(self._of_data, digest, number)

    def _digest(self, what: str, *values: Any) -> str | None:
        try:
            return digest_of(*values)
        except (UnknownContentError, ValueError) as error:
            if what not in self._warned:
                self._warned.add(what)
                warnings.warn(
                    f"an experiment keeps nothing in its folder of {what}, since it cannot be told whether it is the "
                    f"same later ({error}); it stays in memory",
                    stacklevel=5,
                )
            return None

    def _forget_what_has_changed(self) -> None:
        state = self._fingerprint()
        if state != self._state:
            self._state = state
            self._attributions.clear()
            self._values.clear()

    def _fingerprint(self) -> tuple[Any, ...]:
        """What the values depend on: also what a model holds beside its state, such as other layers or numbers."""
        numbers = [
            (name, key, value)
            for name, module in self._model.named_modules()
            for key, value in ((k, _held(v)) for k, v in vars(module).items() if k not in NOT_STATE)
            if value is not None
        ]
        buffers = [_content(buffer) for buffer in self._model.buffers()]
        state = fingerprint_of_model(self._model), fingerprint_of_data(self._batches)
        return *state, repr(self._model), numbers, buffers

    def __repr__(self) -> str:
        samples = sum(batch.size for batch in self._batches)
        explanations = len(self._attributions)
        measurements = sum(len(by_batch) == len(self._batches) for by_batch in self._values.values())
        return f"Experiment({samples} samples: {explanations} explanations, {measurements} measurements)"


def moved(attributions: Any, device: torch.device | str) -> Any:
    """Attributions without a graph, on a device.

    Args:
        attributions: a tensor, or several in a tuple or dict.
        device: such as "cpu".
    """
    tensors, rebuild = flatten(attributions)
    return rebuild(tuple(tensor.detach().to(device) for tensor in tensors))


def _hashable(postprocess: Any) -> Any:
    """A function as a key; of an object that compares by its fields, such as a dataclass, what is called."""
    if postprocess is not None and not callable(postprocess):
        raise InvalidTypeError(f"postprocess must be a function of an attribution, got {postprocess!r}")
    return postprocess if getattr(type(postprocess), "__hash__", None) else postprocess.__call__


def _key(value: Any) -> tuple[Any, Any]:
    """What tells an explainer, a metric or a postprocessing from others, also where a tensor in it is changed later."""
    return value, _content(value)


def _content(value: Any) -> Any:
    """Fingerprints of the tensors, models and functions in a value; None where it cannot be told."""
    if isinstance(value, nn.Module):
        return fingerprint_of_model(value)
    if isinstance(value, (Tensor, np.ndarray)):
        return fingerprint_of_tensor(torch.as_tensor(value, device="cpu"))
    if isinstance(value, Configured):
        value = value.settings()
    if isinstance(value, (Mapping, list, tuple)):
        items = value.values() if isinstance(value, Mapping) else value
        return tuple(map(_content, items))
    return _held(value)  # such as a function, with the numbers that it names


def _held(value: Any) -> str | None:
    """A digest of what a module holds in an attribute; None where it cannot be told."""
    try:
        return digest_of(value)
    except (UnknownContentError, ValueError):
        return None
