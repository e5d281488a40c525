"""Derivatives that torch computes wrongly, or not at all, made right: batches of one, second derivatives."""

from __future__ import annotations

import contextlib
import inspect
import re
import warnings
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode, resolve_name

from xaikit.core import torch_private
from xaikit.core.errors import NotDifferentiableError, XaikitError
from xaikit.core.model_facts import ModelFacts
from xaikit.core.process_wide import FUSED_ATTENTION_OFF

NORMS = (torch_private.BatchNorm, torch_private.InstanceNorm)
NORM_FUNCTIONS = frozenset({F.batch_norm, torch.batch_norm, F.instance_norm, torch.instance_norm})

DISPATCH = ("__torch_function__", "handle_torch_function")  # between a function and its caller, under a mode

# Nodes of autograd that raise when they are differentiated.
NOT_TWICE = ("NotImplemented", "DelayedError", "Error", "CdistBackwardBackward0", "PdistBackwardBackward0")


def _contiguous(gradient: Tensor | None) -> Tensor | None:
    return None if gradient is None else gradient.contiguous()


def _mend(output: Any) -> None:
    if type(output) is Tensor and output.requires_grad and output.ndim and len(output) == 1:
        output.register_hook(_contiguous)


def mend_norms(modules: Iterable[nn.Module]) -> list[Any]:
    """Give BatchNorm's and InstanceNorm's backward pass a contiguous gradient for a batch of one.

    torch 2.13 on a CPU gets it wrong, in evaluation mode, for one sample whose incoming gradient is strided like
    channels last (a convolution, the norm, then flatten and transpose): off by more than its own size.

    Returns:
        The handles that take the hooks off again.
    """
    return [m.register_forward_hook(_mend_module) for m in modules if isinstance(m, NORMS)]


def _mend_module(_module: nn.Module, _inputs: Any, output: Any) -> None:
    _mend(output)


# ---------------------------------------------------------------------- functions written out in plain operations


def _hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    """The same: torch's derivative holds 1/6 in single precision also for float64, and has none of its own."""
    y = F.relu6(x + 3) / 6
    return x.copy_(y) if inplace else y


def _prelu(x: Tensor, weight: Tensor) -> Tensor:
    """The same: at 0 the second backward pass of torch takes the slope 1, and its first one the weight."""
    slope = weight.view(1, -1, *[1] * (x.ndim - 2)) if x.ndim > 1 else weight
    return torch.where(x > 0, x, slope * x)


def _cdist(x1: Tensor, x2: Tensor, p: float = 2.0, compute_mode: str | None = None) -> Tensor:  # noqa: ARG001
    return _distance(x1.unsqueeze(-2) - x2.unsqueeze(-3), p)


def _pdist(x: Tensor, p: float = 2.0) -> Tensor:
    i, j = torch.triu_indices(len(x), len(x), 1, device=x.device)
    return _distance(x[i] - x[j], p)


def _distance(difference: Tensor, p: float) -> Tensor:
    """The p-norm of the last axis; its derivative at a difference of 0 is 0, as torch's own is."""
    zero = (difference == 0).all(-1)
    safe = torch.where(zero.unsqueeze(-1), torch.ones_like(difference), difference)
    return torch.where(zero, torch.zeros_like(zero, dtype=difference.dtype), torch.linalg.vector_norm(safe, p, dim=-1))


def _normed(function: Any) -> Callable[..., Tensor]:
    def norm(*args: Any, **kwargs: Any) -> Tensor:
        output = function(*args, **kwargs)
        _mend(output)
        return output

    return norm


def _cholesky_inverse(x: Tensor, upper: bool = False) -> Tensor:
    """The inverse, by one triangle: the derivative that torch gives takes the other one for a part of it."""
    return torch.cholesky_inverse(x.triu() if upper else x.tril(), upper)


FIRST: Mapping[Any, Callable[..., Tensor]] = MappingProxyType(
    {
        **{f: _normed(f) for f in NORM_FUNCTIONS},
        torch.cholesky_inverse: _cholesky_inverse,
        Tensor.cholesky_inverse: _cholesky_inverse,
    }
)
DOUBLE: Mapping[Any, Callable[..., Tensor]] = MappingProxyType({F.hardsigmoid: _hardsigmoid})
TWICE: Mapping[Any, Callable[..., Tensor]] = MappingProxyType(
    {
        **DOUBLE,
        torch.cdist: _cdist,
        F.pdist: _pdist,
        torch.pdist: _pdist,
        torch.prelu: _prelu,
        Tensor.prelu: _prelu,
    }
)


WRITES = re.compile(r"[a-z]\w*_|__setitem__|__i(add|sub|mul|truediv|div|pow|mod|floordiv|and|or|xor|lshift|rshift)__")


class FunctionLog(TorchFunctionMode):
    """Notes which torch functions a forward pass calls, and runs others in the place of some.

    Args:
        facts: of the model, that take the notes.
        table: other functions by torch's own.
    """

    def __init__(self, facts: ModelFacts, table: Mapping[Any, Callable[..., Tensor]] = MappingProxyType({})) -> None:
        super().__init__()
        self._facts, self._table = facts, table

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        self._facts.operations.add(func)
        if func in NORM_FUNCTIONS and func not in self._facts.bare_norms and not _called_by_mended_module(func):
            self._facts.bare_norms.add(func)
        target = args[0] if args else None
        if not torch.is_grad_enabled() and isinstance(target, Tensor) and target.grad_fn is not None and _writes(func):
            warnings.warn(
                "the model writes into an activation under torch.no_grad(): gradients and relevance pass that step as "
                "if it changed nothing; take it out of no_grad where it is a part of the function",
                stacklevel=2,
            )
        return self._table.get(func, func)(*args, **(kwargs or {}))


