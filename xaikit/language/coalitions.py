"""Coalitions of segments: which are evaluated, and what their scores say of each segment."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError, near_names

METHODS = ("ablation", "occlusion", "shapley", "kernel_shap")
Coalition = tuple[bool, ...]  # for each segment whether it is there
EXACT = 20  # more segments are never enumerated: 2^20 coalitions


@dataclasses.dataclass(frozen=True)
class LeavingOut:
    """How segments are left out of a prompt.

    Attributes:
        method: "ablation": the score less the score without the segment. "occlusion": likewise for each window of
            neighbouring segments, shared evenly among them and averaged over the windows. "shapley": the mean over
            orders in which segments are added (Strumbelj & Kononenko 2010), exact where the coalitions allow it.
            "kernel_shap": a weighted linear fit over coalitions (Lundberg & Lee 2017, arXiv:1705.07874).
        n_coalitions: most coalitions that are evaluated, for the last two.
        window: of occlusion, in segments.
        replacement: what stands for a segment that is left out: its text; empty removes it.

    >>> LeavingOut("shapley", n_coalitions=64).method
    'shapley'
    """

    method: str = "ablation"
    n_coalitions: int = 128
    window: int = 2
    replacement: str = ""

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InvalidInputError(
                f"segments are left out by {', '.join(METHODS)}, got {self.method!r}{near_names(self.method, METHODS)}"
            )
        for name, least in (("n_coalitions", 4), ("window", 1)):
            if getattr(self, name) < least:
                raise InvalidInputError(f"{name} must be at least {least}, got {getattr(self, name)}")


def coalitions_of(settings: LeavingOut, n: int, seed: int) -> list[Coalition]:
    """The coalitions to evaluate, each once; the first has all segments, the second none.

    Args:
        settings: the method.
        n: the number of segments.
        seed: of the random orders or coalitions.
    """
    full, empty = (True,) * n, (False,) * n
    if settings.method == "ablation":
        return _unique([full, empty, *(_without(n, range(i, i + 1)) for i in range(n))])
    if settings.method == "occlusion":
        return _unique([full, empty, *(_without(n, window) for window in _windows(settings, n))])
    if n <= EXACT and 2**n <= settings.n_coalitions:
        return _unique([full, empty, *itertools.product([False, True], repeat=n)])
    generator = torch.Generator().manual_seed(seed)
    if settings.method == "shapley":
        return _unique([full, empty, *itertools.chain(*_orders(settings, n, generator))])
    return _unique([full, empty, *_kernel_sample(settings, n, generator)])


def attributed(settings: LeavingOut, coalitions: Sequence[Coalition], scores: Tensor, seed: int) -> Tensor:
    """The value of each segment, (n, K), from the scores of coalitions.

    Args:
        settings: the method.
        coalitions: as `coalitions_of` gave them.
        scores: of each coalition, (coalitions, K).
        seed: likewise.
    """
    n = len(coalitions[0])
    place = {coalition: i for i, coalition in enumerate(coalitions)}
    if settings.method in ("ablation", "occlusion"):
        windows = [range(i, i + 1) for i in range(n)] if settings.method == "ablation" else _windows(settings, n)
        values = scores.new_zeros(n, scores.shape[1])
        counts = scores.new_zeros(n, 1)
        for window in windows:
            difference = scores[place[(True,) * n]] - scores[place[_without(n, window)]]
            values[list(window)] += difference / len(window)
            counts[list(window)] += 1
        return values / counts
    if settings.method == "kernel_shap":
        return _fitted(coalitions, scores)
    if len(coalitions) == 2**n:
        return _exact_shapley(place, scores, n)
    orders = _orders(settings, n, torch.Generator().manual_seed(seed))
    values = scores.new_zeros(n, scores.shape[1])
    for chain in orders:
        for before, after in itertools.pairwise(chain):
            segment = next(i for i in range(n) if before[i] != after[i])
            values[segment] += scores[place[after]] - scores[place[before]]
    return values / len(orders)


def _unique(coalitions: Sequence[Coalition]) -> list[Coalition]:
    return list(dict.fromkeys(coalitions))


def _without(n: int, absent: range) -> Coalition:
    return tuple(i not in absent for i in range(n))


def _windows(settings: LeavingOut, n: int) -> list[range]:
    size = min(settings.window, n)
    return [range(i, i + size) for i in range(n - size + 1)]


def _orders(settings: LeavingOut, n: int, generator: torch.Generator) -> list[list[Coalition]]:
    """Orders of the segments and their reverses, as chains of coalitions from none to all, as many as allowed."""
    chains: list[list[Coalition]] = []
    evaluated: set[Coalition] = set()
    while True:
        order = torch.randperm(n, generator=generator, device="cpu").tolist()
        for direction in (order, order[::-1]):
            present: set[int] = set()
            chain = [(False,) * n]
            for segment in direction:
                present.add(segment)
                chain.append(tuple(i in present for i in range(n)))
            if chains and len(evaluated | set(chain)) > settings.n_coalitions:
                return chains
            evaluated |= set(chain)
            chains.append(chain)


def _kernel_sample(settings: LeavingOut, n: int, generator: torch.Generator) -> list[Coalition]:
    """Coalitions drawn with the weights of the Shapley kernel, each with its complement."""
    sizes = torch.tensor([1 / (size * (n - size)) for size in range(1, n)], device="cpu")
    drawn: list[Coalition] = []
    for _ in range(20 * settings.n_coalitions):  # many draws repeat where few segments are left
        size = 1 + int(torch.multinomial(sizes, 1, generator=generator))
        present = set(torch.randperm(n, generator=generator, device="cpu")[:size].tolist())
        coalition = tuple(i in present for i in range(n))
        if coalition not in drawn:
            drawn += [coalition, tuple(not present_now for present_now in coalition)]
        if len(drawn) + 2 >= settings.n_coalitions:
            break
    return drawn[: settings.n_coalitions - 2]


def _exact_shapley(place: dict[Coalition, int], scores: Tensor, n: int) -> Tensor:
    """Sum over coalitions S without i of |S|! (n - |S| - 1)! / n! times what i adds to S."""
    values = scores.new_zeros(n, scores.shape[1])
    for coalition, row in place.items():
        size = sum(coalition)
        for i in range(n):
            if not coalition[i]:
                weight = 1 / (n * math.comb(n - 1, size))
                with_it = coalition[:i] + (True,) + coalition[i + 1 :]
                values[i] += weight * (scores[place[with_it]] - scores[row])
    return values


def _fitted(coalitions: Sequence[Coalition], scores: Tensor) -> Tensor:
    """The least-squares fit with the kernel's weights, under the constraint that the values add up."""
    n = len(coalitions[0])
    full, empty = scores[0], scores[1]
    if n == 1:
        return (full - empty)[None]
    design = torch.tensor(coalitions[2:], dtype=torch.float64, device="cpu")
    sizes = design.sum(1)
    chosen = torch.tensor([math.comb(n, int(size)) for size in sizes], dtype=torch.float64, device="cpu")
    weights = (n - 1) / (chosen * sizes * (n - sizes))
    # The last value is what the others leave of the whole difference.
    total = (full - empty).double()
    reduced = design[:, :-1] - design[:, -1:]
    targets = scores[2:].double() - empty.double() - design[:, -1:] * total
    root = weights.sqrt()[:, None]
    solution = torch.linalg.lstsq(root * reduced, root * targets, driver="gelsd").solution
    return torch.cat([solution, (total - solution.sum(0))[None]]).to(scores)
