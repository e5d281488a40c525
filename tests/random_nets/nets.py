"""A random net from a seed: an entry for the inputs, steps of random kinds, a head, and a form of output."""

from __future__ import annotations

import copy
import dataclasses
import importlib
import random
from typing import Any

import torch
from torch import Tensor, nn

from tests.random_nets.habits import Habits, take_up
from tests.random_nets.kinds import KINDS, MAX_ELEMENTS
from tests.random_nets.wiring import ONE, TWO, Wiring, without_checkpoints

ENTRIES = ("tensor", "tensor", "tensor", "tensor", "scalars", "tuple", "dict", "ids", "ids and numbers")
OUTPUTS = ("logits", "logits", "logits", "squeezed", "tuple", "dict", "dataclass")
SHAPES = ((6,), (5,), (8,), (2, 6), (4, 5), (3, 4), (2, 5, 5), (3, 4, 6), (1, 6, 6), (2, 3, 3, 4), (1, 4, 3, 3))
GROUPS: list[list[str]] = []  # the names of kinds, by the file that registers them
for _file in ("arrangement", "elementwise", "sequence", "spatial"):
    _before = set(KINDS)
    importlib.import_module(f"tests.random_nets.{_file}")
    GROUPS.append([name for name in KINDS if name not in _before])
CLASSES = 3
# What torch says of nets that write over what autograd needs, or into an expanded tensor: nobody can train them.
# The last is of LocalResponseNorm, which torch cannot run on what is not contiguous.
REFUSED_BY_TORCH = ("inplace operation", "in-place operation", "single memory location", "view size is not compatible")
ROWS = 3
LARGEST = 50.0  # activations beyond it end in numbers that no tolerance fits


@dataclasses.dataclass
class Output:
    """An output as Hugging Face's models return it."""

    logits: Tensor
    hidden: Tensor


class Net(nn.Module):
    """Entry, steps, head: the steps run in order on one tensor."""

    def __init__(self, entry: str, output: str) -> None:
        super().__init__()
        self.entry, self.output = entry, output
        self.calls, self.habits = 0, Habits([])
        self.steps = nn.ModuleList()

    def features(self, *inputs: Tensor) -> Tensor:
        """The tensor that the first step gets."""
        if self.entry == "scalars":
            return self.first(inputs[0].unsqueeze(1))
        if self.entry == "tuple":
            return inputs[0] + self.second(inputs[1]).view(-1, *inputs[0].shape[1:]).tanh()
        if self.entry == "dict":
            return inputs[0] * torch.sigmoid(self.second(inputs[1]).view(-1, *inputs[0].shape[1:]))
        if self.entry.startswith("ids"):
            embedded = self.embedding(inputs[0])
            return embedded if len(inputs) == 1 else embedded + self.second(inputs[1]).unsqueeze(1)
        return inputs[0]

    def steps_of(self, x: Tensor) -> Tensor:
        """The features that the head gets."""
        for step in self.steps:
            x = step(x)
        return x

    def forward(self, a: Tensor, b: Tensor | None = None) -> Any:
        self.calls += 1
        hidden = self.steps_of(self.features(*self.habits.of(self, (a,) if b is None else (a, b))))
        logits = self.head(hidden.flatten(1))
        if self.output == "squeezed":
            return logits.squeeze(-1)
        if self.output == "tuple":
            return logits, hidden
        if self.output == "dict":
            return {"logits": logits, "hidden": hidden}
        return Output(logits, hidden) if self.output == "dataclass" else logits


