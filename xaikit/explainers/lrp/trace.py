"""The trace of one forward pass: every operation on the explained input gets its relevance rule.

Modules are watched for the rules that a composite gives them; what runs inside and between them is seen by a
`TorchFunctionMode`. Nothing is set on the model or on a tensor, and nothing is traced ahead of time, so branches that
depend on the data, reused modules and tied weights work as they are.
"""

from __future__ import annotations

import dataclasses
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks, saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from xaikit.core import torch_private
from xaikit.core.errors import UnsupportedOperationError
from xaikit.core.frozen_norms import frozen_norms
from xaikit.core.taps import Tap
from xaikit.explainers.lrp import rules as _rules  # noqa: F401  (fills the table of rules)
from xaikit.explainers.lrp.factors import damped_output, passed_on
from xaikit.explainers.lrp.flow import Flow
from xaikit.explainers.lrp.graph import depends, is_activation, is_behind_layers, operations_before
from xaikit.explainers.lrp.ledger import Ledger
from xaikit.explainers.lrp.marks import Mark, Marks
from xaikit.explainers.lrp.operations import apply_rule, refuse_derivatives
from xaikit.explainers.lrp.zennit_rules import AFFINE_MODULES, NO_RULE, Rule, Rules, refuse_registered, whole_module
from xaikit.torch_ops import described, kind_of, writes
from xaikit.torch_ops.kinds import Kind


