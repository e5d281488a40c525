"""Hierarchies of groups of features: which groups stand together, read from the user or made of neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from xaikit.core.errors import InvalidInputError
from xaikit.core.structure import Tensors

MOST_LEVELS = 400  # of a hierarchy

Tree: TypeAlias = "int | tuple[Tree, ...]"


def read_hierarchy(value: Any, where: str) -> Any:
    """A hierarchy as nested tuples of group numbers; None for none.

    Args:
        value: nested lists such as ``[[0, 1], [2, [3, 4]]]``, or a linkage matrix of scipy, one row for each merger.
        where: the setting, for messages.

    Raises:
        InvalidInputError: for anything else, or a group that stands in it twice.
    """
    if value is None:
        return None
    is_array = isinstance(value, (np.ndarray, Tensor))
    nodes: Any = _of_linkage(np.asarray(value), where) if is_array else value
    _check_depth(nodes, where)
    tree = _nested(nodes, where)
    leaves = list(leaves_of(tree))
    twice = sorted({leaf for leaf in leaves if leaves.count(leaf) > 1})
    if twice:
        raise InvalidInputError(f"{where} must hold every group once, and group {twice[0]} stands in it twice")
    return tree


def _check_depth(tree: Any, where: str) -> None:
    """Refuse what Python cannot go through, such as the chain that single linkage makes of many groups."""
    level, depth = [tree], 0
    while level:
        level = [child for node in level if isinstance(node, (list, tuple)) for child in node]
        depth += 1
        if depth > MOST_LEVELS:
            raise InvalidInputError(
                f"{where} may have {MOST_LEVELS} levels, and has more; join several groups at once, or use average "
                "linkage, which makes no chains"
            )


def _nested(value: Any, where: str) -> Tree:
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool) and value >= 0:
        return int(value)
    if isinstance(value, (list, tuple)) and value:
        children = tuple(_nested(item, where) for item in value)
        return children if len(children) > 1 else children[0]
    raise InvalidInputError(
        f"{where} must be nested lists of group numbers, such as [[0, 1], [2, 3]], or a linkage matrix, got {value!r}"
    )


def _of_linkage(rows: Any, where: str) -> Tree:
    if rows.ndim != 2 or rows.shape[1] < 2 or not len(rows) or not np.isfinite(rows).all():
        raise InvalidInputError(
            f"{where} as an array must be a linkage matrix, (groups - 1, 4) as scipy's, "
            f"of finite numbers, got shape {tuple(rows.shape)}"
        )
    nodes: list[Tree] = list(range(len(rows) + 1))
    for row in rows:
        pair = [int(number) for number in row[:2]]
        if not all(0 <= number < len(nodes) for number in pair):
            raise InvalidInputError(f"{where} joins {pair[0]} and {pair[1]}, and has only {len(nodes)} nodes by then")
        nodes.append((nodes[pair[0]], nodes[pair[1]]))
    return nodes[-1]


def leaves_of(tree: Tree) -> Iterator[int]:
    """The groups of a hierarchy, from the first to the last.

    Args:
        tree: the hierarchy.
    """
    if isinstance(tree, int):
        yield tree
    else:
        for child in tree:
            yield from leaves_of(child)


def check_leaves(tree: Tree, players: int) -> None:
    """Refuse a hierarchy of other groups than those that there are.

    Args:
        tree: the hierarchy.
        players: the number of groups.

    Raises:
        InvalidInputError: where a group is missing or unknown.
    """
    leaves = set(leaves_of(tree))
    missing, unknown = sorted(set(range(players)) - leaves), sorted(leaves - set(range(players)))
    if missing or unknown:
        wrong = f"group {missing[0]} is missing" if missing else f"there is no group {unknown[0]}"
        raise InvalidInputError(
            f"hierarchy must hold the {players} groups 0 to {players - 1}, and {wrong}; feature_mask= makes the groups"
        )


def neighbours(groups: Sequence[Tensor]) -> Tree:
    """The groups of a sample, halved again and again along the axis on which their centres lie farthest apart.

    Neighbouring segments, words or windows so stand together. Groups of different inputs are parted first.

    Args:
        groups: numbers of the groups, for each input in the shape of a sample.
    """
    by_input: list[Tree] = []
    used: set[int] = set()
    for ids in groups:
        numbers, flat = torch.unique(ids.cpu(), return_inverse=True)
        counts = torch.bincount(flat.flatten(), minlength=len(numbers)).double()
        centres = []
        for axis, size in enumerate(ids.shape):
            along = torch.arange(size, dtype=torch.float64, device="cpu").view(
                [-1 if i == axis else 1 for i in range(ids.ndim)]
            )
            sums = torch.bincount(flat.flatten(), along.expand(ids.shape).flatten(), minlength=len(numbers))
            centres.append((sums / counts).tolist())
        # A group that several inputs share stands with the first of them.
        places = {n: place for n, *place in zip(numbers.tolist(), *centres, strict=True) if n not in used}
        used |= places.keys()
        if places:
            by_input.append(_halved(places))
    return tuple(by_input) if len(by_input) > 1 else by_input[0]


def _halved(places: dict[int, list[float]]) -> Tree:
    if len(places) == 1:
        return next(iter(places))
    spread = [max(values) - min(values) for values in zip(*places.values(), strict=True)]
    axis = spread.index(max(spread)) if spread else 0
    order = sorted(places, key=lambda n: (places[n][axis] if spread else 0, n))
    half = (len(order) + 1) // 2
    return tuple(_halved({n: places[n] for n in part}) for part in (order[:half], order[half:]))


def sample_groups(groups: Tensors, sample: int) -> list[Tensor]:
    """The group numbers of one sample, for each input.

    Args:
        groups: (1, ...) or (N, ...) for each input.
        sample: its number.
    """
    return [ids[0] if len(ids) == 1 else ids[sample] for ids in groups]