@dataclasses.dataclass
class Case:
    """A net with what is explained of it.

    Attributes:
        seed: what it was made from.
        net: in evaluation mode.
        inputs: a tensor, a tuple or a dict.
        targets: classes (N,), or None for a net with one output.
        layer: the embedding, where the inputs are ids.
        kinds: the names of what it is made of.
    """

    seed: int
    net: Net
    inputs: Any
    targets: Tensor | None
    layer: str | None
    kinds: list[str]

    @property
    def arguments(self) -> tuple[Tensor, ...]:
        """The inputs as positional arguments."""
        if isinstance(self.inputs, Tensor):
            return (self.inputs,)
        return tuple(self.inputs.values() if isinstance(self.inputs, dict) else self.inputs)

    def rows(self, start: int, stop: int) -> tuple[Any, Tensor | None]:
        """Inputs and targets of some of the samples."""
        targets = None if self.targets is None else self.targets[start:stop]
        if isinstance(self.inputs, Tensor):
            return self.inputs[start:stop], targets
        if isinstance(self.inputs, dict):
            return {k: v[start:stop] for k, v in self.inputs.items()}, targets
        return tuple(v[start:stop] for v in self.inputs), targets

    def __str__(self) -> str:
        shapes = " ".join(f"{tuple(a.shape)}" for a in self.arguments)
        return f"{self.net.entry} {shapes} -> {', '.join(self.kinds)} -> {self.net.output}"