def _writes(func: Any) -> bool:
    """Whether a function of torch changes its first operand."""
    name = getattr(func, "__name__", "")
    return bool(WRITES.fullmatch(name)) and name not in ("requires_grad_", "detach_")


class _Replacing(TorchFunctionMode):
    """Runs other functions in the place of torch's."""

    def __init__(self, table: Mapping[Any, Callable[..., Tensor]]) -> None:
        super().__init__()
        self.table = table

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ARG002
        return self.table.get(func, func)(*args, **(kwargs or {}))


def _called_by_mended_module(func: Any) -> bool:
    """Whether torch's own BatchNorm or InstanceNorm calls the function at this moment: `mend_norms` has mended it."""
    current: Any = inspect.currentframe()
    frame = current.f_back  # a frame whose variables refer to itself is freed late, with all that its callers hold
    del current
    code = getattr(func, "__code__", None)
    while frame is not None and (frame.f_code is code or frame.f_code.co_name in DISPATCH):
        frame = frame.f_back
    module = None if frame is None else frame.f_locals.get("self")
    return isinstance(module, NORMS) and type(module).__module__.startswith("torch.nn.modules.")


@contextlib.contextmanager
def _torchs_refusals_told() -> Iterator[None]:
    """While active, torch's errors about what it cannot differentiate become sentences.

    Raises:
        NotDifferentiableError: for an operation of which torch has no derivative at all, and for a model that writes in
            place into what a derivative needs.
    """
    try:
        yield
    except XaikitError:
        raise
    except RuntimeError as error:
        text = str(error).partition("\n")[0]
        if "derivative for" in text and "not implemented" in text:
            raise NotDifferentiableError(
                f"torch cannot differentiate an operation of this model ({text[:200]}), so its score has no gradient; "
                "use a method that needs none, such as captum.feature_ablation"
            ) from error
        if "don't support automatic differentiation" in text:
            raise NotDifferentiableError(
                f"torch cannot differentiate this model twice ({text[:200]}): probably the backward of a "
                "torch.autograd.Function, such as that of nn.CrossMapLRN2d, writes with out=; use plain steps there "
                "(nn.LocalResponseNorm), or a penalty without a gradient, such as a mitigator with contextual "
                "decomposition"
            ) from error
        if re.search("modified by an inplace operation|modified inplace|in-place operation", text):
            source = re.search(r"output \d+ of (\w+)", text, re.IGNORECASE)
            whose = f"the output of {source[1]}" if source else "a value"
            raise NotDifferentiableError(
                f"torch cannot differentiate this model: it writes in place into {whose}, which the derivative needs; "
                "use the step that makes a new tensor, such as x = x * 2 in place of x.mul_(2)"
            ) from error
        raise


@contextlib.contextmanager
def sound_kernels(facts: ModelFacts, form: Hashable, *, create_graph: bool, is_double: bool) -> Iterator[None]:
    """While active, functions that the model calls and that torch differentiates wrongly are replaced by right ones.

    For a form of input that is new, the functions that are called are noted: they may be others.

    Args:
        facts: what is known of the model.
        form: of the input.
        create_graph: whether the gradient will be differentiated, too.
        is_double: whether an input has double precision.
    """
    table = {**FIRST, **(TWICE if create_graph else DOUBLE if is_double else {})}
    is_new = form not in facts.watched
    mode: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
    if is_new:
        mode = FunctionLog(facts, table)
    elif used := (table.keys() & facts.operations) - (NORM_FUNCTIONS - facts.bare_norms):
        mode = _Replacing({f: table[f] for f in used})
    plain_attention = FUSED_ATTENTION_OFF if create_graph else contextlib.nullcontext()
    with _torchs_refusals_told(), plain_attention, mode:
        yield
    if is_new:
        facts.remember_watched(form)


def check_second_derivative(grads: Iterable[Tensor | None], facts: ModelFacts, form: Hashable) -> bool:
    """Refuse gradients whose graph holds an operation without a second derivative; asked once for a form of input.

    Args:
        grads: gradients, computed with `create_graph`.
        facts: what is known of the model.
        form: of the input and of the score.

    Returns:
        Whether this was the first time.

    Raises:
        NotDifferentiableError: with the operation's name.
    """
    if form in facts.checked:
        return False
    for g in grads:
        if g is not None:
            refuse_missing_derivative(g, facts.operations)
    facts.checked.add(form)
    return True


def refuse_missing_derivative(output: Tensor, called: set[Any]) -> None:
    """Refuse a gradient whose graph holds an operation that torch cannot differentiate again.

    Args:
        output: a gradient, computed with `create_graph`.
        called: the torch functions that the model calls, to name in the message.

    Raises:
        NotDifferentiableError: with the operation's name.
    """
    pending, visited = [output.grad_fn], set()
    while pending:
        node = pending.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if node.name().rpartition("::")[2] in NOT_TWICE:
            op_names = ", ".join(sorted(filter(None, (resolve_name(f) for f in called))))
            raise NotDifferentiableError(
                f"torch has no second derivative for an operation of this model, so its explanation cannot stand in a "
                f"loss; {_reason(node)} (functions that ran: {op_names[:400]}). Replace that operation by plain ones, "
                "or use a penalty without a gradient, such as a mitigator with contextual decomposition"
            )
        pending.extend(n for n, _ in node.next_functions)


def _reason(node: Any) -> str:
    for operands in range(1, 4):
        try:
            node(*[torch.zeros((), device="cpu")] * operands)
        except TypeError:  # it takes another number of arguments
            continue
        except RuntimeError as err:
            return str(err).splitlines()[0]
    return "torch does not say which"
