"""Contextual decomposition as an explainer: of any split of the inputs, or group by group."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, TypeVar, cast

import torch
from torch import Tensor, nn

from xaikit.core import EXPLAINERS, Call, Categorical, Choice, Explainer, Float, Int
from xaikit.core.attribution import Explained
from xaikit.core.errors import InvalidInputError, NonFiniteError, UnsupportedOperationError
from xaikit.core.inputs import is_several
from xaikit.core.registered_hooks import gradient_hooks_off
from xaikit.core.registries import FEATURE_MASKS
from xaikit.core.structure import Tensors
from xaikit.explainers.cd.decomposition import Decomposition, decompose_call
from xaikit.explainers.cd.growth import layer_of_growth
from xaikit.explainers.cd.padding import without_padding
from xaikit.explainers.cd.ruleset import RULE_SETS, Context, OnMissing
from xaikit.explainers.cd.splits import Split, common_count
from xaikit.explainers.cd.unwrapping import unwrapped

T = TypeVar("T")


def _rows(value: Any, where: str) -> Any:
    return value if value is None else Int(ge=1).check(value, where)


@EXPLAINERS.register("contextual_decomposition")
class ContextualDecomposition(Explainer):
    """The contribution of a part of the input to the output (Murdoch et al. 2018, arXiv:1801.05453).

    The relevant and the irrelevant part of the input go through the model's forward pass together, and in the end
    relevant + irrelevant = output. `decompose` takes any split; `attribute` scores each group of a feature mask, by the
    contribution of the group to the target, spread evenly over its elements.

    >>> import torch
    >>> model = torch.nn.Linear(3, 2, bias=False)
    >>> x, mask = torch.rand(1, 3), torch.tensor([[1.0, 0.0, 0.0]])
    >>> ContextualDecomposition(model).decompose(x, mask).relevant[0].allclose(model(x * mask))
    True
    """

    SUPPORTED_MODULES: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)
    GAP_TOLERANCE: ClassVar[float | None] = 0.01
    MADE_FOR: ClassVar[tuple[str, ...]] = ("recurrent",)
    NEEDS_GRADIENT: ClassVar[bool] = False  # token ids are welcome: the embedding they meet is decomposed
    USES_GLOBAL_RANDOM: ClassVar[bool] = False
    PASSES: ClassVar[tuple[str | int, ...]] = (64,)  # one for each group, twice, many of them together

    rules: Annotated[str, Categorical("symmetric", "cdep"), "how interactions and constants are shared"] = "symmetric"
    floor: Annotated[
        float | None,
        Float(low=0.05, high=0.5, step=0.05, ge=0, optional=True),
        "constants are shared by parts that reach this fraction of them; None takes that of the rules",
    ] = None
    feature_mask: Annotated[Any, Choice(FEATURE_MASKS, search=True), "the groups that `attribute` scores"] = "auto"
    on_missing: Annotated[
        str, Categorical("error", "proportional", search=False), "an op without a rule: refuse, or split in proportion"
    ] = "error"
    max_rows: Annotated[int | None, _rows, "most rows (masks times samples) in a pass; None chooses"] = None

    def decompose(
        self,
        inputs: Any,
        masks: Any = None,
        *,
        relevant: Any = None,
        step_masks: Tensor | None = None,
        create_graph: bool = False,
    ) -> Decomposition:
        """The output as the contribution of the relevant part of the inputs and that of the rest.

        Args:
            inputs: a tensor (N, ...) of numbers or of token ids, or a tuple or dict of them; arrays and lists likewise.
            masks: booleans or numbers in [0, 1], 1 for what is relevant: (M, ...) broadcasting over the batch, or
                (M, N, ...) with one for each sample. For several inputs a tuple, with None for an input that is to
                count as a constant.
            relevant: instead of masks, the relevant part itself, of x = relevant + rest, as (N, ...) or (M, N, ...).
            step_masks: (M, T) or (M, N, T), the steps of an LSTM whose constant is relevant, by default those with
                relevant inputs.
            create_graph: keep the result differentiable with respect to parameters and inputs.

        Returns:
            relevant and irrelevant contribution, (M, N, ...) for an output (N, ...).

        Raises:
            InvalidInputError, InvalidTypeError: for inputs or masks that cannot be right.
            UnsupportedOperationError: for an op without a rule.
        """
        if (masks is None) == (relevant is None):
            raise InvalidInputError(
                "decompose takes either masks or the relevant part of the inputs, exactly one of them"
            )
        model = self._bound()
        if step_masks is not None and not any(isinstance(m, nn.LSTM | nn.LSTMCell) for m in model.modules()):
            raise InvalidInputError(
                f"step_masks are for the steps of an LSTM, and this {type(model).__name__} has none"
            )
        arguments, _ = self._arguments(inputs)

        def of_call(call: Call) -> Decomposition:
            splits = without_padding(_splits(arguments, call.inputs, masks, relevant), call)
            context = dataclasses.replace(self._context(), step_masks=_step_masks(step_masks, splits, call.n))
            return decompose_call(call, splits, context, max_rows=self.max_rows)

        return self._in_call(of_call, inputs, create_graph=create_graph)

    def _in_call(
        self, function: Callable[[Call], T], inputs: Any, target: Any = None, *, create_graph: bool = False
    ) -> T:
        """What a function makes of a call that explains nothing by itself."""
        results: list[T] = []

        def method(call: Call) -> tuple[Tensors, ...]:
            results.append(function(call))
            return ()

        self.run_call(method, inputs, target, create_graph=create_graph, seed=0)
        return results[0]

    def _explained(self, call: Call) -> Explained:
        """The attribution; its gap is max |relevant + irrelevant - score| over the groups of each sample."""
        (values,), decomposition = self._finite_groups(call)
        scores = call.scores(call.inputs).detach()
        return Explained(values, scores, decomposition.gap(scores).detach(), scores)

    def _growth(self, call: Call) -> str:
        layer = layer_of_growth(call.modules, lambda: self._by_group(call))
        where = "" if layer is None else f" The parts of both signs grow most up to layer {layer!r}."
        return f"{where} A larger floor, or rules='cdep', may help"

    def missing_rules(self, inputs: Any) -> tuple[str, ...]:
        """Operations of the model, on these inputs, that would have to be split in proportion, and where they run.

        Args:
            inputs: as for `attribute`.
        """

        def of_call(call: Call) -> Decomposition:
            everything = [Split.of_masks(torch.ones(1, 1, *x.shape[1:], device=x.device), x) for x in call.inputs]
            context = dataclasses.replace(self._context(), on_missing="proportional")
            return decompose_call(call, everything, context)

        try:
            approximations = self._in_call(of_call, inputs).approximations
        except UnsupportedOperationError as err:
            return (str(err),)
        return tuple(f"{a.operation} in {a.where}" for a in approximations)

    def _model_context(self, call: Call) -> contextlib.AbstractContextManager[None]:
        return gradient_hooks_off(call.modules)

    def _attribute(self, call: Call) -> Tensors:
        return self._attribute_each(call)[0]

    def _attribute_each(self, call: Call) -> tuple[Tensors, ...]:
        return self._finite_groups(call)[0]

    def _finite_groups(self, call: Call) -> tuple[tuple[Tensors, ...], Decomposition]:
        """The same as `_by_group`, which must give numbers."""
        every, decomposition = self._by_group(call)
        if not all(bool(v.detach().sum().isfinite()) for values in every for v in values):
            plain = dataclasses.replace(call, create_graph=False)
            layer = layer_of_growth(plain.modules, lambda: self._by_group(plain))
            where = "" if layer is None else f", first up to layer {layer!r}"
            raise NonFiniteError(
                f"the parts of the decomposition become NaN or infinite{where}: the model computes NaN there, or parts "
                "of both signs overflow before they cancel; a larger floor, rules='cdep', or the model in a higher "
                "precision, may help"
            )
        return every, decomposition

    def _by_group(self, call: Call) -> tuple[tuple[Tensors, ...], Decomposition]:
        """For each target the score of each group spread over its elements, and the decompositions that gave it."""
        ids = self.feature_mask.of(call.inputs, call.tokens)
        counts = [int(group.max()) + 1 for group in ids]
        splits: list[Split | None] = []
        for i, (group, x) in enumerate(zip(ids, call.inputs, strict=True)):
            number = torch.arange(sum(counts), device=x.device).view(-1, *[1] * x.ndim) - sum(counts[:i])
            splits.append(Split.of_masks(group.unsqueeze(0) == number, x))
        splits = without_padding(splits, call)
        decomposition = decompose_call(call, splits, self._context(), max_rows=self.max_rows, output=_scores)
        every = decomposition.relevant.unbind(-1) if call.more_targets else [decomposition.relevant]
        values = tuple(
            tuple(_spread(s, group, x) for s, group, x in zip(scores.split(counts), ids, call.inputs, strict=True))
            for scores in every
        )
        return values, decomposition

    def _context(self) -> Context:
        rules = RULE_SETS[self.rules]
        rules = rules if self.floor is None else dataclasses.replace(rules, floor=self.floor)
        return Context(rules, cast(OnMissing, self.on_missing))

    def _bound(self) -> nn.Module:
        return unwrapped(super()._bound())


def _scores(call: Call, output: Any) -> Tensor:
    """The score of each row, (R,); of several targets (R, targets)."""
    if not call.more_targets:
        return call.score(output)
    return torch.stack([call.of_target(target).score(output) for target in call.targets], -1)


def _splits(arguments: Any, inputs: Tensors, masks: Any, relevant: Any) -> list[Split | None]:
    """One split for each input, by its name where the inputs are `named`."""
    parts = masks if relevant is None else relevant
    if isinstance(parts, Mapping):
        if not isinstance(arguments, Mapping) or parts.keys() != arguments.keys():
            names = sorted(arguments) if isinstance(arguments, Mapping) else "no names"
            raise InvalidInputError(f"masks must have the names of the inputs, {names}, got {sorted(parts)}")
        parts = tuple(parts[name] for name in arguments)
    elif not isinstance(parts, (tuple, list)) or not (is_several(parts) or None in parts):
        parts = (parts,)  # nested lists of numbers are one mask; a tuple or a list of arrays holds one for each input
    if len(parts) != len(inputs) or all(value is None for value in parts):
        raise InvalidInputError(f"{len(inputs)} inputs need a mask each (None for a constant), got {len(parts)}")
    make = Split.of_masks if relevant is None else Split.of_part
    return [None if value is None else make(value, x) for value, x in zip(parts, inputs, strict=True)]


def _step_masks(steps: Any, splits: list[Split | None], n: int) -> Tensor | None:
    """Steps as (M, 1 or N, T)."""
    if steps is None:
        return None
    count = common_count(splits)
    masks = steps.unsqueeze(1) if isinstance(steps, Tensor) and steps.dim() == 2 else steps
    if not isinstance(masks, Tensor) or masks.dim() != 3 or len(masks) != count or masks.shape[1] not in (1, n):
        got = tuple(steps.shape) if isinstance(steps, Tensor) else type(steps).__name__
        raise InvalidInputError(
            f"step_masks must be a tensor ({count}, steps) or ({count}, {n}, steps), one for each mask, got {got}"
        )
    return masks


def _spread(scores: Tensor, ids: Tensor, x: Tensor) -> Tensor:
    """Scores (groups, N) of groups divided by their sizes, at the elements of the groups."""
    flat = ids.reshape(len(ids), -1).expand(len(x), -1)
    sizes = torch.zeros(len(x), len(scores), dtype=scores.dtype, device=x.device)
    sizes = sizes.scatter_add(1, flat, torch.ones_like(flat, dtype=scores.dtype))
    return (scores.T / sizes.clamp_min(1)).gather(1, flat).view(x.shape)
