"""Einstein sums: the parts and masks ride along as leading dimensions."""

from __future__ import annotations

import functools
import string
from typing import Any

import torch
from torch import Tensor

from xaikit.explainers.cd import shares
from xaikit.explainers.cd.decomposed import Decomposed, on_total
from xaikit.explainers.cd.registry import cd_rule


@cd_rule("einsum")
def einsum(function: Any, equation: str, *operands: Any) -> Decomposed:
    """A sum of products: the mean of those with one operand in parts and the others whole (`by_kind.product`)."""
    if len(operands) == 1 and isinstance(operands[0], list | tuple):
        operands = tuple(operands[0])
    names, target = _explicit(equation, operands)
    lead = "".join([letter for letter in string.ascii_letters if letter not in "".join(names)][:2])

    def term(*values: Tensor) -> Tensor:
        terms = [lead * (value.dim() > len(letters)) + letters for value, letters in zip(values, names, strict=True)]
        return torch.einsum(f"{','.join(terms)}->{lead}{target}", *values)

    places = [i for i, value in enumerate(operands) if isinstance(value, Decomposed)]
    terms = [term(*(v.parts if i == at else on_total(v) for i, v in enumerate(operands))) for at in places]
    parts = terms[0] if len(terms) == 1 else sum(terms[1:], terms[0]) / len(terms)
    each_share = (_share(operands[i].share, names[i], target) for i in places)
    share = functools.reduce(lambda one, other: shares.merged(one, other, len(target)), each_share)
    return operands[places[0]].like(parts, share)  # type: ignore[no-any-return]


def _explicit(equation: str, operands: tuple[Any, ...]) -> tuple[list[str], str]:
    """The letters of each operand and of the output, with letters in place of an ellipsis or an implied output."""
    inputs, arrow, target = equation.replace(" ", "").partition("->")
    names = inputs.split(",")
    hidden = [
        value.dim() - len(letters.replace("...", "")) if "..." in letters else 0
        for value, letters in zip(operands, names, strict=True)
    ]
    free = [letter for letter in string.ascii_letters if letter not in equation]
    ellipsis = "".join(free[: max(hidden)])
    if not arrow:
        used = "".join(names).replace("...", "")
        target = "..." * ("..." in inputs) + "".join(sorted(x for x in set(used) if used.count(x) == 1))
    names = [letters.replace("...", ellipsis[len(ellipsis) - n :]) for letters, n in zip(names, hidden, strict=True)]
    return names, target.replace("...", ellipsis)


def _share(share: Tensor, letters: str, target: str) -> Tensor:
    """The share with the dimensions of the output, of size 1 where the operand does not have them."""
    if shares.is_uniform(share):
        return share
    for letter in letters:
        if letters.count(letter) > (letter in target):
            share, letters = share.mean(1 + letters.index(letter)), letters.replace(letter, "", 1)
    common = [letter for letter in target if letter in letters]
    share = share.permute(0, *(1 + letters.index(letter) for letter in common))
    for position, letter in enumerate(target):
        share = share if letter in letters else share.unsqueeze(1 + position)
    return share
