"""The state of a model: what an attribution call changes for its duration, and how all of it is put back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from xaikit.core import torch_private

Modules = dict[nn.Module, str]
BATCH_NORM = torch_private.BatchNorm


def modules_of(model: nn.Module) -> Modules:
    """Every module once, with its name: what `named_modules` yields, in half the time, which is felt on small nets."""
    found: dict[nn.Module, str] = {}

    def visit(module: nn.Module, name: str) -> None:
        if module in found:
            return
        found[module] = name
        for key, child in torch_private.children_of(module).items():
            if child is not None:
                visit(child, f"{name}.{key}" if name else key)

    visit(model, "")
    return found


@contextlib.contextmanager
def isolated(
    model: nn.Module, device: torch.device, seed: int, *, modules: Modules | None = None, keep_mode: bool = False
) -> Iterator[None]:
    """Evaluation mode and a seeded random state inside; every module's own flag and the global random state after.

    With `keep_mode` the modules stay in the mode that they are in. The flags are set one by one: `model.eval()` may be
    overridden and is no exact inverse of itself. `modules` are the model's, where the caller has them. What
    torch.compile has wrapped runs as it was written.
    """
    flags = [(module, module.training) for module in modules or modules_of(model)]
    norms = [module for module, _ in flags if isinstance(module, BATCH_NORM)]
    # cuDNN differentiates a recurrent net in training mode only, and never twice.
    recurrent = device.type == "cuda" and any(isinstance(m, nn.RNNBase) for m, _ in flags)
    try:
        for module, training in flags:
            # Setting an attribute of a module is slow, and most are in evaluation mode already.
            if training and not keep_mode:
                module.training = False
        with (
            seeded(device, seed),
            eager([module for module, _ in flags]),
            sound_batchnorm(norms) if norms else contextlib.nullcontext(),
            torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext(),
        ):
            yield
    finally:
        for module, training in flags:
            if module.training is not training:  # the model may have changed it on its own, too
                module.training = training


def eager(modules: Sequence[nn.Module]) -> contextlib.AbstractContextManager[Any]:
    """Run what torch.compile has wrapped as it was written: compiled, it has no second derivative and no rules."""
    wrapped = any(torch_private.is_compiled(m) for m in modules)
    return torch.compiler.set_stance("force_eager") if wrapped else contextlib.nullcontext()


def reseed(device: torch.device, seed: int) -> None:
    """Start torch's random numbers again, on the CPU and on that device, and on no other."""
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """The generators of the CPU and of the model's GPU start from the seed inside, and go on as before after."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    try:
        reseed(device, seed)
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


@contextlib.contextmanager
def sound_batchnorm(norms: Sequence[nn.Module]) -> Iterator[None]:
    """Give BatchNorm's backward a contiguous gradient for a batch of one.

    torch 2.13 on a CPU gets it wrong, in evaluation mode, for one sample whose incoming gradient is strided like
    channels last (a convolution, BatchNorm, then flatten and transpose): off by more than its own size.
    """

    def mend(_module: nn.Module, _inputs: Any, output: Any) -> None:
        if type(output) is Tensor and output.requires_grad and len(output) == 1:
            output.register_hook(Tensor.contiguous)

    handles = [module.register_forward_hook(mend) for module in norms]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def private_buffers(model: nn.Module) -> Iterator[None]:
    """Let the model work on copies of its buffers: what a pass in training mode adds to them is dropped."""
    held = [(m, name, b) for m in model.modules() for name, b in torch_private.buffers_of(m).items() if b is not None]
    try:
        for module, name, buffer in held:
            torch_private.buffers_of(module)[name] = buffer.detach().clone()
        yield
    finally:
        for module, name, buffer in held:
            torch_private.buffers_of(module)[name] = buffer


@contextlib.contextmanager
def buffers_kept_on_error(model: nn.Module) -> Iterator[None]:
    """Put every buffer back after an exception: a training pass has already moved BatchNorm's running statistics."""
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)
        raise


@contextlib.contextmanager
def frozen(model: nn.Module, *, modules: Modules | None = None) -> Iterator[None]:
    """No parameter requires a gradient inside: an input-only backward keeps fewer activations and runs faster."""
    own = [p for module in modules or modules_of(model) for p in torch_private.parameters_of(module).values()]
    parameters = [p for p in own if p is not None and p.requires_grad and p.is_leaf]
    try:
        for parameter in parameters:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def differentiable_kernels(active: bool) -> contextlib.AbstractContextManager[Any]:
    """Fused attention has no second derivative; use the plain kernel where one is needed."""
    return sdpa_kernel(SDPBackend.MATH) if active else contextlib.nullcontext()
