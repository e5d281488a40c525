"""explain_dataset: the explanation of every sample of a data set, however large, on disk and resumable."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from inspect import isfunction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from xaikit.core import TARGETS as TARGET_VALUES
from xaikit.core import Explainer, Int
from xaikit.core.errors import InvalidInputError, InvalidTypeError, NonFiniteError, UnboundError
from xaikit.core.setting_json import to_json
from xaikit.core.structure import flatten
from xaikit.core.target_values import Target
from xaikit.runs import manifest, shards
from xaikit.runs.run import Run, load_run
from xaikit.runs.shards import Shard, concatenated
from xaikit.runs.source import SampleBatch, SampleSource, sample_hash, usual_shard_size

DTYPES = ("float16", "bfloat16", "float32", "float64")
TARGETS = ("predicted", "label")


def explain_dataset(  # noqa: PLR0913
    explainer: Explainer,
    data: Any,
    *,
    out: str | Path,
    targets: Any = "predicted",
    batch_size: int | None = None,
    shard_size: int | None = None,
    dtype: str | None = None,
    keep_inputs: bool = False,
    seed: int = 0,
    repair: bool = False,
    rank: int | None = None,
    world_size: int | None = None,
    progress: bool = True,
) -> Run:
    """Explain every sample and write the attributions to a folder, shard by shard.

    A shard is written completely or not at all. So the same call, after Ctrl-C, a crash or kill -9, goes on where it
    stopped: only the unfinished shard is computed again. One shard is in memory at a time, whatever the data's size.
    Processes that share `out` (started by torchrun, by Lightning Fabric, or with `rank` and `world_size` on several
    machines) take every world_size-th shard each; the result is the same as that of one process.

    Args:
        explainer: a bound explainer.
        data: inputs (N, ...) or (inputs, labels) as tensors, arrays, lists, a DataFrame or a mapping of these; a
            map-style Dataset of x or (x, label); or a DataLoader over one without shuffling. A data set may have
            `names` of its samples, `classes` and `features`, which a report shows, and a method `fingerprint(index)`;
            it may raise `UnreadableSampleError` for a sample, which is then left out and noted.
        out: folder of the run; a new one, or that of the same job.
        targets: a class, "predicted", "label", or a target that holds for all samples: an object, or its spec string
            "position:position=-1,index=5". A model with a single output has no classes.
        batch_size: samples in a pass; None takes the loader's, else 32.
        shard_size: samples in a file; None chooses at most 128, and fewer where they are large.
        dtype: of the stored attributions: "float16", "bfloat16", "float32", "float64"; None keeps the explainer's.
        keep_inputs: store the inputs too, for a report.
        seed: of the explainer's random numbers; a sample gets the same ones in every shard.
        repair: check every shard and compute damaged ones again.
        rank: of this process; None reads RANK from the environment, else 0.
        world_size: number of processes; None reads WORLD_SIZE, else 1.
        progress: show a progress bar, with the time left.

    Returns:
        The run, which reads its values from the disk when they are used.

    Raises:
        InvalidInputError, InvalidTypeError: for arguments that cannot be right, or a folder that holds another job.
        UnboundError: for an explainer without a model.
        OSError: when the disk refuses; what was written stays, and the same call goes on.

    >>> import tempfile
    >>> from xaikit.explainers import Gradient
    >>> x, folder = torch.rand(6, 4), tempfile.mkdtemp()
    >>> run = explain_dataset(Gradient(torch.nn.Linear(4, 2)), x, out=folder + "/run", progress=False)
    >>> len(run), run[5].values.shape
    (6, torch.Size([4]))
    """
    if not isinstance(explainer, Explainer):
        raise InvalidTypeError(f"explain_dataset takes an Explainer, got {type(explainer).__name__}")
    model = explainer.model
    if model is None:
        raise UnboundError(f"{explainer!r} has no model yet; call .bind(model) first")
    if dtype not in (None, *DTYPES):
        raise InvalidInputError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    chosen = _chosen(targets)
    source = SampleSource(data, Int(ge=1, optional=True).check(batch_size, "batch_size"), model)
    process, n_processes = _process(rank, world_size)
    inputs, labels = source.first()
    if chosen == "label" and labels is None:
        raise InvalidInputError("targets='label' needs data of pairs (x, label), got samples without a label")
    _check_fit(explainer, inputs, chosen)
    size = Int(ge=1, optional=True).check(shard_size, "shard_size") or usual_shard_size(inputs)
    job = {
        "explainer": _described(explainer),
        "model": type(model).__name__,
        "weights": manifest.weights_hash(model),
        "targets": chosen.spec() if isinstance(chosen, Target) else chosen,
        "seed": Int(ge=0).check(seed, "seed"),
        "dtype": dtype,
        "keep_inputs": bool(keep_inputs),
        "samples": source.n,
        "first sample": [manifest.tensor_hash(t) for t in flatten(inputs)[0]],
        "shard size": size,
    }
    folder = Path(out)
    manifest.check(folder, job, repair=repair)
    stamp = manifest.job_hash(job)
    own_shards = [k for k in range(-(-source.n // size)) if k % n_processes == process]
    finished = [k for k in own_shards if _is_done(folder, k, stamp, repair=repair)]
    _check_same_rows(folder, finished, source)
    todo = sorted(set(own_shards) - set(finished))
    n_samples = sum(min((k + 1) * size, source.n) - k * size for k in todo)
    keep = _Keeper(explainer, source, targets=chosen, dtype=dtype, keep_inputs=keep_inputs, seed=seed)
    with tqdm(total=n_samples, desc="explain", unit="sample", disable=not progress or process > 0 or not todo) as bar:
        claimed = False
        for number, shard in keep.shards(source.parts(todo, size), explainer.device, bar):
            # Only when there is something to write: a job that fails at once must not block the folder for another job.
            claimed = claimed or manifest.claim(folder, job, source.display_names, repair=repair)
            shards.write(folder, number, shard, stamp)
    if not claimed:
        manifest.claim(folder, job, source.display_names, repair=repair)
    return load_run(folder)


class _Keeper:
    """Explains batches and joins them to shards."""

    def __init__(
        self,
        explainer: Explainer,
        source: SampleSource,
        *,
        targets: Any,
        dtype: str | None,
        keep_inputs: bool,
        seed: int,
    ) -> None:
        self._explainer, self._targets, self._seed = explainer, targets, seed
        self._names, self._fingerprint = source.names, source.fingerprint
        self._dtype = None if dtype is None else getattr(torch, dtype)
        self._keep_inputs = keep_inputs

    def shards(self, parts: Iterator[SampleBatch], device: torch.device, bar: Any) -> Iterator[tuple[int, Shard]]:
        rows: list[Shard] = []
        for part in parts:
            rows.append(self._explained(part, device))
            bar.update(len(part.indices) + len(part.skipped))
            if part.last:
                yield part.shard, _joined(rows)
                rows = []

    def _explained(self, part: SampleBatch, device: torch.device) -> Shard:
        if part.inputs is None:
            return Shard(part.indices, None, skipped=part.skipped)
        tensors, rebuild = flatten(part.inputs)
        inputs = rebuild(tuple(t.to(device) for t in tensors))
        # A target of several outputs may stand on a model without the one that the explainer names.
        alone = not (isinstance(self._targets, Target) and self._targets.looks_at_all_heads)
        output = self._explainer.output(inputs) if alone else None
        predicted = None if output is None or output.ndim != 2 or output.shape[1] < 2 else output.argmax(1)
        target = {"predicted": predicted, "label": part.labels}.get(str(self._targets), self._targets)
        attribution = self._explainer.explain(inputs, target, seed=self._seed)
        return Shard(
            indices=part.indices,
            values=self._stored(attribution.values),
            targets=_classes(target, len(part.indices)),
            scores=attribution.scores,
            predicted=predicted,
            confidence=None if predicted is None or output is None else _confidence(output),
            labels=part.labels,
            gap=attribution.gap,
            inputs=part.inputs if self._keep_inputs else None,
            names=tuple(self._names[i] for i in part.indices.tolist()) if self._names else (),
            skipped=part.skipped,
            fingerprints=self._fingerprints(part.indices.tolist()),
            first_row=sample_hash(part.inputs, part.labels),
        )

    def _fingerprints(self, indices: list[int]) -> tuple[str, ...]:
        return () if self._fingerprint is None else tuple(str(self._fingerprint(i)) for i in indices)

    def _stored(self, values: Any) -> Any:
        tensors, rebuild = flatten(values)
        return rebuild(tuple(t if self._dtype is None else t.to(self._dtype) for t in tensors))


def _confidence(output: Tensor) -> Tensor:
    """The largest probability of each row (N, C): the outputs themselves where they are probabilities, else softmax."""
    output = output.detach().double()
    is_probability = (output >= 0).all(1, keepdim=True) & ((output.sum(1, keepdim=True) - 1).abs() < 1e-4)
    return torch.where(is_probability, output, torch.softmax(output, 1)).amax(1).float()


def _joined(rows: list[Shard]) -> Shard:
    read = [row for row in rows if row.values is not None]
    skipped = {i: reason for row in rows for i, reason in row.skipped.items()}
    if not read:
        return Shard(torch.empty(0, dtype=torch.long, device="cpu"), None, skipped=skipped)
    fields = ("indices", "values", "inputs", *shards.PLAIN)
    return Shard(
        **{name: concatenated([getattr(row, name) for row in read]) for name in fields},
        names=tuple(name for row in read for name in row.names),
        fingerprints=tuple(mark for row in read for mark in row.fingerprints),
        skipped=skipped,
        first_row=read[0].first_row,
    )


def _described(explainer: Explainer) -> dict[str, Any]:
    """The explainer's spec; a function in it, which no JSON holds, by its name."""
    settings = {
        k: f"{v.__module__}.{v.__qualname__}" if isfunction(v) else v
        for k, v in explainer.serialised_settings().items()
    }
    return {"name": explainer.NAME or type(explainer).__qualname__, "settings": to_json(settings, "explainer")}


