"""Every private name of PyTorch that xaikit uses, under a public one.

No other file of the package reaches into torch; a test holds this. Another test, ``tests/unit/core/
test_torch_private.py``, checks that each name still means what is said here, so a new release of torch that moves one
fails there first. The comment at a name says what breaks without it.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from operator import attrgetter
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree, checkpoint

P = ParamSpec("P")
R = TypeVar("R")

# ---------------------------------------------------------------------- base classes of torch's layers

# Without it, only torch's own convolutions by name would count as convolutions: CAM, recommendations, LRP.
Convolution: type[nn.Module] = nn.modules.conv._ConvNd
# Without these, a batch norm of a subclass would be taken for an unknown module: modes, LRP's folding, recommendations.
BatchNorm: type[nn.Module] = nn.modules.batchnorm._BatchNorm
RunningNorm: type[nn.Module] = nn.modules.batchnorm._NormBase
InstanceNorm: type[nn.Module] = nn.modules.instancenorm._InstanceNorm
Dropout: type[nn.Module] = nn.modules.dropout._DropoutNd
# Without these, CAM would ask where the channels of a pooling's output are.
MaxPool: type[nn.Module] = nn.modules.pooling._MaxPoolNd
AvgPool: type[nn.Module] = nn.modules.pooling._AvgPoolNd

# ---------------------------------------------------------------------- what a module holds

# The dicts behind `named_children`, `named_buffers`, `named_parameters` and the hooks. The public methods skip what is
# None or shared, and cannot write; isolation and taps need the entries themselves.
children_of: Callable[[nn.Module], dict[str, nn.Module | None]] = attrgetter("_modules")
buffers_of: Callable[[nn.Module], dict[str, Tensor | None]] = attrgetter("_buffers")
parameters_of: Callable[[nn.Module], dict[str, nn.Parameter | None]] = attrgetter("_parameters")
forward_hooks_of: Callable[[nn.Module], dict[int, Any]] = attrgetter("_forward_hooks")
forward_pre_hooks_of: Callable[[nn.Module], dict[int, Any]] = attrgetter("_forward_pre_hooks")
backward_hooks_of: Callable[[nn.Module], dict[int, Any]] = attrgetter("_backward_hooks")
# The `torch.autograd.Function` of its node in a graph. Without it, functions of ours and of torch would be tested as if
# they were the user's, with passes of their own.
function_of: Callable[[Any], type[Any]] = attrgetter("_forward_cls")
# Stride, padding, dilation and groups of the convolution that made a tensor, as numbers, from its node. Without them a
# faster kernel would go by the module, whose settings a model may change, and be wrong.
convolution_settings: Callable[[Any], tuple[Any, ...]] = attrgetter(
    "_saved_stride", "_saved_padding", "_saved_dilation", "_saved_groups"
)


def compiler_is_loaded() -> bool:
    """Whether anything may be compiled: the first `torch.compile` of a process loads torch's compiler.

    An optimizer may load it, too. Without this name, compiled models would be explained as they are: no second
    derivative, no rules.
    """
    return "torch._dynamo.eval_frame" in sys.modules


def not_compiled(method: Callable[P, R]) -> Callable[P, R]:
    """A method that runs as written where a compiled function calls it, as `torch.compiler.disable` has it.

    That one loads torch's compiler, which takes a second. Without this, a compiled training step could hold no
    explanation: the compiler refuses to read what switches it off.

    Args:
        method: of a class.
    """
    disabled: list[Callable[P, R]] = []

    @functools.wraps(method)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        if not compiler_is_loaded():
            return method(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(method))
        return disabled[0](*args, **kwargs)

    return run


def compiled_inner(module: nn.Module) -> nn.Module | None:
    """The module inside the object that `torch.compile` returned; None for any other module.

    Args:
        module: any module.
    """
    return getattr(module, "_orig_mod", None)


def quantised_kind(model: nn.Module) -> str | None:
    """The class of a layer of torch that computes with integers, with its module; None where the model has none.

    Args:
        model: any module.
    """
    homes = ((type(m).__module__, type(m).__name__) for m in model.modules())
    return next((f"{home}.{name}" for home, name in homes if home.startswith("torch.") and ".quantized" in home), None)


def is_observer(module: nn.Module) -> bool:
    """Whether a module looks at what passes, for a later quantisation, and returns it as it is.

    Args:
        module: any module.
    """
    observing = sys.modules.get("torch.ao.quantization.observer")  # not imported: there is none
    return observing is not None and isinstance(module, observing.ObserverBase)


# ---------------------------------------------------------------------- tensors and operations

# Context managers that turn `__torch_function__` off: for subclasses and modes, and for subclasses alone. Without them
# the modes of LRP and the pairs of CD would see their own bookkeeping.
DisableTorchFunction: Any = torch._C.DisableTorchFunction
DisableTorchFunctionSubclass: Any = torch._C.DisableTorchFunctionSubclass
# The namespace of functions that `torch.nn.functional` re-exports; without it some would have no name here.
NN_FUNCTIONS: Any = torch._C._nn
# Tensors of another class: around another tensor's storage, and with a shape but no storage. CD's pairs are such.
make_subclass: Callable[..., Any] = torch.Tensor._make_subclass  # type: ignore[assignment]
make_wrapper_subclass: Callable[..., Any] = torch.Tensor._make_wrapper_subclass
# Map over the tensors in nested containers.
tree_iter: Callable[[Any], Iterable[Any]] = _pytree.tree_iter
tree_map_only: Callable[..., Any] = _pytree.tree_map_only
# Copies and norms of many tensors in one call; one by one they take several times as long on a model of many weights.
foreach_copy_: Callable[..., Any] = torch._foreach_copy_
foreach_norm: Callable[..., Any] = torch._foreach_norm
# The kernel that torch itself uses where no faster one applies. Without it convolutions of few channels have slow
# derivatives on a CPU.
slow_conv2d_backward: Any = torch.ops.aten._slow_conv2d_backward.output_mask


def view_base(x: Tensor) -> Tensor | None:
    """The tensor whose storage a view shares; None for a tensor that is no view.

    Without it, what is written into a view would not be seen in its base.

    Args:
        x: any tensor.
    """
    return x._base


def plain_tensor(x: Tensor) -> Tensor:
    """A tensor without its subclass (fastai's TensorImage), where that holds numbers as any tensor does.

    Every step on such a subclass makes a view of its result, which LRP's steps may not be.

    Args:
        x: any tensor.
    """
    kind = type(x)
    holds_numbers = kind.__torch_dispatch__ is Tensor.__torch_dispatch__
    return x.as_subclass(Tensor) if kind not in {Tensor, nn.Parameter} and holds_numbers else x


def version_of(x: Tensor) -> int:
    """How often the memory of a tensor was written to; views and their base count together.

    Without it, LRP would take a tensor that was written over for the one that an operation returned.

    Args:
        x: any tensor.
    """
    return x._version


def is_batched(x: Tensor) -> bool:
    """Whether a tensor is what a function under `torch.vmap` sees as one example.

    Args:
        x: any tensor.
    """
    return torch._C._functorch.is_batchedtensor(x)


def is_differentiated() -> bool:
    """Whether a function runs here that `torch.func.grad`, `jvp` or the like differentiates.

    Without it, LRP would end in an error of torch's on a model that does so.
    """
    levels = torch._C._functorch.get_interpreter_stack() or ()
    kinds = torch._C._functorch.TransformType
    return any(level.key() in (kinds.Grad, kinds.Jvp) for level in levels)


def is_mapped() -> bool:
    """Whether a function runs here that `torch.vmap` runs on all examples at once.

    Without it, contextual decomposition would end in an error of torch's on a model that does so.
    """
    levels = torch._C._functorch.get_interpreter_stack() or ()
    return any(level.key() == torch._C._functorch.TransformType.Vmap for level in levels)


def batch_of(x: Tensor) -> Tensor:
    """The batch of all examples behind what a function under `torch.vmap` sees as one; x itself where it is none.

    Without it, LRP would not see what a model computes under vmap.

    Args:
        x: any tensor.
    """
    while torch._C._functorch.is_batchedtensor(x):
        x = torch._C._functorch.get_unwrapped(x)
    return x


def schema_of(function: Any) -> Any:
    """The schema of an operator such as ``torch.ops.aten.add.Tensor``; None for a function that has none.

    Args:
        function: what a `__torch_function__` receives.
    """
    return getattr(function, "_schema", None)


def operator_name(function: Any) -> str | None:
    """The qualified name of an operator of `torch.ops`, such as "aten::add"; None for a function that is none.

    Without it, operations of exported programs and of other libraries would have no name.

    Args:
        function: what a `__torch_function__` receives: an operator or one of its overloads.
    """
    schema = getattr(function, "_schema", None)
    return getattr(function, "_qualified_op_name", None) if schema is None else schema.name


def schemas_named(name: str) -> list[Any]:
    """The schemas of all overloads of an ATen operator.

    Without it, the positions of keyword arguments of torch's functions would be unknown.

    Args:
        name: without a namespace, such as "add".
    """
    return list(torch._C._jit_get_schemas_for_operator(f"aten::{name}"))


def autograd_class(node: Any) -> type | None:
    """The `torch.autograd.Function` behind a node of the graph; None for a node of torch's own.

    Args:
        node: a `grad_fn`.
    """
    return getattr(node, "_forward_cls", None)


def takes_batch_statistics(node: Any) -> bool:
    """Whether the derivative of a norm's derivative is of statistics of the data, not of fixed ones.

    Without it, BatchNorm in evaluation mode in TorchScript would be refused where a derivative is taken three times.

    Args:
        node: of autograd's graph, such as NativeBatchNormBackwardBackward0.
    """
    return bool(getattr(node, "_saved_train", True))


def wrap_checkpoint(explained: Callable[[], bool]) -> None:
    """Let torch's activation checkpoint run the plain function where `explained()` is true; once in a process.

    The names are looked up whenever a checkpoint is entered, so models that imported `checkpoint` by name are reached.
    Without it, parts of an explained model would run again in the backward pass, unseen by the hooks of a call.

    Args:
        explained: whether an explained pass runs in this context.
    """
    if getattr(checkpoint.CheckpointFunction, "explained", None) is not None:
        return
    original = checkpoint.CheckpointFunction

    class Reentrant:
        """Stands for torch's reentrant checkpoint; outside explained passes it is torch's."""

        @staticmethod
        def apply(function: Callable[..., Any], preserve: bool, *args: Any) -> Any:
            return function(*args) if explained() else original.apply(function, preserve, *args)

    def plain_where_explained(generator: Callable[..., Iterator[None]]) -> Callable[..., Iterator[None]]:
        def not_reentrant(*args: Any, **kwargs: Any) -> Iterator[None]:
            if explained():
                yield
            else:
                yield from generator(*args, **kwargs)

        return not_reentrant

    for name in ("_checkpoint_without_reentrant_generator", "_checkpoint_without_reentrant_generator_impl"):
        if hasattr(checkpoint, name):  # the second is what torch calls since 2.14
            setattr(checkpoint, name, plain_where_explained(getattr(checkpoint, name)))
    Reentrant.explained = explained  # type: ignore[attr-defined]
    checkpoint.CheckpointFunction = Reentrant  # type: ignore[misc,assignment]