def build(seed: int) -> Case:
    """The case of a seed, in float64: always the same. The global random state is left as it was.

    Args:
        seed: any number.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        with without_checkpoints():
            return _build(seed, random.Random(seed))


def in_dtype(case: Case, dtype: torch.dtype) -> Case:
    """A copy with parameters and inputs of another type; its net is in evaluation mode."""
    case = copy.deepcopy(case)
    case.net.to(dtype).eval()
    change = lambda t: t.to(dtype) if t.is_floating_point() else t
    if isinstance(case.inputs, dict):
        case.inputs = {k: change(v) for k, v in case.inputs.items()}
    elif isinstance(case.inputs, tuple):
        case.inputs = tuple(change(v) for v in case.inputs)
    else:
        case.inputs = change(case.inputs)
    return case


def _build(seed: int, r: random.Random) -> Case:
    net = Net(r.choice(ENTRIES), r.choice(OUTPUTS)).double()
    shape = r.choice(SHAPES) if not net.entry.startswith("ids") else (r.randint(3, 5), r.choice((4, 6)))
    if net.entry == "scalars":
        shape = (5,)
    inputs = _entry(net, shape, r)
    net.double().eval()
    kinds = _add_steps(net, inputs, r)
    with torch.no_grad():
        hidden = net.steps_of(net.features(*(t.clone() for t in inputs)))
    net.head = nn.Linear(hidden[0].numel(), 1 if net.output == "squeezed" else CLASSES)
    net.double().eval()
    kinds += take_up(net, seed)
    targets = None if net.output == "squeezed" else torch.tensor([r.randrange(CLASSES) for _ in range(ROWS)])
    structured: Any = inputs if len(inputs) > 1 else inputs[0]
    if net.entry == "dict":
        structured = {"a": inputs[0], "b": inputs[1]}
    return Case(seed, net, structured, targets, "embedding" if net.entry.startswith("ids") else None, kinds)


def _entry(net: Net, shape: tuple[int, ...], r: random.Random) -> tuple[Tensor, ...]:
    x = torch.randn(ROWS, *shape, dtype=torch.float64)
    if net.entry == "scalars":
        net.first = nn.Linear(1, shape[0])
        return (torch.randn(ROWS, dtype=torch.float64),)
    if net.entry in ("tuple", "dict"):
        net.second = nn.Linear(4, x[0].numel())
        return x, torch.randn(ROWS, 4, dtype=torch.float64)
    if net.entry.startswith("ids"):
        net.embedding = nn.Embedding(11, shape[1], padding_idx=r.choice((None, 0)))
        # No token twice in a sample: equal vectors tie in a maximum, and the last digit decides whose gradient it is.
        ids = torch.stack([torch.randperm(10)[: shape[0]] + 1 for _ in range(ROWS)])
        if net.entry == "ids":
            return (ids,)
        net.second = nn.Linear(3, shape[1])
        return ids, torch.randn(ROWS, 3, dtype=torch.float64)
    return (x,)


def _add_steps(net: Net, inputs: tuple[Tensor, ...], r: random.Random) -> list[str]:
    names: list[str] = []
    wanted = r.randint(2, 7)
    for _ in range(60):
        if len(names) == wanted:
            break
        shape = tuple(_features(net, inputs).shape[1:])
        name, step = _step(r, shape)
        if step is None:
            continue
        net.steps.append(step.double().eval())
        if _works(net, inputs) and _works(net, tuple(t[:1] for t in inputs)) and _rows_agree(net, inputs):
            names.append(name)
        else:
            del net.steps[-1]
    return names


def _step(r: random.Random, shape: tuple[int, ...]) -> tuple[str, nn.Module | None]:
    """A step for the shape and its name; None where the drawn kind does not suit it."""
    if r.random() < 0.7:
        return _drawn(r, shape)
    table = ONE if r.random() < 0.65 else TWO
    text = r.choice(list(table))
    inner = [_keeping(r, shape) for _ in range(1 if table is ONE else 2)]
    if any(step is None for _, step in inner):
        return text, None
    return f"[{text}: {', '.join(name for name, _ in inner)}]", Wiring(text, table[text], *(s for _, s in inner))


def _drawn(r: random.Random, shape: tuple[int, ...]) -> tuple[str, nn.Module | None]:
    """A step of one kind, every group of kinds as often as the others."""
    name = r.choice(r.choice(GROUPS))
    return name, KINDS[name](r, shape)


def _keeping(r: random.Random, shape: tuple[int, ...]) -> tuple[str, nn.Module | None]:
    """A step, or two in a row, that give back the shape they get."""
    x = torch.randn(ROWS, *shape, dtype=torch.float64)
    for _ in range(20):
        name, step = _drawn(r, shape)
        if step is not None and step.double().eval()(x.clone()).shape == x.shape:
            if r.random() < 0.4:
                other, second = _keeping(r, shape)
                return f"{name} > {other}", None if second is None else nn.Sequential(step, second)
            return name, step
    return "", None


def _features(net: Net, inputs: tuple[Tensor, ...]) -> Tensor:
    with torch.no_grad():
        return net.steps_of(net.features(*(t.clone() for t in inputs)))


def _works(net: Net, inputs: tuple[Tensor, ...]) -> bool:
    """Whether torch itself runs the net, its batch and its gradient, with numbers that can be compared."""
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in inputs]
    points = [net.embedding(t).detach().requires_grad_() if hasattr(net, "embedding") else t for t in leaves[:1]]
    try:
        hidden = _from(net, leaves, points)
        if hidden.ndim < 2 or hidden[0].numel() > MAX_ELEMENTS or not 0 < float(hidden.detach().abs().max()) < LARGEST:
            return False
        weights = torch.linspace(0.5, 1.5, hidden[0].numel(), dtype=hidden.dtype).view(hidden.shape[1:])
        grads = torch.autograd.grad((hidden * weights).sum(), [points[0], *leaves[1:]], create_graph=True)
    except RuntimeError as error:
        if any(words in str(error) for words in REFUSED_BY_TORCH):
            return False
        raise
    return all(bool(g.isfinite().all()) and bool(g.reshape(len(g), -1).abs().sum(1).gt(1e-9).all()) for g in grads)


def _rows_agree(net: Net, inputs: tuple[Tensor, ...]) -> bool:
    """Whether torch itself gives a row alone what it gives in the batch: it sorts equal values by their last digits."""
    alone = torch.cat([_features(net, tuple(t[i : i + 1] for t in inputs)) for i in range(ROWS)])
    return torch.allclose(_features(net, inputs), alone, rtol=1e-9, atol=1e-12)


def _from(net: Net, leaves: list[Tensor], points: list[Tensor]) -> Tensor:
    if not hasattr(net, "embedding"):
        return net.steps_of(net.features(*(t.clone() for t in leaves)))
    x = points[0].clone()
    return net.steps_of(x if len(leaves) == 1 else x + net.second(leaves[1]).unsqueeze(1))