def _check_fit(explainer: Explainer, inputs: Any, targets: Any) -> None:
    """Run the model on one sample, so that a wrong call fails before a folder is made."""
    if isinstance(targets, Target) and targets.looks_at_all_heads:
        return
    tensors, rebuild = flatten(inputs)
    try:
        output = explainer.output(rebuild(tuple(t.to(explainer.device) for t in tensors)))
    except RuntimeError as err:
        shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
        raise InvalidInputError(f"the model does not take inputs of shape {shapes} ({err})") from err
    if not bool(torch.isfinite(output).any()):
        raise NonFiniteError(
            "the model gives NaN or infinite numbers for the first sample, so there is nothing to explain; look at its "
            "weights (a training that diverged?) and at the values of the samples"
        )


def _check_same_rows(folder: Path, numbers: list[int], source: SampleSource) -> None:
    """Refuse to go on with a run of other samples: the first sample of each shard is compared, and all known labels."""
    for number in numbers:
        labels = source.labels
        stored = {} if labels is None else shards.labels_of(folder, number)
        other = next((i for i, label in stored.items() if labels is not None and labels[i] != label), None)
        if other is not None and labels is not None:
            raise InvalidInputError(
                f"{folder} was begun with other labels: sample {other} has {stored[other]} there and {labels[other]} "
                "here; use the same labels, or name another folder"
            )
        row = shards.first_row_of(folder, number)
        if row is not None and source.row_hash(row[0]) != row[1]:
            raise InvalidInputError(
                f"{folder} was begun with other data: sample {row[0]} differs from the one that "
                f"{shards.path_of(folder, number).name} holds; use the same samples in the same order and without "
                "random changes, or name another folder"
            )


