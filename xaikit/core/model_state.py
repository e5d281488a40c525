"""The state of a model: what an attribution call runs, and how everything is put back afterwards.

A call runs a private copy of the model's modules (`core/replica.py`), so threads do not disturb each other. A model
that cannot be copied so runs itself, one call at a time in the whole process, and is put back afterwards. One call at a
time also holds where torch's global random numbers are used, since there is only one generator.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pickle
import random
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from xaikit.core import torch_private
from xaikit.core.earlier_statistics import earlier_statistics, swapped_in
from xaikit.core.kernels import mend_norms
from xaikit.core.model_facts import ModelFacts, facts_of
from xaikit.core.model_writes import WrittenObjects
from xaikit.core.modes import is_training
from xaikit.core.object_states import slots_of
from xaikit.core.process_wide import COMPILED_CODE_OFF, FAST_PATH_OFF
from xaikit.core.registered_hooks import RegisteredHooks
from xaikit.core.replica import NotReplicableError, Replica
from xaikit.core.sparse_layouts import same_numbers

Modules = dict[nn.Module, str]
EXCLUSIVE = threading.RLock()  # held while a call changes the user's own model, or uses the global random numbers


def modules_of(model: nn.Module) -> Modules:
    """Every module once, with its name: what `named_modules` yields, in half the time, which matters for small nets."""
    names: dict[nn.Module, str] = {}

    def visit(module: nn.Module, name: str) -> None:
        if module in names:
            return
        names[module] = name
        for key, child in torch_private.children_of(module).items():
            if child is not None:
                visit(child, f"{name}.{key}" if name else key)

    visit(model, "")
    return names


def profile_of(model: nn.Module) -> tuple[Modules, ModelFacts]:
    """The modules of a model, and the facts about it."""
    modules = modules_of(model)
    return modules, facts_of(model, modules)


@dataclasses.dataclass(frozen=True)
class RunningModel:
    """A model as one call runs it.

    Attributes:
        model: a private copy, or the user's model where none can be made.
        modules: its modules with their names.
        open: enters the state that the call runs in; again where a pass is repeated after the call.
        replica: the private copy with what it was made from; None where the user's model runs.
        restart: a context for each pass, in which a copy begins with the state of the user's model; None where no pass
            changes it, or where what it writes is kept.
    """

    model: nn.Module
    modules: Modules
    open: Callable[[], contextlib.AbstractContextManager[Any]]
    replica: Replica | None = None
    restart: Callable[[], contextlib.AbstractContextManager[None]] | None = None


def running_model(  # noqa: PLR0913
    model: nn.Module,
    device: torch.device,
    seed: int,
    *,
    profile: tuple[Modules, ModelFacts] | None = None,
    random: bool = True,
    in_place: bool = False,
    freeze: bool = False,
    keep_mode: bool = False,
    keep_writes: bool = False,
) -> RunningModel:
    """The model as a call runs it: in evaluation mode, with random numbers from the seed.

    Args:
        model: the user's model.
        device: where it is.
        seed: of torch's random numbers.
        profile: its modules and the facts about it, where the caller has them.
        random: whether the method draws from torch's global random numbers.
        in_place: whether to run the user's model itself.
        freeze: whether no parameter of a copy requires a gradient, which makes a backward pass to the input faster.
        keep_mode: whether the modules stay in the mode that they are in.
        keep_writes: whether buffers and attributes keep what the model writes into them.
    """
    modules, facts = profile_of(model) if profile is None else profile
    seeded_call = random or keep_mode or facts.draws is not False
    if facts.replicable is not False and not in_place:
        replica = None
        with contextlib.suppress(NotReplicableError), EXCLUSIVE if in_place_calls else contextlib.nullcontext():
            replica = Replica(
                modules,
                training=None if keep_mode else False,
                freeze=freeze,
                share_state=keep_writes,
                share_weights=not (facts.written_weights and freeze),
                private_classes=facts.private_classes,
            )
        if replica is not None:
            names = {replica.copies[module]: name for module, name in modules.items()}
            mend_norms(names)
            if keep_writes:
                replica.hooks = RegisteredHooks(names)
            alone = facts.replicable is None or seeded_call

            @contextlib.contextmanager
            def opened() -> Iterator[None]:
                with (
                    EXCLUSIVE if alone else contextlib.nullcontext(),
                    seeded(device, seed) if seeded_call else contextlib.nullcontext(),
                    runnable(list(names), device),
                ):
                    yield

            by_name = {name: module for module, name in modules.items()}
            written = [(by_name[name], key) for name, key in facts.written if name in by_name]
            restart = functools.partial(replica.restarted, written) if written and not keep_writes else None
            return RunningModel(replica.model, names, opened, replica, restart)

    earlier = earlier_statistics()

    @contextlib.contextmanager
    def own_model() -> Iterator[None]:
        # Its parameters are not frozen: another thread may differentiate by them at this moment.
        guard = contextlib.nullcontext if keep_writes else own_state_kept
        kept = isolated(model, device, seed, modules=modules, keep_mode=keep_mode)
        with kept, guard(modules), swapped_in(earlier):
            yield

    return RunningModel(model, modules, own_model)


in_place_calls: list[int] = []  # threads that run a user's own model at this moment


@contextlib.contextmanager
def evaluated(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """What computes as the model does in evaluation mode, and leaves no trace in it.

    That is a private copy, once one is known to behave as the model does.

    Args:
        model: the user's model.
        device: where it is.
    """
    profile = profile_of(model)
    running = running_model(model, device, 0, profile=profile, random=False, in_place=not profile[1].replicable)
    with running.open():
        yield running.model


@contextlib.contextmanager
def isolated(
    model: nn.Module, device: torch.device, seed: int, *, modules: Modules | None = None, keep_mode: bool = False
) -> Iterator[None]:
    """While active: evaluation mode and a seeded random state. Afterwards modes and the random state are as before.

    Only one thread at a time. The flags are set one by one, since `model.eval()` may be overridden, and `model.train()`
    does not bring back modules of different modes.

    Args:
        model: the model.
        device: where it is.
        seed: of torch's random numbers.
        modules: the model's modules, where the caller has them.
        keep_mode: whether the modules stay in the mode that they are in.
    """
    with EXCLUSIVE:
        flags = [(module, is_training(module)) for module in modules or modules_of(model)]
        in_place_calls.append(threading.get_ident())
        handles = []
        try:
            for module, training in flags:
                # Setting an attribute of a module is slow, and most are in evaluation mode already.
                if training and not keep_mode:
                    module.training = False
            handles = mend_norms([module for module, _ in flags])
            with seeded(device, seed), runnable([module for module, _ in flags], device):
                yield
        finally:
            for handle in handles:
                handle.remove()
            for module, training in flags:
                if is_training(module) is not training:  # the model may have changed it on its own, too
                    module.training = training
            in_place_calls.pop()


@contextlib.contextmanager
def runnable(modules: Sequence[nn.Module], device: torch.device) -> Iterator[None]:
    """Run what torch.compile has wrapped as it was written, recurrent nets on a GPU without cuDNN, encoders one way.

    Compiled code has no second derivative and hides its operations from rules. A model shows its compiled modules, but
    not the functions that it has compiled, so whatever is compiled is off while torch's compiler is loaded. cuDNN
    differentiates a recurrent net in training mode only, and never twice. torch's transformers take another
    way where no gradient is wanted: it gives zeros at padded positions, which is another function wherever these are
    read, and nested tensors to what looks at the layers inside.

    Args:
        modules: of the model.
        device: where it is.
    """
    # Inside a function that torch.compile is reading, its stance cannot change.
    may_be_compiled = torch_private.compiler_is_loaded() and not torch.compiler.is_compiling()
    recurrent = device.type == "cuda" and any(isinstance(m, nn.RNNBase) for m in modules)
    with (
        COMPILED_CODE_OFF if may_be_compiled else contextlib.nullcontext(),
        torch.backends.cudnn.flags(enabled=False) if recurrent else contextlib.nullcontext(),
        FAST_PATH_OFF if any(isinstance(m, TRANSFORMERS) for m in modules) else contextlib.nullcontext(),
    ):
        yield


TRANSFORMERS = (nn.TransformerEncoder, nn.TransformerEncoderLayer)


def random_states() -> tuple[Any, ...]:
    """The states of the random numbers of torch (on the CPU), numpy and Python, to be compared."""
    return bytes(torch.default_generator.get_state().numpy()), pickle.dumps(np.random.get_state()), random.getstate()


def reseed(device: torch.device, seed: int) -> None:
    """Start the random numbers of torch (on the CPU and on that device, on no other), numpy and Python again."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)


