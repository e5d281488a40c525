"""Where a training runs: in this process, or in the processes and on the devices of a Lightning Fabric.

Nothing here imports Lightning: a Fabric is recognised by its methods, so both `lightning_fabric` and `lightning.fabric`
work.

In several processes each trains on its part of every batch. Distributed data parallelism averages the gradients of W
processes; so that this is the gradient of the whole batch, process r minimises

    W * (n_r / n * task_r + weight * share_r * penalty_r),

where n_r of the n samples are its own, and share_r is what its part of the penalty weighs (`Mitigator.penalty_share`).
"""

from __future__ import annotations

import contextlib
import io
import math
import os
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from xaikit.core import torch_private
from xaikit.core.batch import Batch
from xaikit.core.errors import InvalidInputError, InvalidTypeError, XaikitError
from xaikit.core.masks import is_several, leaves_of
from xaikit.core.structure import flatten
from xaikit.mitigation.loss_watch import in_fit
from xaikit.mitigation.sources import ProcessRank, TrainingStep

if TYPE_CHECKING:
    from xaikit.mitigation.base import Loss, Mitigator


class BatchFraction(NamedTuple):
    """How much of a batch one part holds.

    Attributes:
        samples: fraction of the samples.
        masked: fraction of the sum of the masks.
        explained: fraction of the samples that have anything masked.
    """

    samples: float = 1.0
    masked: float = 1.0
    explained: float = 1.0


class StepModule(nn.Module):
    """Model and mitigator: a forward pass computes the loss.

    Distributed data parallelism synchronises processes in the forward pass of the module that it wraps. A loss computed
    on the model alone would bypass it, and every process would silently train a model of its own.
    """

    def __init__(self, mitigator: Mitigator, model: nn.Module) -> None:
        super().__init__()
        self.mitigator, self.model = mitigator, model

    def forward(self, batch: Batch, weight: float, share: BatchFraction | None = None, world: int = 1) -> Loss:
        """The loss of this process's part, scaled so that the average over processes is the loss of the whole batch."""
        with in_fit():
            loss = self.mitigator.loss(self.model, batch, weight=weight)
        if share is None:
            return loss
        part = self.mitigator.penalty_share(share) if share.samples else 0.0  # 0: the sample is padding
        total = share.samples * loss.task
        if loss.total is not loss.task:
            # The weighted penalty is total - task, since a mitigator may do more than multiply it by the weight.
            total = total + part * (loss.total - loss.task)
        return type(loss)(share.samples * loss.task, part * loss.penalty, world * total, loss.logits.detach())


