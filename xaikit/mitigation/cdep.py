"""Contextual decomposition explanation penalization: a penalty on what a part of the input contributes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xaikit.core import MITIGATORS, Call, Categorical, Explainer, Float, torch_private
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.lightning_private import lightning_inner
from xaikit.core.mask_shapes import fit_masks
from xaikit.core.masks import is_several, leaves_of, read_masks
from xaikit.core.modes import mode_matters
from xaikit.core.structure import Tensors, flatten
from xaikit.core.value_ranges import ValueRange, ranges_known
from xaikit.mitigation.base import Mitigator
from xaikit.mitigation.fabric import BatchFraction
from xaikit.mitigation.followed import warn_if_followed
from xaikit.mitigation.forward import autocast_on
from xaikit.mitigation.penalties import EXPLANATION, classes_last
from xaikit.mitigation.sources import Source
from xaikit.mitigation.units import check_units, read_units, separate

FORMS = ("sigmoid", "log", "l1", "squared")
PARTS = ("relevant", "irrelevant")
MODES = ("auto", "eval")


def _function(value: Any, where: str) -> Any:
    if value is not None and not callable(value):
        raise InvalidTypeError(f"{where} must be a function of the inputs, got {value!r}")
    return value


@MITIGATORS.register("cdep")
class CDEP(Mitigator):
    """Mean cross-entropy + lambda_cdep * penalty of the masked part's score (Rieger et al. 2020, arXiv:1909.13584).

    A split of the input into two parts gives each class two scores: `penalised`, of the part that must not matter, and
    `other`, of the rest. The penalty is the mean over samples and classes (all, or only the label's) of

    * ``form="l1"``, ``"squared"``: |penalised - goal| or its square; with ``centred`` less the mean over the classes;
    * ``form="sigmoid"``: sigmoid(penalised - other), as published for images;
    * ``form="log"``: log(1 + exp(penalised - other)), as published for text, with ``target="label"``.

    The part that must not matter is mask * (x - keep(x)), or mask * x without `keep`. If `keep` returns the grey image,
    for example, that part is the colour. ``part="irrelevant"`` makes it the irrelevant part of the decomposition. Under
    the published rules, ``explainer="contextual_decomposition:rules=cdep"``, the irrelevant part also gets the
    interactions of both parts, and weights about 1 suit; the symmetric rules give it half of them.

    The published form (`CDEP.published`) penalises the relevant part. Its sigmoid saturates within a few steps, and a
    shift of all classes satisfies it, so a shortcut often stays.

    For an explainer that cannot decompose an output, the two scores are the sums of its attribution inside and outside
    the mask, whatever `part` is.

    The model is decomposed in evaluation mode. If both modes compute the same, the sum of the two parts also serves as
    the logits of the task loss. ``mode="eval"`` computes these in a separate pass, bit for bit as without a penalty.
    ``steps`` says at which steps of an LSTM the bias is counted to the part that must not matter. The published text
    code masks the decoy word and the word after it, but takes the bias of the decoy word alone:
    ``steps=lambda words: words * (1 - torch.cat([0 * words[..., :1], words[..., :-1]], -1))``.

    >>> import torch
    >>> model = torch.nn.Linear(4, 2)
    >>> x, y, mask = torch.rand(8, 4), torch.tensor([0, 1] * 4), torch.tensor([1.0, 0, 0, 0])
    >>> history = CDEP(lr=0.1, n_epochs=20, random_state=0).fit(model, x, y, mask, progress=False)
    >>> history["penalty"][-1] < history["penalty"][0]
    True
    """

    WEIGHT: ClassVar[str] = "lambda_cdep"

    explainer: Annotated[Any, EXPLANATION, "the explanation: a name, a spec string, a class or an object"] = (
        "contextual_decomposition"
    )
    lambda_cdep: Annotated[float, Float(low=1e-2, high=1e4, log=True, ge=0), "weight of the penalty"] = 300.0
    form: Annotated[str, Categorical(*FORMS), "of the penalty"] = "squared"
    target: Annotated[str, Categorical("all", "label"), "whose scores are penalised"] = "all"
    part: Annotated[str, Categorical(*PARTS), "which part what must not matter is"] = "irrelevant"
    centred: Annotated[bool, "take the mean over classes off the scores, for 'l1' and 'squared'"] = True
    goal: Annotated[float, Float(), "what 'l1' and 'squared' draw the score to"] = 0.0
    keep: Annotated[Any, _function, "a function of the inputs: what of the masked part may matter"] = None

    units: Annotated[
        Any,
        check_units,
        "a function from token ids to each token's unit, such as WordUnits(tokenizer); each counts alone",
    ] = None

    mode: Annotated[str, Categorical(*MODES, search=False), "whether the decomposition may give the logits"] = "auto"
    steps: Annotated[Any, _function, "a function of token masks (M, N, T): the steps whose constant counts"] = None

    @classmethod
    def published(cls, **settings: Any) -> Self:
        """The form of the paper and its code for images; for text add ``form="log", target="label"``.

        Args:
            settings: in place of others.
        """
        form = {"explainer": "contextual_decomposition:rules=cdep", "form": "sigmoid", "part": "relevant"}
        return cls(**{**form, "centred": False, "lambda_cdep": 1.0, **settings})

    @contextlib.contextmanager
    def _training(self, model: nn.Module, source: Source, groups: Any) -> Iterator[tuple[Mitigator, Source]]:
        with super()._training(model, source, groups) as arranged:
            yield arranged
        warn_if_followed(self, model, source, stacklevel=5)

    def _full_mask_warning(self) -> str | None:
        full_penalty = self.keep is None
        return (
            "the whole output is penalised: mask what must not matter, or say what may with keep="
            if full_penalty
            else None
        )

    def _logits_and_penalty(self, model: nn.Module, x: Any, y: Any, masks: Any, seed: int) -> tuple[Tensor, Tensor]:
        explainer = self.explainer_for(model)
        apart = self.mode == "eval" or _wrapped(model) or autocast_on(x) or mode_matters(model)
        if apart or not hasattr(explainer, "decompose"):
            return super()._logits_and_penalty(model, x, y, masks, seed)
        stacked = self._masks(explainer, x, masks)
        penalised, other = self._decomposed(explainer, x, stacked, create_graph=True)
        logits = penalised[0] + other[0]
        return logits, self._number(penalised, other, stacked, self.task_labels(y, logits))

    def _penalty(self, model: nn.Module, x: Any, y: Tensor, mask: Any, *, seed: int, create_graph: bool) -> Tensor:
        explainer = self.explainer_for(model)
        if hasattr(explainer, "decompose"):
            masks = self._masks(explainer, x, mask)
            penalised, other = self._decomposed(explainer, x, masks, create_graph=create_graph)
        else:
            targets = self._targets(model, x, y)
            penalised, other, masks = self._summed(explainer, x, mask, targets, seed=seed, create_graph=create_graph)
        return self._number(penalised, other, masks, y)

    def _masks(self, explainer: Explainer, x: Any, mask: Any) -> Tensor:
        """The masks (M, N, ...) of what is decomposed: of the input, or of a layer's activations."""
        if explainer.layer is None:
            (tensor,) = _one(flatten(x)[0], "inputs")
            return self._separate(stacked_masks(mask, tensor, tensor), x)
        activations: list[Tensor] = []

        def method(call: Call) -> tuple[Tensors, ...]:
            activations.extend(call.inputs)
            return ()

        explainer.run_call(method, x, cut=True)
        return self._separate(stacked_masks(mask, _one(tuple(activations), "layers")[0], flatten(x)[0][0]), x)

    def _separate(self, masks: Tensor, x: Any) -> Tensor:
        """The masks, or one for each masked unit."""
        return masks if self.units is None else separate(masks, read_units(self.units, flatten(x)[0], masks[0]))

    def _number(self, penalised: Tensor, other: Tensor, masks: Tensor, y: Tensor) -> Tensor:
        """The penalty of both scores (M, N, classes), or of the label's alone (M, N, 1).

        Scores of positions (M, N, T, classes) count where the label is a class, such as those of a generated answer.
        """
        places = None
        if penalised.ndim > 3:
            penalised, other = (torch.stack([classes_last(s, y) for s in scores]) for scores in (penalised, other))
            places = self._labelled(y, penalised)
            y = torch.where(places, y, 0)
        if self.centred and penalised.shape[-1] > 1 and self.form in ("l1", "squared"):
            penalised = penalised - penalised.mean(-1, keepdim=True)
        if self.target == "label" and penalised.shape[-1] > 1:
            chosen = y[None, ..., None].expand(*penalised.shape[:-1], 1)
            penalised, other = penalised.gather(-1, chosen), other.gather(-1, chosen)
        present = (masks != 0).reshape(*masks.shape[:2], -1).any(2)
        joined = self.units is not None
        return penalty(penalised, other, self.form, goal=self.goal, present=present, places=places, joined=joined)

    def _labelled(self, y: Any, scores: Tensor) -> Tensor:
        """Which positions have a class."""
        if not isinstance(y, Tensor) or y.is_floating_point() or y.shape != scores.shape[1:-1]:
            raise InvalidInputError(
                "the model returns scores for each position, so CDEP needs a class for each, whole numbers (N, ...), "
                f"-100 where there is none; got labels of shape {tuple(getattr(y, 'shape', ()))}; or name another "
                "output with head="
            )
        return (y >= 0) & (y < scores.shape[-1])

    def penalty_share(self, fraction: BatchFraction) -> float:
        """The part's share of the samples that have anything masked, over which the penalty is a mean.

        Args:
            fraction: how much of the batch the part is.
        """
        return fraction.explained

    def _decomposed(self, explainer: Any, x: Any, masks: Tensor, *, create_graph: bool) -> tuple[Tensor, Tensor]:
        """Both scores of each mask, sample and class, from a decomposition of the logits."""
        options: dict[str, Any] = {"create_graph": create_graph}
        if self.keep is None:
            options["masks"] = masks if self.part == "relevant" else 1 - masks
        elif explainer.layer is not None:
            raise InvalidInputError(f"keep= splits the input, and {explainer!r} decomposes the output of a layer")
        else:
            (tensor,), rebuild = flatten(x)
            excess = masks * (tensor - self.keep(tensor.clone()))
            options["relevant"] = rebuild((excess if self.part == "relevant" else tensor - excess,))
        if self.steps is not None:
            steps = self.steps(masks)
            options["step_masks"] = steps if self.part == "relevant" else 1 - steps
        with ranges_known([masks, options.get("masks", masks)], [ValueRange(0.0, 1.0)] * 2):
            decomposition = explainer.decompose(x, **options)
        # A single output (N,) is one class.
        scores = tuple(s if s.ndim > 2 else s[..., None] for s in (decomposition.relevant, decomposition.irrelevant))
        return scores if self.part == "relevant" else scores[::-1]

    def _targets(self, model: nn.Module, x: Any, y: Tensor) -> list[Any]:
        """The label, or every class, as an explainer takes them."""
        logits = self.explainer_for(model).set_kwargs(layer=None).output(x)
        if logits.numel() == len(logits):
            return [None]
        return [y] if self.target == "label" and not self.centred else list(range(logits.shape[1]))

    def _summed(
        self, explainer: Explainer, x: Any, mask: Any, targets: list[Any], *, seed: int, create_graph: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Both scores as sums of an attribution, inside and outside the mask; and the masks, (M, N, ...)."""
        if self.keep is not None:
            raise InvalidInputError(
                f"keep= needs an explainer that decomposes the output; {type(explainer).__name__} attributes it to "
                "elements, so use a mask"
            )
        inside, outside = [], []
        for target in targets:
            values = explainer.attribute(x, target, create_graph=create_graph, seed=seed)
            (attribution,) = _one(flatten(values, "attributions")[0], "explained tensors")
            masks = self._separate(stacked_masks(mask, attribution, flatten(x)[0][0]), x)
            inside.append((masks * attribution).flatten(2).sum(2))
            outside.append(((1 - masks) * attribution).flatten(2).sum(2))
        return torch.stack(inside, -1), torch.stack(outside, -1), masks


def penalty(  # noqa: PLR0913
    penalised: Tensor,
    other: Tensor,
    form: str,
    *,
    goal: float = 0.0,
    present: Tensor | None = None,
    places: Tensor | None = None,
    joined: bool = False,
) -> Tensor:
    """The penalty of scores (masks, N, classes): mean over samples and classes, summed over masks.

    Args:
        penalised: score of what must not matter.
        other: score of the rest.
        form: one of `FORMS`.
        goal: the value that the score should have, for "l1" and "squared".
        present: (masks, N), the samples that have something to penalise; others do not count.
        places: (N, ...), the positions that count, where scores are (masks, N, ..., classes).
        joined: the masks are units of the samples, so the sum over them is averaged over the samples that have any.
    """
    forms: dict[str, tuple[Tensor, Any]] = {
        "sigmoid": (penalised - other, torch.sigmoid),
        "log": (penalised - other, F.softplus),
        "l1": (penalised - goal, torch.abs),
        "squared": (penalised - goal, torch.square),
    }
    value, function = forms[form]
    per_sample = function(value).mean(-1)
    if places is not None:
        per_sample = (per_sample * places).flatten(2).sum(2) / places.flatten(1).sum(1).clamp_min(1)
    if present is None:
        return per_sample.mean(1).sum()
    if joined:
        return (per_sample * present).sum() / present.any(0).sum().clamp_min(1)
    return ((per_sample * present).sum(1) / present.sum(1).clamp_min(1)).sum()


def stacked_masks(mask: Any, explained: Tensor, x: Tensor) -> Tensor:
    """Masks (M, *explained.shape), from one mask as for `Mitigator.fit`, or several, (M, N, ...).

    Args:
        mask: over the input or the explained tensor; over the tokens, where the input holds some.
        explained: the input, or a layer's output.
        x: the input; the first one, where a model has several.
    """
    form = explained if explained.is_floating_point() else torch.zeros(explained.shape, device=explained.device)
    what = CDEP.MASK_NAME
    (leaf,) = _one(leaves_of(read_masks(mask, x, what=what)), what)
    several = leaf if is_several(leaf, x) else leaf[None]
    return torch.stack([fit_masks(one, (form,), (x,), what=what)[0] for one in several])


def _wrapped(model: nn.Module) -> bool:
    """Whether the model is a wrapper whose forward pass does more, such as preparing an exchange of gradients."""
    distributed = isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel)
    return distributed or torch_private.compiled_inner(model) is not None or lightning_inner(model) is not None


def _one(tensors: tuple[Tensor, ...], what: str) -> tuple[Tensor, ...]:
    if len(tensors) != 1:
        raise InvalidInputError(f"CDEP penalises a part of one tensor, got {len(tensors)} {what}")
    return tensors