@contextlib.contextmanager
def seeded(device: torch.device, seed: int) -> Iterator[None]:
    """While active, the generators of the CPU, of the model's GPU, of numpy and Python start from the seed.

    Then they are put back.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        generators.append(torch.cuda.default_generators[index])
    states = [generator.get_state() for generator in generators]
    others = np.random.get_state(), random.getstate()
    try:
        reseed(device, seed)
        yield
    finally:
        np.random.set_state(others[0])
        random.setstate(others[1])
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


@contextlib.contextmanager
def own_state_kept(modules: Sequence[nn.Module] | Modules) -> Iterator[None]:
    """Put back the attributes and buffers that a model writes into itself, in place or by assignment."""
    attributes = [(vars(module), dict(vars(module))) for module in modules]
    values = WrittenObjects(v for _, state in attributes for v in state.values() if type(v) is not Tensor)
    owned = [
        (torch_private.buffers_of(m), name, b)
        for m in modules
        for name, b in torch_private.buffers_of(m).items()
        if b is not None
    ]
    copies = [_TensorAsFound.of(buffer) for _, _, buffer in owned]
    tensors = [_TensorAsFound.of(v) for _, s in attributes for v in s.values() if type(v) is Tensor]
    slots = [(module, slots_of(module)) for module in modules]
    try:
        yield
    finally:
        for buffers, name, buffer in owned:
            buffers[name] = buffer
        for written in (*copies, *tensors):
            written.put_back()
        for state, before in attributes:
            for name in state.keys() - before.keys():
                del state[name]
            state.update(before)
        for module, of_slots in slots:
            for name, value in of_slots.items():
                object.__setattr__(module, name, value)
        values.put_back()


class _TensorAsFound(NamedTuple):
    """A tensor of the user's, with its values and whether it had a graph."""

    tensor: Tensor
    value: Tensor
    has_graph: bool

    @staticmethod
    def of(tensor: Tensor) -> _TensorAsFound:
        return _TensorAsFound(tensor, tensor.detach().clone(), tensor.grad_fn is not None)

    def put_back(self) -> None:
        if not same_numbers(self.tensor, self.value):
            with torch.no_grad():
                self.tensor.copy_(self.value)
        if self.tensor.grad_fn is not None and not self.has_graph:
            self.tensor.detach_()  # what the model wrote into it had a graph, and copying the model would fail on it


@contextlib.contextmanager
def buffers_kept_on_error(model: nn.Module) -> Iterator[None]:
    """Put every buffer back after an exception: a training pass has already moved BatchNorm's running statistics."""
    copies = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for buffer, value in copies:
                buffer.copy_(value)
        raise
