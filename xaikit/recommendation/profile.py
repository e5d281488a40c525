"""The profile of a model: the facts about it that matter for explaining it."""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xaikit.core import Call, Explainer, torch_private
from xaikit.core.results import Result
from xaikit.core.structure import Tensors

KINDS: dict[str, tuple[type[nn.Module], ...]] = {
    "convolution": (torch_private.Convolution,),
    "linear": (nn.Linear, nn.Bilinear),
    "recurrent": (nn.RNNBase, nn.RNNCellBase),
    "attention": (nn.MultiheadAttention,),
    "embedding": (nn.Embedding, nn.EmbeddingBag),
    "normalization": (torch_private.RunningNorm, nn.LayerNorm, nn.GroupNorm, nn.LocalResponseNorm),
}
# Libraries have their own classes of these kinds, which are recognised by the end of the class's name.
ENDINGS = {"conv1d": "linear", "attention": "attention", "norm": "normalization"}
HARMLESS = (nn.Dropout, torch_private.Dropout, nn.Identity, nn.Flatten)
ATTENTION_FUNCTION = "scaled_dot_product_attention"
SILENT = frozenset({"__get__", "__set__", "__getitem__", "detach", "clone", "contiguous", "to", "type", "float"})


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ModelProfile(Result):
    """The parts of a model and the facts about it that matter for explaining it.

    Attributes:
        model: its class.
        parameters: number of values in its parameters.
        kinds: how many layers of each kind it has: convolution, linear, recurrent, attention, embedding, normalization.
        modules: number of its innermost modules, by class.
        reused: modules that stand in several places, or ran more than once.
        functions: operations that ran outside torch's modules, by name; None without data.
        outputs: outputs per sample; None where no data was given.
        gradient: whether there is a gradient of the output by the explained tensors; None where no data was given.
        without_rule: operations that a method has no rule for, by the method's name; empty where no data was given.
        embedding: name of the layer that embeds token ids, None where there is none.
    """

    model: str
    parameters: int
    kinds: Mapping[str, int]
    modules: Mapping[str, int]
    reused: tuple[str, ...]
    functions: Mapping[str, int] | None = None
    outputs: int | None = None
    gradient: bool | None = None
    without_rule: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    embedding: str | None = None

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in self.kinds.items()) or "no layers of a known kind"
        lines = [f"{self.model}: {self.parameters:,} parameters; {kinds}"]
        if self.reused:
            lines.append(f"runs more than once: {first_names(self.reused)}")
        if self.functions:
            lines.append(f"between its modules: {first_names(list(self.functions))}")
        for operations in dict.fromkeys(self.without_rule.values()):
            methods = [name for name, missing in self.without_rule.items() if missing == operations]
            lines.append(f"no rule for {first_names(operations)}: {first_names(methods, 8)}")
        if self.gradient is False:
            lines.append("no gradient reaches its input: only methods that perturb can explain it")
        return "\n".join(lines)


