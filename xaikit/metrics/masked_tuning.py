"""Fine-tuning with random positions masked, so that a model knows the inputs that removal metrics show it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from xaikit.core import BASELINES, Choice, Float, Int
from xaikit.core.batch import Batch, count_batches, is_batch, read_batches
from xaikit.core.errors import InvalidInputError, NonFiniteError
from xaikit.core.forward import call_model, explain_failure
from xaikit.core.labels import read_classes
from xaikit.core.model_copy import trainable_copy
from xaikit.core.model_device import model_device
from xaikit.core.structure import flatten
from xaikit.core.targets import pick_head
from xaikit.transforms.axes import channel_axis as axis_of

TuningLoss = Callable[[Tensor, Tensor], Tensor]


def tune_with_masks(  # noqa: PLR0913
    model: nn.Module,
    data: Any,
    *,
    limit: float = 0.1,
    baseline: Any = "zeros",
    n_epochs: int = 5,
    lr: float = 1e-4,
    batch_size: int = 64,
    loss: TuningLoss | None = None,
    channel_axis: int | None = None,
    head: str | int = "logits",
    seed: int = 0,
    progress: bool = True,
) -> nn.Module:
    """A copy of a model, tuned on inputs of which up to a share of the positions is masked (Zheng et al. 2024).

    In each step every sample gets a number of masked positions between 0 and `limit` of all (at least one), drawn
    uniformly, at random places that no explanation has a part in (arXiv:2410.02970). Of several inputs those of
    floating-point numbers are masked, of tokens the first. Adam, the loss of the labels.

    Args:
        model: stays as it is.
        data: (inputs, labels), a loader or a data set of these: what the model was trained on.
        limit: beta, as for the F-Fidelity metrics that use the copy.
        baseline: what masks a position; likewise.
        n_epochs: passes over the data.
        lr: learning rate.
        batch_size: samples in a step, where data are in memory.
        loss: function (output, labels) -> a number; None for the cross-entropy of classes, of a single output the
            binary one for the classes 0 and 1, and the squared error for floating-point numbers.
        channel_axis: of the inputs, 1 for None; a position is masked in all channels.
        head: which output has the loss.
        seed: of the masks, the order of data in memory, and the model's own random numbers.
        progress: show a progress bar.

    Returns:
        The copy, in evaluation mode.

    Raises:
        InvalidInputError, InvalidTypeError: for settings out of range, or data without labels.
        NonFiniteError: when the loss becomes NaN or infinite.

    >>> model, x = nn.Linear(20, 2), torch.rand(64, 20)
    >>> tuned = tune_with_masks(model, (x, torch.arange(64) % 2), n_epochs=1, progress=False)
    >>> tuned.training, torch.equal(tuned.weight, model.weight)
    (False, False)
    """
    limit = Float(gt=0, le=1).check(limit, "limit")
    n_epochs, batch_size = Int(ge=1).check(n_epochs, "n_epochs"), Int(ge=1).check(batch_size, "batch_size")
    lr, seed = Float(gt=0).check(lr, "lr"), Int(ge=0).check(seed, "seed")
    stand_in = Choice(BASELINES).check(baseline, "baseline")
    tuned = trainable_copy(model).train()
    device = model_device(tuned)
    trained = [p for p in tuned.parameters() if p.requires_grad]
    if not trained:
        raise InvalidInputError("no parameter of the model requires a gradient, so there is nothing to tune")
    optimizer = torch.optim.Adam(trained, lr=lr)
    generator = torch.Generator().manual_seed(seed)
    count = count_batches(data, batch_size)
    total = None if count is None else n_epochs * count
    cuda = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=cuda),
        torch.enable_grad(),
        tqdm(total=total, desc="tune", unit="batch", disable=not progress) as bar,
    ):
        torch.manual_seed(seed)
        is_first = True
        for _ in range(n_epochs):
            for batch in _batches(data, model, batch_size, device, generator):
                tensors, rebuild = flatten(batch.inputs)
                explained = [x.is_floating_point() for x in tensors]
                if not any(explained):
                    explained[0] = True  # of tokens beside their attention mask, the tokens
                masked = tuple(
                    _masked(x.detach(), stand_in(x), limit, channel_axis, generator) if is_explained else x
                    for x, is_explained in zip(tensors, explained, strict=True)
                )
                output = pick_head(_run(tuned, rebuild(masked)), head)
                labels = batch.labels
                value = _loss(output, labels, is_first=is_first) if loss is None else loss(output, labels)
                is_first = False
                if not isinstance(value, Tensor) or value.numel() != 1:
                    got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                    raise InvalidInputError(f"loss must return one number, such as a mean, got {got}")
                if not bool(torch.isfinite(value)):
                    raise NonFiniteError(f"the loss became {float(value.detach())} while tuning; lower lr, now {lr:g}")
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
                bar.update()
    return tuned.eval()


def _run(model: nn.Module, inputs: Any) -> Any:
    try:
        return call_model(model, inputs)
    except (RuntimeError, ValueError) as error:
        explain_failure(model, flatten(inputs)[0], error)
        raise


def _batches(
    data: Any, model: nn.Module, rows: int, device: torch.device, generator: torch.Generator
) -> Iterator[Batch]:
    """The batches of an epoch; data in memory come in another order each time."""
    if not is_batch(data):
        yield from (batch.to(device) for batch in read_batches(data, model=model, rows=rows))
        return
    (batch,) = read_batches(data, model=model, rows=None)
    for chosen in torch.randperm(batch.size, generator=generator, device="cpu").split(rows):
        yield batch.take(chosen.tolist()).to(device)


def _masked(x: Tensor, baseline: Tensor, limit: float, axis: int | None, generator: torch.Generator) -> Tensor:
    """Samples with some of their positions replaced."""
    channels = axis_of(x, axis)
    shape = [size for d, size in enumerate(x.shape) if d != channels]
    keys = torch.rand(len(x), int(torch.tensor(shape[1:], device="cpu").prod()), generator=generator, device="cpu")
    most = max(1, round(limit * keys.shape[1]))  # as the metrics count them
    counts = torch.randint(0, most + 1, (len(x), 1), generator=generator, device="cpu")
    flags = (keys.argsort(1).argsort(1) < counts).view(shape).to(x.device)
    return torch.where(flags if channels is None else flags.unsqueeze(channels), baseline, x)


def _loss(output: Tensor, labels: Tensor, *, is_first: bool) -> Tensor:
    """The loss of the labels: of classes among several outputs, of two classes or of numbers for a single output.

    The first batch tells whether numbers are those of a regression; a later one may hold 0 and 1 alone.
    """
    n = len(output)
    if output.ndim > 2 or not isinstance(labels, Tensor):
        raise InvalidInputError(
            f"tuning needs a label for each sample and an output (N, classes) or (N,), got an output of shape "
            f"{tuple(output.shape)}; give loss=, a function (output, labels)"
        )
    if output.ndim > 1 and output.shape[1] > 1:
        return F.cross_entropy(output, read_classes(labels, n, n_classes=output.shape[1]))
    single = output.reshape(n)
    is_binary = bool(((labels == 0) | (labels == 1)).all())
    if labels.is_floating_point() and not (is_first and is_binary):
        return F.mse_loss(single, labels.to(single).reshape(n))
    if labels.is_floating_point() or not is_binary:
        raise InvalidInputError(
            f"labels of a single output must be numbers of a floating-point type, or the classes 0 and 1 of an integer "
            f"type, got {labels.dtype} {'0 and 1' if is_binary else 'up to ' + str(int(labels.max()))}; convert them, "
            "labels.long() or labels.float(), or give loss="
        )
    return F.binary_cross_entropy_with_logits(single, labels.to(single).reshape(n))
