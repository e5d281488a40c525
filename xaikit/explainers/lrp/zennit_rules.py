"""zennit's composites as rules for operations; the only module that imports zennit.

Beyond zennit's documented interface this file reads the attributes of its hooks (`param_modifiers`, `gradient_mapper`
and its stabilizer, `copy`, `forward`, `pre_backward`, `backward`) and the entries of its composites (`layer_map`,
`first_map`), as they are in zennit 0.5. Should they move, `tests/unit/explainers/lrp/test_zennit.py`, which compares
with zennit's own results for every composite, fails.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core import torch_private
from xaikit.core.errors import InvalidInputError, InvalidTypeError, MissingDependencyError
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers.lrp import flow, formulas


@functools.lru_cache(maxsize=1)
def zennit() -> types.ModuleType:
    """The zennit package with its submodules.

    Raises:
        MissingDependencyError: when it cannot be imported, with the cause.
    """
    try:
        with contextlib.suppress(MissingDependencyError):
            import_torchvision()  # zennit imports it: mended where its operators do not match torch
        for name in ("canonizers", "composites", "core", "layer", "rules", "types"):
            importlib.import_module(f"zennit.{name}")
    except Exception as error:
        raise MissingDependencyError(
            f"LRP needs zennit (pip install 'zennit>=0.5.1,<0.6'); its import failed: {error!r}"
        ) from error
    return sys.modules["zennit"]


AFFINE_MODULES = (nn.Linear, torch_private.Convolution)


@dataclasses.dataclass(frozen=True)
class Rule:
    """The rule that a composite's hook stands for, for one operation or module."""

    hook: Any = None  # None without a rule: relevance follows the gradient, which is LRP-0
    # (g, y) -> the stand-in for g = R / y, for hooks that change neither input nor parameters (Epsilon, Norm).
    damp: Callable[[Tensor, Tensor], Tensor] | None = None
    formula: formulas.Formula | None = None  # for other hooks on affine operations


NO_RULE = Rule()


class Rules:
    """The rules of one composite, given out in the order in which modules and operations run.

    zennit's composites find the first layer by the order of definition; asked in the order of execution, the same
    composites find the layer that runs first.
    """

    def __init__(self, composite: Any) -> None:
        self.composite = composite
        self.context: dict[Any, Any] = {}  # what the composite notes of the modules that it was asked for
        self.first: Rule | None = None  # what the first layer got, where a composite tells it from the others
        self.any = False  # whether anything got a rule for relevance, not only a change of the gradient
        self.rectifiers_pass = gives_to_zeros(composite)
        _proxies()

    def of_module(self, name: str, module: nn.Module) -> Rule:
        """The rule of a module that starts to run."""
        before = dict(self.context)
        rule = read(self.composite.module_map(self.context, name, module))
        if self.context != before:
            self.first = self.first or rule
        if rule.formula is formulas.passed_on and not isinstance(module, AFFINE_MODULES):
            return NO_RULE  # other modules pass relevance on anyway
        self.any |= rule.damp is not None or rule.formula is not None
        return rule

    def of_operation(self, proxy: type[nn.Module]) -> Rule:
        """The rule of an operation outside such a module: the one that a nameless module of its kind gets."""
        return self.of_module("", _proxies()[proxy])

    @functools.cached_property
    def of_norm(self) -> Rule:
        """The rule of a BatchNorm with no affine operation beside it: a linear layer's, but never a first layer's."""
        aside = copy.copy(self)
        aside.context = dict(self.context)
        aside.of_operation(nn.Linear)  # it would be the first
        return aside.of_operation(nn.Linear)

    def of_sum(self) -> Rule:
        """The rule of a sum of two signals."""
        return self.of_operation(zennit().layer.Sum)


def gives_to_zeros(composite: Any) -> bool:
    """Whether ReLUs must hand on relevance at their zeros: some layer's rule gives it there, and ReLUs have Pass.

    Epsilon, z+, gamma and alpha-beta give relevance in proportion to the activation, so that a zero gets none.
    """
    rules, entries = zennit().rules, list(getattr(composite, "layer_map", ()))
    in_proportion = (rules.Epsilon, rules.Norm, rules.ZPlus, rules.Gamma, rules.AlphaBeta)
    of_layers = [hook for kinds, hook in entries if _meets(kinds, AFFINE_MODULES)]
    layers_give = any(isinstance(h, zennit().core.Hook) and type(h) not in in_proportion for h in of_layers)
    return layers_give and type(next((h for kinds, h in entries if _meets(kinds, (nn.ReLU,))), None)) is rules.Pass


def _meets(kinds: Any, others: tuple[type, ...]) -> bool:
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    return any(issubclass(other, kinds) or any(issubclass(kind, other) for kind in kinds) for other in others)


@functools.lru_cache(maxsize=1)
def _proxies() -> dict[type[nn.Module], nn.Module]:
    """A nameless module of each kind of operation; made ahead, since a model under vmap allows no new one."""
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    proxies: dict[type[nn.Module], nn.Module] = {kind: kind(1, 1, 1, device="meta") for kind in convolutions}
    return {nn.Linear: nn.Linear(1, 1, device="meta"), zennit().layer.Sum: zennit().layer.Sum(), **proxies}


