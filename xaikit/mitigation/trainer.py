"""The training loop: steps, history, checkpoints; it knows a mitigator's `loss` and nothing of explanations."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from xaikit.core.errors import InvalidInputError, InvalidTypeError, NonFiniteError, TrainingError
from xaikit.core.isolation import isolated
from xaikit.core.structure import check_batch, flatten
from xaikit.mitigation import checkpoints
from xaikit.mitigation.masks import check_mask, label_tensor, per_sample

if TYPE_CHECKING:
    from xaikit.mitigation.base import Mitigator

Batch = tuple[Any, Any, Any]


@dataclasses.dataclass(frozen=True)
class History:
    """What happened in training.

    Attributes:
        epochs: one dict for each epoch: epoch, task, penalty, total (means over batches), accuracy, samples.
    """

    epochs: list[dict[str, float]]

    def __getitem__(self, name: str) -> list[float]:
        """One column, such as ``history["penalty"]``."""
        return [epoch[name] for epoch in self.epochs]

    def __repr__(self) -> str:
        if not self.epochs:
            return "History(no epoch yet)"
        last = self.epochs[-1]
        return (
            f"History({len(self.epochs)} epochs; last: task {last['task']:.4g}, penalty {last['penalty']:.4g}, "
            f"accuracy {last['accuracy']:.1%})"
        )


def train(
    mitigator: Mitigator, model: nn.Module, data: Any, labels: Any, masks: Any, *, checkpoint: Any, progress: bool
) -> History:
    """See `Mitigator.fit`."""
    if not isinstance(model, nn.Module):
        raise InvalidTypeError(f"fit takes a torch.nn.Module first, got {type(model).__name__}")
    if not any(p.requires_grad for p in model.parameters()):
        raise InvalidInputError("no parameter of the model requires a gradient, so there is nothing to train")
    if mitigator.device is not None:
        model.to(mitigator.device)
    device = next(model.parameters()).device
    epoch_of, steps = _epochs(mitigator, model, data, labels, masks, device)
    optimizer = _optimizer(mitigator, model)
    saved = checkpoints.resume(checkpoint, mitigator, model, optimizer)
    history = History(saved)
    left = None if steps is None else steps * max(0, mitigator.n_epochs - len(saved))
    with _training_mode(model), _random_state(mitigator), tqdm(total=left, disable=not progress, unit="batch") as bar:
        for epoch in range(len(history.epochs) + 1, mitigator.n_epochs + 1):
            if mitigator.random_state is not None:
                # Each epoch has a seed of its own, so a resumed run draws what the unbroken one would.
                torch.manual_seed(mitigator.random_state * 1_000_003 + epoch)
            bar.set_description(f"{mitigator.NAME or type(mitigator).__name__} {epoch}/{mitigator.n_epochs}")
            history.epochs.append(_train_epoch(mitigator, model, optimizer, epoch_of(), epoch, bar))
            checkpoints.write(checkpoint, mitigator, model, optimizer, history.epochs)
    return history


def _train_epoch(
    mitigator: Mitigator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batches: Iterable[Batch],
    epoch: int,
    bar: Any,
) -> dict[str, float]:
    parameters = [p for p in model.parameters() if p.requires_grad]
    sums = {"task": 0.0, "penalty": 0.0, "total": 0.0}
    right = samples = steps = 0
    last_good = _Snapshot(model)
    for step, batch in enumerate(batches, 1):
        try:
            loss = mitigator.loss(model, batch)
        except NonFiniteError as err:
            last_good.restore()
            raise TrainingError(f"in epoch {epoch}, batch {step}, {err}; {_remedy(mitigator)}") from err
        optimizer.zero_grad(set_to_none=True)
        finite = bool(torch.isfinite(loss.total))
        if finite:
            loss.total.backward()
            norm = nn.utils.clip_grad_norm_(parameters, mitigator.clip_grad_norm or math.inf)
            finite = bool(torch.isfinite(norm))
        if not finite:
            last_good.restore()
            raise TrainingError(
                f"the loss or its gradient is not finite in epoch {epoch}, batch {step} (task {loss.task.item():g}, "
                f"penalty {loss.penalty.item():g}); {_remedy(mitigator)}"
            )
        last_good.take()
        optimizer.step()
        labels = torch.as_tensor(batch[1], device=loss.logits.device)
        right += int((loss.logits.argmax(-1) == labels).sum())
        samples += len(labels)
        steps += 1
        for name in sums:
            sums[name] += float(getattr(loss, name).detach())
        bar.update()
        bar.set_postfix(task=f"{sums['task'] / steps:.3g}", penalty=f"{sums['penalty'] / steps:.3g}", refresh=False)
    if not all(bool(torch.isfinite(p).all()) for p in parameters):
        last_good.restore()
        raise TrainingError(f"the weights are not finite after epoch {epoch}; {_remedy(mitigator)}")
    if steps == 0:
        raise InvalidInputError(
            f"the data gave no batch in epoch {epoch}; pass something that can be iterated once per epoch"
        )
    means = {name: value / steps for name, value in sums.items()}
    return {"epoch": epoch, **means, "accuracy": right / samples, "samples": samples}


def _remedy(mitigator: Mitigator) -> str:
    return (
        f"the model holds the weights of the last good step: try a smaller lr (now {mitigator.lr:g}), "
        f"a smaller {mitigator.WEIGHT} (now {mitigator.weight:g}), or clip_grad_norm"
    )


class _Snapshot:
    """The weights and buffers for which the loss was last finite."""

    def __init__(self, model: nn.Module) -> None:
        self._live = [t for t in itertools.chain(model.parameters(), model.buffers())]
        self._kept = [t.detach().clone() for t in self._live]

    def take(self) -> None:
        for kept, live in zip(self._kept, self._live, strict=True):
            kept.copy_(live.detach())

    def restore(self) -> None:
        with torch.no_grad():
            for kept, live in zip(self._kept, self._live, strict=True):
                live.copy_(kept)


def _optimizer(mitigator: Mitigator, model: nn.Module) -> torch.optim.Optimizer:
    makers = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    parameters = [p for p in model.parameters() if p.requires_grad]
    return makers[mitigator.optimizer](parameters, lr=mitigator.lr, weight_decay=mitigator.weight_decay)


@contextlib.contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    """Training mode inside, every module's flag as found after.

    A model that is in training mode already keeps its flags: parts that its owner froze stay frozen.
    """
    flags = [(module, module.training) for module in model.modules()]
    try:
        if not model.training:
            model.train()
        yield
    finally:
        for module, training in flags:
            module.training = training


def _random_state(mitigator: Mitigator) -> contextlib.AbstractContextManager[Any]:
    """Keep the caller's random state where training has a seed of its own."""
    return contextlib.nullcontext() if mitigator.random_state is None else torch.random.fork_rng()


