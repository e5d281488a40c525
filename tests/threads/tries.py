"""Tries: two works on one model at the same time, compared with what each gives alone."""

from __future__ import annotations

import copy
import functools
import random
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from tests.threads.models import make
from tests.threads.works import INPUTS, LABELS, WORKS, Work
from xaikit.testing.case import state_of

TOLERANCE = 1e-7


def wrong_results(tries: int, seed: int = 0, kinds: Any = tuple(WORKS)) -> Iterator[str]:
    """A sentence for each result that is not what the work gives alone, and for each change of the model.

    Args:
        tries: pairs of works that run at the same time; every second one on a model that nothing is known of yet.
        seed: of the choice of pairs.
        kinds: the classes of models.
    """
    chosen, used = random.Random(seed), {kind: make(kind) for kind in kinds}
    with _switching_often():
        alone = functools.cache(lambda kind, name: _alone(kind, WORKS[kind][name]))
        for number in range(tries):
            kind = chosen.choice(kinds)
            names = chosen.choices(list(WORKS[kind]), k=2)
            model = make(kind) if number % 2 else used[kind]
            yield from _tried(model, kind, names, [alone(kind, name) for name in names])


def _tried(model: nn.Module, kind: Any, names: list[str], truths: list[list[Tensor]]) -> Iterator[str]:
    before, starting = _state(model, names), threading.Barrier(2)
    results: list[Any] = [None, None]

    def run(position: int) -> None:
        starting.wait()
        try:
            results[position] = WORKS[kind][names[position]](model, INPUTS[kind].clone(), LABELS)
        except Exception as error:  # noqa: BLE001 whatever goes wrong in a thread is what we look for
            results[position] = error

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, other, result, truth in zip(names, reversed(names), results, truths, strict=True):
        if name == "a training pass" and "penalty" in other:
            continue  # a loss runs the model itself, and two such passes meet in plain torch, too
        if (fault := _fault(result, truth)) is not None:
            yield f"{kind.__name__}: {name} beside {other}: {fault}"
    if _state(model, names) != before:
        yield f"{kind.__name__}: {' beside '.join(names)}: the model is not as it was"


def _fault(result: Any, truth: list[Tensor]) -> str | None:
    if isinstance(result, Exception):
        return f"raised {type(result).__name__}: {str(result)[:200]}"
    errors = [float((a - b).abs().max() / b.abs().max().clamp(min=1e-9)) for a, b in zip(result, truth, strict=True)]
    return None if max(errors) < TOLERANCE else f"off by {max(errors):.2g}"


def _alone(kind: Any, work: Work) -> list[Tensor]:
    """What a work gives on a model of its own; twice, for on a second call the model is known."""
    model = make(kind)
    first, second = (work(model, INPUTS[kind].clone(), LABELS) for _ in range(2))
    if (fault := _fault(first, second)) is not None:
        raise ValueError(f"{kind.__name__}: a work is not repeatable: {fault}")
    return second


def _state(model: nn.Module, names: list[str]) -> Any:
    """The state of the model; less where a training pass, alone or of a loss, writes into it as it should."""
    if any("pass" in name or "penalty" in name for name in names):
        return [(m.training, [p.tolist() for p in m.parameters(recurse=False)]) for m in model.modules()]
    return copy.deepcopy((state_of(model), [list(s) for s in vars(model).values() if isinstance(s, list)]))


class _switching_often(warnings.catch_warnings):  # noqa: N801
    """Threads take turns every few microseconds; warnings are none of the concern here."""

    def __enter__(self) -> Any:
        result = super().__enter__()
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)
        self.interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-5)
        return result

    def __exit__(self, *exc_info: object) -> None:
        sys.setswitchinterval(self.interval)
        super().__exit__(*exc_info)