class OneProcess:
    """This process, plain PyTorch."""

    part = ProcessRank()

    def launch(self, work: Callable[..., Any], *args: Any) -> Any:
        """What `work(processes, *args)` returns."""
        return work(self, *args)

    def device(self, model: nn.Module, setting: torch.device | None) -> torch.device:
        """The device to train on, with the model on it."""
        if setting is not None:
            model.to(setting)
        return next(model.parameters()).device

    def setup(self, mitigator: Mitigator, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Call once before the first step."""
        self._module = StepModule(mitigator, model)
        self._step: Any = self._module
        self._parameters = [p for p in model.parameters() if p.requires_grad]
        self._optimizer: Any = optimizer

    def change_mitigator(self, mitigator: Mitigator) -> None:
        """Compute the next losses with this mitigator."""
        self._module.mitigator = mitigator

    def shares(self, step: TrainingStep | None) -> BatchFraction | None:
        """The share of this process in the present step; None for all of it.

        Raises:
            StopIteration: where a process has no batch left.
        """
        if step is None:
            raise StopIteration
        return None

    def loss(self, batch: Batch, weight: float, share: BatchFraction | None) -> Loss:
        """The loss of a batch on the model's device."""
        return self._step(batch, weight, share, self.part.world_size)

    def backward(self, loss: Tensor) -> None:
        """The gradients of the whole batch."""
        loss.backward()

    def clip(self, norm: float | None) -> bool:
        """Scale the gradient down to at most this norm; whether it is finite."""
        if norm is not None:
            return bool(torch.isfinite(nn.utils.clip_grad_norm_(self._parameters, norm)))
        grads = [p.grad for p in self._parameters if p.grad is not None]
        return bool(torch.isfinite(torch.stack(torch_private.foreach_norm(grads)).norm())) if grads else True

    def step(self) -> None:
        """The optimizer's step."""
        self._optimizer.step()
        torch.clear_autocast_cache()  # an autocast around the whole training would keep the old weights

    def sum(self, values: list[float]) -> list[float]:
        """Each value summed over the processes."""
        return values

    def broadcast(self, value: Any) -> Any:
        """The first process's value."""
        return value

    def barrier(self) -> None:
        """Wait for the others."""

    @property
    def scaled(self) -> bool:
        """Whether a gradient scaler is still looking for its scale: it skips such steps itself."""
        return False

    @property
    def may_fuse(self) -> bool:
        """Whether the optimizer may work fused: then it would take the scale out by itself, after the clipping."""
        return True


class FabricProcesses(OneProcess):
    """The processes, devices and precision of a Lightning Fabric."""

    def __init__(self, fabric: Any) -> None:
        self.fabric = fabric

    @property
    def part(self) -> ProcessRank:  # type: ignore[override]
        """Which part of every batch is this process's."""
        return ProcessRank(self.fabric.global_rank, self.fabric.world_size)

    def launch(self, work: Callable[..., Any], *args: Any) -> Any:
        """What `work(processes, *args)` returns in the first process; started here unless they run already."""
        running = torch.distributed.is_available() and torch.distributed.is_initialized()
        if running or self.fabric.world_size == 1:
            return work(self, *args)
        result = self.fabric.launch(partial(_launched, os.getpid(), work, args))
        if isinstance(result, bytes):
            result, state = torch.load(io.BytesIO(result), weights_only=False)  # written by our own process
            _model_in(args).load_state_dict(state)
        return result

    def device(self, model: nn.Module, setting: torch.device | None) -> torch.device:
        """The Fabric's."""
        if setting is not None:
            raise InvalidInputError(f"device={str(setting)!r} and fabric= contradict each other; leave device out")
        model.to(self.fabric.device)
        return self.fabric.device

    def setup(self, mitigator: Mitigator, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Wrap model and loss, and the optimizer."""
        super().setup(mitigator, model, optimizer)
        self._step, self._optimizer = self.fabric.setup(self._step, optimizer)

    def shares(self, step: TrainingStep | None) -> BatchFraction | None:
        """As for one process; what the part weighs, where there are several."""
        if self.part.world_size == 1:
            return super().shares(step)
        counts = [0.0] * 3
        if step is not None and not step.is_padding:
            # A batch that cannot be counted raises in the loss too, and then all processes learn of it.
            with contextlib.suppress(XaikitError, TypeError, ValueError):
                counts = _counts(step.batch)
        waiting, *totals = self.sum([float(step is None), *counts])
        if waiting:
            raise StopIteration
        return BatchFraction(*(a / b if b else 0.0 for a, b in zip(counts, totals, strict=True)))

    def backward(self, loss: Tensor) -> None:
        """With the Fabric's precision, averaged over its processes."""
        self.fabric.backward(loss)

    def clip(self, norm: float | None) -> bool:
        """As for one process, on the gradient without the scale of mixed precision."""
        gradient_norm = self.fabric.clip_gradients(
            self._step, self._optimizer, max_norm=norm or math.inf, error_if_nonfinite=False
        )
        return bool(torch.isfinite(gradient_norm))

    def sum(self, values: list[float]) -> list[float]:
        """Each value summed over the processes."""
        if self.part.world_size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.fabric.device)
        summed: list[float] = self.fabric.all_reduce(tensor, reduce_op="sum").tolist()
        return summed

    def broadcast(self, value: Any) -> Any:
        """The first process's value."""
        return value if self.part.world_size == 1 else self.fabric.broadcast(value)

    def barrier(self) -> None:
        """Wait for the others."""
        self.fabric.barrier()

    @property
    def scaled(self) -> bool:
        """Whether a gradient scaler is still looking for its scale: it skips such steps itself."""
        return self._scaler is not None and self._scaler.get_scale() > 1

    @property
    def may_fuse(self) -> bool:
        """Not where a gradient scaler is at work."""
        return self._scaler is None

    @property
    def _scaler(self) -> Any:
        return getattr(getattr(self.fabric.strategy, "precision", None), "scaler", None)


def processes(fabric: Any) -> OneProcess:
    """The processes to train in.

    Raises:
        InvalidTypeError: for anything but a Lightning Fabric.
    """
    if fabric is None:
        return OneProcess()
    missing = [name for name in ("launch", "setup", "backward", "all_reduce") if not hasattr(fabric, name)]
    if missing or isinstance(fabric, type):
        raise InvalidTypeError(
            f"fabric must be a lightning_fabric.Fabric object (pip install 'xaikit[train]'), got {fabric!r}"
        )
    return FabricProcesses(fabric)


def _launched(parent: int, work: Callable[..., Any], args: tuple[Any, ...], fabric: Any) -> Any:
    """What `work` returns; from a process that was started for this as bytes, with the weights."""
    if os.getpid() == parent:
        return work(FabricProcesses(fabric), *args)
    model = _model_in(args)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()  # spawned processes share the parent's memory
    result = work(FabricProcesses(fabric), *args)
    # As bytes: a launcher would pass the tensors of a result by shared memory, which ends with this process.
    buffer = io.BytesIO()
    torch.save((result, {name: value.cpu() for name, value in model.state_dict().items()}), buffer)
    return buffer.getvalue()


def _model_in(args: tuple[Any, ...]) -> nn.Module:
    return next(a for a in args if isinstance(a, nn.Module))


def _counts(batch: Batch) -> list[float]:
    """Samples, sum of the masks, samples with anything masked."""
    n, x = batch.size, flatten(batch.inputs)[0][0]
    if batch.masks is None:  # everything
        return [float(n)] * 3
    masked, explained = 0.0, torch.zeros(n, dtype=torch.bool, device="cpu")
    for leaf in leaves_of(batch.masks):
        mask = (leaf.transpose(0, 1) if is_several(leaf, x) else leaf).cpu()
        masked += float(mask.double().sum())
        explained |= (mask != 0).reshape(n, -1).any(1)
    return [float(n), masked, float(explained.sum())]