# ---------------------------------------------------------------------- data


def _epochs(
    mitigator: Mitigator, model: nn.Module, data: Any, labels: Any, masks: Any, device: torch.device
) -> tuple[Callable[[], Iterator[Batch]], int | None]:
    """A function that begins a new pass over the data, batches on the model's device; and the steps in a pass."""
    if labels is None and masks is None and not isinstance(data, Tensor):
        if not isinstance(data, Iterable):
            raise InvalidTypeError(
                f"fit takes inputs, labels and masks, or an iterable of batches, got {type(data).__name__}"
            )
        return lambda: (_to(batch, device) for batch in data), len(data) if isinstance(data, Sized) else None
    if labels is None or masks is None:
        raise InvalidInputError("fit needs labels and masks beside the inputs: fit(model, images, labels, masks)")
    tensors, rebuild = flatten(data)
    n = check_batch(tensors)
    targets = label_tensor(labels)
    if targets.shape != (n,):
        raise InvalidInputError(f"labels must have shape ({n},), one class for each input, got {tuple(targets.shape)}")
    mask = check_mask(masks)
    each = per_sample(mask, tensors[0])
    if not bool(mask.any()):
        warnings.warn("the mask is zero everywhere, so nothing is penalised", stacklevel=4)
    first = rebuild(tuple(t[:1] for t in tensors)), targets[:1], mask[:1] if each else mask
    _check_first(mitigator, model, _to(first, device), targets)

    def epoch() -> Iterator[Batch]:
        for rows in _batches(torch.randperm(n), mitigator.batch_size):
            x = rebuild(tuple(t[rows.to(t.device)] for t in tensors))
            yield _to((x, targets[rows], mask[rows] if each else mask), device)

    return epoch, len(_batches(torch.arange(n), mitigator.batch_size))


def _check_first(mitigator: Mitigator, model: nn.Module, first: Batch, labels: Tensor) -> None:
    """One sample through the model and its explanation, so that wrong data are told before the first step."""
    from xaikit.core.targets import pick_head
    from xaikit.mitigation.base import check_labels, run_model

    x, y, mask = first
    tensors = flatten(x)[0]
    with isolated(model, tensors[0].device, 0), torch.no_grad():
        try:
            output = run_model(model, x)
        except RuntimeError as err:
            shapes = ", ".join(f"{tuple(t.shape)} of {t.dtype}" for t in tensors)
            raise InvalidInputError(f"the model does not take inputs of shape {shapes}: {err}") from err
    logits = pick_head(output, mitigator.head)
    check_labels(labels, logits.expand(len(labels), *logits.shape[1:]))
    mitigator._penalty(model, x, y, mask, seed=0, create_graph=False)


def _batches(order: Tensor, size: int) -> list[Tensor]:
    """Batches of `size`; a last batch of one joins the one before, since BatchNorm cannot train on a single sample."""
    parts = list(order.split(size))
    if len(parts) > 1 and len(parts[-1]) == 1 and size > 1:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _to(value: Any, device: torch.device) -> Any:
    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {k: _to(v, device) for k, v in value.items()}
    return type(value)(_to(v, device) for v in value) if type(value) in (tuple, list) else value