@functools.lru_cache(maxsize=256)
def read(hook: Any) -> Rule:
    """The rule that a hook stands for."""
    rules = zennit().rules
    if hook is None:
        return NO_RULE
    if type(hook) is rules.Pass:
        return Rule(hook, formula=formulas.passed_on)
    if not isinstance(hook, zennit().core.BasicHook):
        return Rule(hook)
    epsilon = _epsilon(hook)
    keeps_parameters = not any(getattr(m, "zero_params", None) for m in hook.param_modifiers)
    if type(hook) in (rules.Epsilon, rules.Norm) and keeps_parameters:
        general = lambda g, y: hook.gradient_mapper(g * flow.nonzero(y), [y])  # noqa: E731
        return Rule(hook, damp=general if epsilon is None else flow.Damped(epsilon))
    written = {rules.ZPlus: formulas.zplus, rules.AlphaBeta: formulas.alpha_beta, rules.Gamma: formulas.gamma}
    formula: Any = None if epsilon is None else written.get(type(hook))
    return Rule(hook, formula=functools.partial(formula, epsilon=epsilon) if formula else formulas.any_hook)


def _epsilon(hook: Any) -> float | None:
    """The number that a hook adds to its denominators; None where its stabilizer does something else."""
    stabilizer = formulas.closure(hook.gradient_mapper).get("stabilizer_fn")
    if not isinstance(stabilizer, zennit().core.Stabilizer) or stabilizer.clip or stabilizer.norm_scale:
        return None
    return float(stabilizer.epsilon)


def refuse_registered(name: str, module: nn.Module) -> None:
    """Refuse a module on which a zennit composite is registered: its hooks would apply every rule a second time.

    Raises:
        InvalidInputError: naming the module and its hook.
    """
    for hook in torch_private.forward_pre_hooks_of(module).values():
        owner = getattr(hook, "__self__", None)
        if isinstance(owner, zennit().core.Hook):
            raise InvalidInputError(
                f"module {name!r} ({type(module).__name__}) carries zennit's {type(owner).__name__}, "
                "whose composite is registered on this model; leave its context, or call its remove()"
            )


def whole_module(hook: Any, module: nn.Module, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
    """The rule of any hook on a module as a whole, whatever it runs inside: R_in / x."""
    relevance = flow.relevance_of(g, y)
    if not isinstance(hook, zennit().core.BasicHook):
        return _foreign(hook, module, x, relevance) / flow.nonzero(x)

    def forward(value: Tensor, index: int) -> Tensor:
        modified = {n: formulas.parameter(hook, index, p, n) for n, p in module.named_parameters(recurse=False)}
        with _shadowed(module, modified):
            return module.forward(value)

    return formulas.general(hook, forward, x, relevance)


def _foreign(hook: Any, module: nn.Module, x: Tensor, relevance: Tensor) -> Tensor:
    """Relevance by a hook that is no BasicHook: it sees the gradient and changes it as it likes."""
    hook = hook.copy()
    with torch.enable_grad():
        value = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
        output = module.forward(value)
    (gradient,) = torch.autograd.grad(output, value, relevance, create_graph=torch.is_grad_enabled())
    hook.forward(module, (x,), output)
    hook.pre_backward(module, (gradient,), (relevance,))
    changed = hook.backward(module, (gradient,), (relevance,))
    return gradient if changed is None else changed[0]


@contextlib.contextmanager
def _shadowed(module: nn.Module, tensors: dict[str, Tensor | None]) -> Iterator[None]:
    """While active, the module sees other tensors under its parameters' names; the parameters stay where they are."""
    shadowed = {name: module.__dict__[name] for name in tensors if name in module.__dict__}
    try:
        module.__dict__.update(tensors)
        yield
    finally:
        for name in tensors:
            module.__dict__.pop(name, None)
        module.__dict__.update(shadowed)


@contextlib.contextmanager
def canonized(model: nn.Module, canonizers: Sequence[Any]) -> Iterator[None]:
    """Apply zennit canonizers for a while, but not the merging of BatchNorm: it is folded here, differentiably."""
    with contextlib.ExitStack() as applied:
        for canonizer in canonizers:
            for single in _flat(canonizer):
                for instance in single.apply(model):
                    applied.callback(instance.remove)
        yield


def _flat(canonizer: Any) -> Iterator[Any]:
    z = zennit().canonizers
    if inspect.isclass(canonizer):
        canonizer = canonizer()
    if not isinstance(canonizer, z.Canonizer):
        raise InvalidTypeError(f"zennit_canonizers takes zennit.canonizers.Canonizer objects, got {canonizer!r}")
    if isinstance(canonizer, z.CompositeCanonizer):
        for part in canonizer.canonizers:
            yield from _flat(part)
    elif not isinstance(canonizer, z.MergeBatchNorm):
        yield canonizer