def _classes(target: Any, n: int) -> Tensor | None:
    """The explained class of each sample, where classes are explained."""
    return torch.as_tensor(target, device="cpu").expand(n) if isinstance(target, (int, Tensor)) else None


def _chosen(targets: Any) -> int | str | Target:
    """The targets, checked: a class, "predicted", "label", or a target."""
    if isinstance(targets, str) and targets in TARGETS:
        return targets
    if isinstance(targets, (Target, Mapping)) or (
        isinstance(targets, str) and targets.partition(":")[0] in TARGET_VALUES
    ):
        target: Target = TARGET_VALUES.create(targets)
        return target
    if isinstance(targets, bool) or not hasattr(targets, "__index__"):
        raise InvalidInputError(
            f"targets must be a class, 'predicted', 'label', a target or its spec string, got {targets!r}"
        )
    return int(targets)


def _process(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process among those that share the run."""
    process = Int(ge=0).check(_from_environment("RANK", 0) if rank is None else rank, "rank")
    world = Int(ge=1).check(_from_environment("WORLD_SIZE", 1) if world_size is None else world_size, "world_size")
    if process >= world:
        raise InvalidInputError(f"rank must lie in 0..{world - 1} for world_size={world}, got {process}")
    return process, world


def _from_environment(name: str, usual: int) -> int:
    """A number from an environment variable that torchrun sets; `usual` if it is absent or no number."""
    text = os.environ.get(name, "")
    return int(text) if text.isdecimal() else usual


def _is_done(folder: Path, number: int, stamp: str, *, repair: bool) -> bool:
    """Whether a shard is there, whole; with `repair` a damaged one is removed and so computed again.

    Raises:
        InvalidInputError: for a damaged shard without `repair`; the message names it.
    """
    path = shards.path_of(folder, number)
    if not path.exists():
        return False
    wrong = shards.problem(folder, number, stamp, thorough=repair)
    if not wrong:
        return True
    if not repair:
        raise InvalidInputError(wrong)
    path.unlink(missing_ok=True)
    return False
