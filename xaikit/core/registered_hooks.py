"""Hooks that a model registers on itself while it runs, as those of transformers do, and hooks on its gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

HOOKS = tuple(
    name
    for name, value in vars(nn.Module()).items()
    if isinstance(value, dict) and ("_forward_" in name or "_backward_" in name)
)


class RegisteredHooks:
    """The hooks of some modules as they are now, to tell later ones from these.

    Args:
        modules: where to look.
    """

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        tables = ((module, name, vars(module)[name]) for module in modules for name in HOOKS)
        self._before = [(module, name, table, set(table) if table else ()) for module, name, table in tables]

    def _later(self) -> Iterator[tuple[nn.Module, str, dict[int, Any], int]]:
        for module, name, table, before in self._before:
            if len(table) > len(before):
                yield from ((module, name, table, key) for key in list(table) if key not in before)

    def remove_later(self) -> None:
        """Take off the hooks that were registered since."""
        for _, _, table, key in self._later():
            del table[key]

    def hand_on(self, originals: Mapping[nn.Module, nn.Module]) -> None:
        """Register what was registered since on other modules, too.

        Args:
            originals: these modules, by the modules of this object.
        """
        for module, name, table, key in self._later():
            vars(originals[module])[name].setdefault(key, table[key])


def keep_for_hooks(results: Iterable[Tensor], model: nn.Module) -> None:
    """Keep a copy of a model as long as a graph, where a hook of `register_backward_hook` refers to it weakly.

    Args:
        results: with the graph.
        model: the copy.
    """
    if any(vars(module).get("_is_full_backward_hook") is False for module in model.modules()):
        for result in results:
            if result.grad_fn is not None:
                metadata: Any = result.grad_fn.metadata  # a dict, not a method as torch's types have it
                metadata["model"] = model


@contextlib.contextmanager
def gradient_hooks_off(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While active the modules' hooks on gradients rest: a rule hands back relevance, which is not for them to change.

    Args:
        modules: of the model that runs.
    """
    tables = [vars(module)[name] for module in modules for name in HOOKS if "_backward_" in name and vars(module)[name]]
    hooks = [(table, dict(table)) for table in tables]
    for table in tables:
        table.clear()
    try:
        yield
    finally:
        for table, before in hooks:
            table.update(before)