class Trace(TorchFunctionMode):
    """Puts relevance rules into the autograd graph of one forward pass."""

    def __init__(
        self, rules: Rules, flow: Flow, *, attn: bool, ledger: Ledger | None, variables: Sequence[Tensor]
    ) -> None:
        super().__init__()
        self.rules, self.flow = rules, flow
        self.attn = attn  # AttnLRP: half of the relevance to the attention weights, and through their softmax
        self.ledger = ledger  # where to book the relevance of every operation
        self.variables = variables  # inputs by which the relevance will be differentiated
        self.marks = Marks()
        self.mark = self.marks.set
        self.running: list[tuple[nn.Module, Rule]] = []
        self.names: dict[nn.Module, str] = {}
        self.unknown: dict[str, str] = {}
        self.sees_operations = False
        self.first_layer: nn.Module | Tensor | None = None  # by its weight, where no module runs it
        self.sources: list[Tensor] = []  # where relevance ends
        self.leaves: list[Tensor] = []  # where that of explained layers is read off
        self.tokens: Any = WeakIdKeyDictionary()  # integers that depend on the explained input

    def run(
        self, names: dict[nn.Module, str], forward: Callable[..., Any], inputs: Sequence[Tensor], samples: Any
    ) -> Any:
        """A model's `forward(inputs, samples)`, with rules; `names` are those of its modules."""
        traced = self._traced_inputs(inputs)
        self.names = names
        with frozen_norms(names), self._modules(names), self:
            output = forward(traced, samples)
        self._find_hidden(output)
        self.flow.chains.clear()
        self._report()
        return output

    def _traced_inputs(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The model's inputs, from where on the trace follows what depends on them.

        Beside tokens, which are explained at a layer, vectors are what a mask is: constants.
        """
        self.tokens.update((x, True) for x in inputs if not _has_gradient(x))
        if self.tokens:
            return list(inputs)
        return [self._source(x if x.requires_grad else x.detach().requires_grad_()) for x in inputs]

    def _source(self, x: Tensor) -> Tensor:
        """A tensor where relevance ends, as the model gets it: it may write into it."""
        self.sources.append(x)
        self.mark(x)
        return self.mark(x.clone(), Mark(fixed=x.is_leaf and not any(x is y for y in self.variables)))

    def tap(self, y: Tensor, leaf: Tensor) -> Tensor:
        """The output of an explained layer, whose relevance also arrives at a leaf."""
        if self.ledger is not None:
            fed = bool(self.leaves) and y.requires_grad and depends(y, self.leaves)
            self.ledger.layer(y, leaf, fed=fed)
        self.leaves.append(leaf)
        tap = self.flow.read_at(y, leaf)
        return self.mark(Tap.apply(y, leaf), dataclasses.replace(self.marks[y], tap=tap))

    def explained(self, output: Tensor) -> Tensor:
        """The tensor to start from: the logits where the output is their softmax."""
        logits, version = self.marks[output].logits or (output, None)
        if version != torch_private.version_of(logits):  # no softmax, or its logits were written over
            return output
        warnings.warn("the model ends in a softmax: LRP explains the logits before it", stacklevel=2)
        return logits

    def _report(self) -> None:
        if not self.unknown:
            return
        if not self.sees_operations:
            raise UnsupportedOperationError(
                f"LRP cannot look inside this {type(next(iter(self.names))).__name__}: its operations are hidden in "
                "TorchScript or a function of autograd, so nothing gets a rule; pass the model as it was before "
                "torch.jit.script or torch.jit.trace, or use gradient_x_input or integrated_gradients"
            )
        operations = ", ".join(f"{op} (in {where})" if where else op for op, where in self.unknown.items())
        warnings.warn(
            f"LRP has no rule for: {operations}; relevance follows the plain gradient there and may not be conserved",
            stacklevel=2,
        )

    @contextmanager
    def _modules(self, names: dict[nn.Module, str]) -> Iterator[None]:
        """Note which module runs, and ask for its rule when it starts: the first layer is the one that runs first."""
        thread = threading.get_ident()

        def is_ours(module: nn.Module) -> bool:
            """Not where another thread runs the same model, or the model a copy of a part that it has just made."""
            return threading.get_ident() == thread and module in names

        def enter(module: nn.Module, args: Any) -> None:
            if is_ours(module):
                refuse_derivatives()
                self._find_hidden(args)
                self.running.append((module, self.rules.of_module(names[module], module)))

        def leave(module: nn.Module, args: Any, output: Any) -> Any:
            if not is_ours(module):
                return None
            output = self._activated(module, args, output)
            self._find_hidden(output)
            return self._ruled_module(module, self.running.pop()[1], args, output)

        # Put in by hand: 26 handles, made and removed, are 3 % of a call on a small net.
        key, hooked = id(self), []
        try:
            for module, name in names.items():
                if isinstance(module, torch.jit.ScriptModule):
                    continue  # TorchScript takes no hooks
                before, after = torch_private.forward_pre_hooks_of(module), torch_private.forward_hooks_of(module)
                if before:
                    refuse_registered(name, module)
                hooked.append((before, after))
                before[key], after[key] = enter, leave
                if len(after) > 1:  # a rule first, then what reads the output
                    after.move_to_end(key, last=False)  # type: ignore[attr-defined]
            yield
        finally:
            for before, after in hooked:
                before.pop(key, None)
                after.pop(key, None)
            self.running.clear()

    def _find_hidden(self, values: Any) -> None:
        """Find what depends on the explained input by operations that cannot be seen, and name where it turns up."""
        for value in values if isinstance(values, (tuple, list)) else (values,):
            if not isinstance(value, Tensor) or value.is_leaf or value in self.marks:
                continue
            if depends(value, [*self.sources, *self.leaves]):
                hidden = operations_before(value, [x for x in self.marks if not x.is_leaf])
                self.unknown.setdefault(f"{hidden}, out of sight (TorchScript, autograd.Function)", self.where)
                self.mark(value)

    def _activated(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The output; if the module is an activation that is a function of autograd, its input gets the relevance."""
        unseen = isinstance(output, Tensor) and output not in self.marks and output.grad_fn is not None
        if not unseen or len(args) != 1 or args[0] not in self.marks:
            return output
        if not is_activation(module, torch_private.batch_of(args[0]), torch_private.batch_of(output)):
            return output
        return self.mark(passed_on(self.flow, args[0], output))

    @property
    def where(self) -> str:
        """The module that runs now, its class and its name in the model, for messages."""
        module = self.running[-1][0] if self.running else next(iter(self.names), None)
        return "" if module is None else described(module, self.names.get(module))

    def layer_rule(self, proxy: type[nn.Module], x: Tensor, weight: Tensor) -> Rule:
        """The rule of an affine operation: its module's, or the one that its kind of module would get.

        The first layer has its rule again where it runs on another input, as in siamese nets.
        """
        layer: Any
        layer, rule = self.running[-1] if self.running else (None, NO_RULE)
        if not isinstance(layer, AFFINE_MODULES):
            layer, rule = weight, self.rules.of_operation(proxy)
        first = self.rules.first
        if self.first_layer is None and rule is first:
            self.first_layer = layer
        runs_again = first is not None and rule is not first and layer is self.first_layer
        return first if first is not None and runs_again and not is_behind_layers(x) else rule

    def _ruled_module(self, module: nn.Module, rule: Rule, args: Any, output: Any) -> Any:
        """The output, with the rule of a module as a whole, where it is no affine operation."""
        had_its_rule = isinstance(module, AFFINE_MODULES) and (rule.damp is not None or rule.formula is not None)
        if rule.hook is None or output not in self.marks or had_its_rule:
            return output
        if rule.damp is not None:
            return self.mark(damped_output(self.flow, output.clone(), rule.damp), self.marks[output])
        if not args or args[0] not in self.marks:
            raise UnsupportedOperationError(
                f"the rule {type(rule.hook).__name__} needs a module that takes a tensor first; "
                f"{type(module).__name__} does not"
            )
        return self.mark(self.flow.ruled_by(partial(whole_module, rule.hook, module), args[0], output.clone()))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run one operation; where it touches the explained input, with its rule."""
        kwargs = kwargs or {}
        if kwargs.get("out") is not None:
            return self._written_out_to(func, args, dict(kwargs))
        if args and writes(func) and isinstance(args[0], Tensor):
            self.flow.before_write(args[0])
        # Without gradients (inside a function of autograd, too) no relevance flows; what is written still counts.
        is_constant = not torch.is_grad_enabled() and not (writes(func) or kwargs.get("inplace"))
        if is_constant or not self.marks.among(args, kwargs):
            output = func(*args, **kwargs)
            return self._of_tokens(output, func, args) if self.tokens else output
        self.sees_operations = self.sees_operations or kind_of(func) not in (None, Kind.STRUCTURE)
        # A checkpoint would compute what is saved again, without rules.
        with saved_tensors_hooks(lambda x: x, lambda x: x) if saved_tensors_are_hooked() else nullcontext():
            return apply_rule(self, func, args, kwargs)

    def _written_out_to(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A call with `out=`, of which autograd wants no part: its result, copied there."""
        out = kwargs.pop("out")
        result = self.__torch_function__(func, (), args, kwargs)
        for target, value in zip(out, result, strict=True) if isinstance(out, (tuple, list)) else ((out, result),):
            self.flow.before_write(target)
            target.resize_(value.shape).copy_(value)
            if value in self.marks:
                self.marks.set_written(target, self.marks[value])
        return out

    def _of_tokens(self, output: Any, func: Any, args: tuple[Any, ...]) -> Any:
        """Follow whole numbers to where they become vectors, which is where relevance ends in a model of tokens."""
        if not isinstance(output, Tensor) or not any(isinstance(a, Tensor) and a in self.tokens for a in args):
            return output
        if not _has_gradient(output):
            self.tokens[output] = True
        elif kind_of(func) is Kind.EMBEDDING:
            return self._source(output if output.requires_grad else output.requires_grad_())
        return output


def saved_tensors_are_hooked() -> bool:
    """Whether something (`torch.utils.checkpoint`) takes the tensors that operations save for their backward pass."""
    try:
        # torch refuses to disable hooks while some are set, and has no other public way to ask.
        with disable_saved_tensors_hooks("saved tensors are hooked"):
            return False
    except RuntimeError:
        return True


def _has_gradient(x: Tensor) -> bool:
    return x.is_floating_point() or x.is_complex()
