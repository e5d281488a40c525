"""Facts about a model that its first calls found out, so that later calls need not measure them again."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Hashable, Mapping
from typing import Any

from torch import nn

MAX_FORMS = 64  # forms of input for which a model's row rule is remembered


@dataclasses.dataclass
class ModelFacts:
    """Facts about one model.

    Attributes:
        replicable: whether a private copy of its modules behaves as the model does; None while nobody has asked.
        draws: whether its forward pass draws from torch's global random numbers, in evaluation mode; None likewise.
        differentiates: whether its forward pass takes a derivative, so that it cannot run without gradients.
        written: buffers and attributes, each as module's name and own, that its forward pass changes in evaluation
            mode. No module itself, which would keep the model alive.
        written_weights: parameters of which the same holds; those of a copy are then its own, unless they are trained.
        private_classes: the classes of objects on its attributes that its forward pass writes into.
        operations: torch functions that its forward passes called, as far as they have been watched.
        bare_norms: those among them that normalise a batch and were called by other code than torch's own modules.
        watched: forms of input whose derivatives have been computed while the functions were watched.
        one_argument: for each structure of inputs (the names of a dict, the length of a list), whether the model takes
            the whole of it as its one argument.
        rows: for each form of input, how rows may be stacked.
        checked: forms of input and score whose second derivative, or whose way from a layer, has been checked.
        batched: forms of input whose convolutions have all had a batch axis.
    """

    replicable: bool | None = None
    draws: bool | None = None
    differentiates: bool = False
    written: frozenset[tuple[str, str]] = frozenset()
    written_weights: frozenset[tuple[str, str]] = frozenset()
    private_classes: frozenset[type] = frozenset()
    operations: set[Any] = dataclasses.field(default_factory=set)
    bare_norms: set[Any] = dataclasses.field(default_factory=set)
    watched: dict[Hashable, None] = dataclasses.field(default_factory=dict)
    one_argument: dict[Hashable, bool] = dataclasses.field(default_factory=dict)
    rows: dict[Hashable, Any] = dataclasses.field(default_factory=dict)
    checked: set[Hashable] = dataclasses.field(default_factory=set)
    batched: dict[Hashable, None] = dataclasses.field(default_factory=dict)

    def remember_argument(self, structure: Hashable, is_one: bool) -> None:
        """Keep how inputs of that structure are passed; the oldest goes where there are many."""
        _remember(self.one_argument, structure, is_one)

    def remember_rows(self, form: Hashable, rule: Any) -> None:
        """Keep the row rule of a form of input; the oldest goes where there are many."""
        _remember(self.rows, form, rule)

    def remember_watched(self, form: Hashable) -> None:
        """Keep a form of input whose functions have been watched; the oldest goes likewise."""
        _remember(self.watched, form, None)

    def remember_batched(self, form: Hashable) -> None:
        """Keep a form of input whose convolutions have had a batch axis; the oldest goes likewise."""
        _remember(self.batched, form, None)


def _remember(memory: dict[Any, Any], form: Hashable, value: Any) -> None:
    while len(memory) >= MAX_FORMS:
        memory.pop(next(iter(memory)), None)
    memory[form] = value


# Of each module the name, the class's id, and its switches.
Setup = tuple[tuple[str, int, tuple[tuple[str, Any], ...]], ...]
_FACTS: weakref.WeakKeyDictionary[nn.Module, dict[Setup, ModelFacts]] = weakref.WeakKeyDictionary()


def facts_of(model: nn.Module, modules: Mapping[nn.Module, str]) -> ModelFacts:
    """The facts about a model as it is set up at this moment, empty at first.

    Another module, a switch or a graph on an attribute may make another model of it: its rows may see each other then,
    or it may draw random numbers. So each setup has facts of its own. What the model writes itself is no setup.

    Args:
        model: the user's.
        modules: all modules of the model, with their names.
    """
    by_setup = _FACTS.get(model)
    if by_setup is None:
        by_setup = _FACTS.setdefault(model, {})
    setup = tuple((name, *_setup(module)) for module, name in modules.items())
    facts = by_setup.get(setup)
    if facts is None:
        entries = list(by_setup.items())  # another thread may add to it
        written = frozenset[tuple[str, str]]().union(*(other.written for _, other in entries))
        plain = _without(setup, written)
        alike = (other for key, other in entries if _without(key, written) == plain)
        facts = next(alike, None) or ModelFacts()
        _remember(by_setup, setup, facts)
    return facts


def _setup(module: nn.Module) -> tuple[int, tuple[tuple[str, Any], ...]]:
    """The class of a module, and what an attribute of a class of the user's may switch.

    Numbers are left out, since many change all the time: counters, rates that follow a schedule. A class is known by
    its id here: the facts keep no class of the user's alive.
    """
    kind = type(module)
    if kind.__module__.startswith("torch.nn.modules."):
        return id(kind), ()
    attributes = list(vars(module).items())  # in one step: another thread may run the model
    switches = [
        (name, value if type(value) in (bool, str) else id(type(value)))
        for name, value in attributes
        if name not in _ATTRIBUTES_OF_ALL
    ]
    return id(kind), tuple(switches)


def _without(setup: Setup, written: frozenset[tuple[str, str]]) -> Setup:
    """A setup without the attributes that the model writes itself."""
    return tuple(
        (name, kind, tuple(switch for switch in switches if (name, switch[0]) not in written))
        for name, kind, switches in setup
    )


_ATTRIBUTES_OF_ALL = frozenset(vars(nn.Module())) | {"_compiled_call_impl"}