def first_names(names: Sequence[str], most: int = 4) -> str:
    """The first few of many names, and how many more there are."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def profile_model(model: nn.Module, inputs: Any = None, **view: Any) -> ModelProfile:
    """The profile of a model; facts about its forward pass need inputs.

    Args:
        model: the model.
        inputs: as for `Explainer.attribute`; None looks at the modules alone.
        view: settings of `Explainer`, such as its head and the extractors of its arguments.
    """
    leaves = [m for m in model.modules() if not any(True for _ in m.children())]
    occurrences = Counter(id(m) for _, m in model.named_modules(remove_duplicate=False))
    profile = ModelProfile(
        model=type(model).__name__,
        parameters=sum(p.numel() for p in model.parameters()),
        kinds=_kinds(model),
        modules=dict(Counter(type(m).__name__ for m in leaves).most_common()),
        reused=tuple(
            n for n, m in model.named_modules() if n and occurrences[id(m)] > 1 and not isinstance(m, HARMLESS)
        ),
        embedding=next((n for n, m in model.named_modules() if isinstance(m, KINDS["embedding"])), None),
    )
    if inputs is None:
        return profile
    passes: list[_ForwardPass] = []

    def method(call: Call) -> tuple[Tensors, ...]:
        passes.append(_watched(call))
        return ()

    _Watch(model=model, **view).run_call(method, inputs, None, create_graph=False, seed=0)
    ran = passes[0]
    kinds = Counter(profile.kinds)
    kinds["attention"] = max(kinds["attention"], ran.functions.get(ATTENTION_FUNCTION, 0))
    return dataclasses.replace(
        profile,
        kinds={kind: kinds[kind] for kind in KINDS if kinds[kind]},
        reused=tuple(dict.fromkeys((*profile.reused, *ran.reused))),
        functions=dict(ran.functions.most_common()),
        outputs=ran.outputs,
        gradient=ran.gradient,
        embedding=ran.embedding or profile.embedding,
    )


def _kinds(model: nn.Module) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for module in model.modules():
        kind = _kind(module)
        # An attention block may hold another one that does the work; only the innermost counts.
        if kind is not None and not any(_kind(inner) == kind for inner in module.modules() if inner is not module):
            counts[kind] += 1
    return {kind: counts[kind] for kind in KINDS if counts[kind]}


def _kind(module: nn.Module) -> str | None:
    by_type = next((kind for kind, types in KINDS.items() if isinstance(module, types)), None)
    name = type(module).__name__.lower()
    return by_type or next((kind for ending, kind in ENDINGS.items() if name.endswith(ending)), None)


# ---------------------------------------------------------------------- what runs


def one_pass(model: nn.Module, inputs: Any, **view: Any) -> tuple[Tensor, float]:
    """The model's output on some inputs, and how many seconds it took."""
    timed: list[tuple[Tensor, float]] = []

    def method(call: Call) -> tuple[Tensors, ...]:
        call.run(call.inputs)  # the first pass allocates
        start = time.perf_counter()
        output = call.run(call.inputs)
        timed.append((output, time.perf_counter() - start))
        return ()

    _Watch(model=model, **view).run_call(method, inputs, None, create_graph=False, seed=0)
    return timed[0]


class _Watch(Explainer):
    """Opens a call on a model without any requirement on its inputs."""

    SINGLE_BACKWARD = True
    NEEDS_GRADIENT = False

    def _attribute(self, call: Call) -> Tensors:
        return call.inputs


@dataclasses.dataclass
class _ForwardPass:
    functions: Counter[str]
    reused: list[str]
    embedding: str | None
    outputs: int
    gradient: bool | None


class _Functions(TorchFunctionMode):
    """Counts the functions that run outside of torch's own modules and return floating-point tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.inside = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the function; count it."""
        result = func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", str(func))
        if not self.inside and name not in SILENT and isinstance(result, Tensor) and result.is_floating_point():
            self.counts[name] += 1
        return result


def _watched(call: Call) -> _ForwardPass:
    """One forward pass, watched."""
    functions, runs = _Functions(), Counter[str]()
    embeddings: list[str] = []
    leaves = tuple(x.detach().requires_grad_(x.is_floating_point()) for x in call.inputs)
    with _hooks(call, functions, runs, embeddings), torch.enable_grad(), functions:
        output = call.run(leaves)
    modules = dict(call.model.named_modules())
    return _ForwardPass(
        functions=functions.counts,
        reused=[n for n, count in runs.items() if count > 1 and not isinstance(modules[n], HARMLESS)],
        embedding=next(iter(embeddings), None),
        outputs=output[0].numel(),
        # Parameters are frozen during a call, so what requires a gradient depends on the inputs.
        gradient=output.requires_grad if any(x.is_floating_point() for x in call.inputs) else None,
    )


@contextmanager
def _hooks(call: Call, functions: _Functions, runs: Counter[str], embeddings: list[str]) -> Iterator[None]:
    """While active, runs of innermost modules are counted, but not functions inside torch's; embeddings are noted."""
    handles = []
    for name, module in call.model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or any(True for _ in module.children()):
            continue
        inside = int(type(module).__module__.startswith("torch.nn"))

        def enter(module: nn.Module, args: Any, name: str = name, inside: int = inside) -> None:
            functions.inside += inside
            runs[name] += 1
            if isinstance(module, KINDS["embedding"]) and any(_same(args[:1], x) for x in call.inputs):
                embeddings.append(name)

        def leave(_module: nn.Module, _args: Any, _output: Any, inside: int = inside) -> None:
            functions.inside -= inside

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _same(arguments: tuple[Any, ...], x: Tensor) -> bool:
    """Whether a module's first argument is one of the explained inputs."""
    return bool(arguments) and isinstance(arguments[0], Tensor) and torch.equal(arguments[0], x)
