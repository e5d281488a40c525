"""Explainer: settings and a model; `attribute` is written once, here, and a subclass writes the mathematics."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self, overload

import torch
from torch import Tensor, nn

from xaikit.core import structure, torch_private
from xaikit.core import targets as target_rules
from xaikit.core.attribution import Attribution, Explained
from xaikit.core.call import Call
from xaikit.core.errors import InvalidInputError, NestedLayersError, NotDifferentiableError
from xaikit.core.model_view import ModelView
from xaikit.core.nonfinite import warn_of_nonfinite
from xaikit.core.opening import Needs, Request, at_layers, opened, with_recompute_context
from xaikit.core.params import Int
from xaikit.core.registered_hooks import keep_for_hooks
from xaikit.core.registries import EXPLAINERS
from xaikit.core.several_targets import run_for_targets
from xaikit.core.structure import Tensors
from xaikit.core.token_inputs import read_tokens

if TYPE_CHECKING:
    from xaikit.core.structure import OfMapping, OfTensor


class Explainer(ModelView, abc.ABC):
    """A method that gives every input feature its share of a model's score.

    Args:
        model: the model to explain. Without one the explainer is a specification; `bind` gives it a model.
    """

    REGISTRY: ClassVar[Any] = EXPLAINERS
    EXPLANATION_TYPE: ClassVar[str] = "attribution"
    SUPPORTED_MODULES: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)
    MADE_FOR: ClassVar[tuple[str, ...]] = ()  # kinds of layers, as in recommendation.profile.KINDS
    # Passes of the model for one explanation: the product of these numbers and of the settings with these names.
    PASSES: ClassVar[tuple[str | int, ...]] = (1,)
    REUSED_MODULES: ClassVar[bool] = True  # whether it copes with a module that runs several times
    IS_GENERIC: ClassVar[bool] = False  # one class for many methods; a setting chooses the method
    DIFFERENTIABLE: ClassVar[bool] = True
    # Whether it makes one `Call.grad_of` on the plain inputs: the output of this pass then also serves the task loss.
    SHARES_TASK_FORWARD: ClassVar[bool] = False
    GAP_TOLERANCE: ClassVar[float | None] = None  # share of the promised total above which `explain` warns
    GAP_REMEDY: ClassVar[str] = ""  # the advice at the end of that warning
    # Whether it makes one `call.grad_at_layers()`, which reads hidden layers while the model runs.
    SINGLE_BACKWARD: ClassVar[bool] = False
    NEEDS_GRADIENT: ClassVar[bool] = True  # of the score by what is explained, so integer inputs are refused
    USES_GLOBAL_RANDOM: ClassVar[bool] = True  # whether the method draws from torch's or numpy's global generator

    @classmethod
    def from_spec(cls, spec: Any, model: nn.Module | None = None) -> Self:
        """The explainer that a name, a spec string or a spec dict describes.

        Args:
            spec: what `EXPLAINERS.create` accepts.
            model: the model to bind it to; None leaves it unbound.

        Raises:
            InvalidInputError: when the spec describes an explainer of another class than the one that was called.
            UnknownNameError: for a name that is not registered.
        """
        explainer = EXPLAINERS.create(spec)
        if not isinstance(explainer, cls) or (cls.__dict__.get("NAME") and type(explainer) is not cls):
            raise InvalidInputError(
                f"{cls.__name__}.from_spec makes a {cls.__name__}, and {spec!r} describes a "
                f"{type(explainer).__name__}; use Explainer.from_spec or EXPLAINERS.create for any explainer"
            )
        return explainer if model is None else explainer.bind(model)

    @property
    def finds_layer(self) -> bool:
        """Whether it computes its layer's activations by itself, so that it cannot start from other activations."""
        return False

    @property
    def needs_gradient(self) -> bool:
        """Whether it needs the gradient of the score by what is explained, so that whole numbers are refused."""
        return self.NEEDS_GRADIENT

    @property
    def passes(self) -> int:
        """About how many passes of the model the explanation of a sample takes."""
        return math.prod(getattr(self, factor) if isinstance(factor, str) else factor for factor in self.PASSES)

    def missing_rules(self, inputs: Any) -> tuple[str, ...]:  # noqa: ARG002
        """Operations that the model calls on these inputs and that the method has no rule for.

        Methods without rules return an empty tuple.

        Args:
            inputs: as for `attribute`.
        """
        return ()

    # ------------------------------------------------------------------ the call

    @overload
    def attribute(
        self, inputs: Tensor, targets: Any = ..., *, create_graph: bool = ..., seed: int = ...
    ) -> OfTensor: ...  # type: ignore[type-var]
    @overload
    def attribute(
        self, inputs: tuple[Tensor, ...], targets: Any = ..., *, create_graph: bool = ..., seed: int = ...
    ) -> Tensors: ...
    @overload
    def attribute(
        self, inputs: Mapping[str, Tensor], targets: Any = ..., *, create_graph: bool = ..., seed: int = ...
    ) -> OfMapping: ...  # type: ignore[type-var]
    @overload
    def attribute(self, inputs: Any, targets: Any = ..., *, create_graph: bool = ..., seed: int = ...) -> Any: ...
    def attribute(self, inputs: Any, targets: Any = None, *, create_graph: bool = False, seed: int = 0) -> Any:
        """The attribution of each sample's score to its input features.

        Args:
            inputs: a floating-point tensor (N, ...), or a tuple or dict of them. Integer tokens need `layer`. Numpy
                arrays, nested lists, pandas objects and Hugging Face batches become tensors of the model's precision.
            targets: what is explained: a class, one class per sample (N,), a pair (position, index) for an output
                (N, T, V), a target such as ``Position(-1, 5)`` or its spec string, a function ``output -> (N,)``, or
                None for a single output. A list of targets gives each its attribution, along a new first axis.
            create_graph: keep the result differentiable with respect to parameters and inputs, exactly.
            seed: of the method's random numbers; a sample gets the same ones alone and inside a batch.

        Returns:
            Tensors shaped like the inputs, in the same structure. With `layer`, a tensor shaped like that layer's
            output. With several layers, a tuple of such tensors. A type checker cannot see the setting `layer`:
            annotate the result of several layers, and ``cast(Tensor, ...)`` that of several inputs at one layer.

        Raises:
            InvalidInputError, InvalidTypeError: for inputs or targets that cannot be right.
            UnboundError: for an explainer without a model.
            NotDifferentiableError: for `create_graph` on a method that has no exact derivative.
            NonFiniteError: by LRP and contextual decomposition, for parts that become NaN or infinite.

        Warns:
            UserWarning: when the attribution of a sample is NaN or infinite.
        """
        options: dict[str, Any] = {"create_graph": create_graph, "seed": seed}
        several = target_rules.is_several(targets)
        attribution = (
            self._for_each(inputs, targets, **options) if several else self._attributed(inputs, targets, **options)[0]
        )
        if not create_graph:  # a mitigator's loss reports non-finite values itself
            warn_of_nonfinite(self, attribution, inputs, sample_axis=int(several))
        return attribution

    def _for_each(self, inputs: Any, targets: list[Any], **options: Any) -> Any:
        """The attributions of several targets, stacked along a new first axis."""

        def method(call: Call) -> tuple[Tensors, ...]:
            return tuple(self.attribute_each(call))

        results = run_for_targets(self, method, inputs, targets, **options)
        parts, rebuild = zip(*(structure.flatten(result, "attributions") for result in results), strict=True)
        return rebuild[0](tuple(torch.stack(tensors) for tensors in zip(*parts, strict=True)))

    def attribute_with_output(
        self,
        inputs: Any,
        targets: Any = None,
        *,
        create_graph: bool = False,
        seed: int = 0,
        keep_mode: bool = False,
        keep_writes: bool = True,
    ) -> tuple[Any, Tensor | None]:
        """The attribution as by `attribute`, and the model's output on the inputs where one plain pass gives both.

        Args:
            inputs: as for `attribute`.
            targets: likewise.
            create_graph: likewise.
            seed: likewise.
            keep_mode: run the model in the mode that it is in.
            keep_writes: whether buffers and attributes (BatchNorm's running statistics, counters) are as after
                ``model(inputs)``, where the output is returned; else they are as before.

        Returns:
            The attribution; and the output (N, ...), with its graph under `create_graph`, or None where the method
            runs the model on something else, or not as it is.
        """
        options: dict[str, Any] = {"create_graph": create_graph, "seed": seed, "keep_mode": keep_mode}
        return self._attributed(inputs, targets, **options, keep_writes=keep_writes)

    def _attributed(self, inputs: Any, targets: Any, **options: Any) -> tuple[Any, Tensor | None]:
        outputs: list[Tensor] = []
        on_output = outputs.append if self._shares_forward(options.get("keep_mode", False)) else None
        options["keep_writes"] = options.get("keep_writes", False) and on_output is not None
        try:
            (attribution,) = self.run_call(
                lambda call: (self._attribute(call),), inputs, targets, **options, on_output=on_output
            )
        except NestedLayersError:
            # One layer feeds another, so they cannot be replaced in the same pass: each is explained by itself.
            one_layer_each = (self.set_kwargs(layer=layer) for layer in self.layer)
            attribution = tuple(e._attributed(inputs, targets, **options)[0] for e in one_layer_each)
        return attribution, outputs[0] if outputs else None

    def _shares_forward(self, keep_mode: bool) -> bool:  # noqa: ARG002
        """Whether its pass on the plain inputs does what ``model(inputs)`` does."""
        return self.SHARES_TASK_FORWARD

    def explain(self, inputs: Any, targets: Any = None, *, seed: int = 0) -> Attribution:
        """The attribution with its provenance, the explained scores, and the completeness gap where one is promised.

        Args:
            inputs: as for `attribute`.
            targets: as for `attribute`.
            seed: as for `attribute`.

        Returns:
            The attribution, in the structure of the inputs, with the spec of this explainer.

        Raises:
            InvalidInputError, InvalidTypeError, UnboundError: as for `attribute`.

        Warns:
            UserWarning: when the gap is larger than the method's tolerance, the attribution is NaN or infinite, or it
                should add up to the score and is a million times as large.
        """
        measured: list[tuple[Explained, Tensor | None, str]] = []

        def method(call: Call) -> tuple[Tensors]:
            explained = self._explained(call)
            growth = self._growth(call) if explained.is_far_above_scores else ""
            measured.append((explained, read_tokens(call, explained.values), growth))
            return (explained.values,)

        (values,) = self.run_call(method, inputs, targets, seed=seed)
        explained, tokens, growth = measured[0]
        explained.warn(repr(self), self.GAP_TOLERANCE, growth, remedy=self.GAP_REMEDY, stacklevel=2)
        warn_of_nonfinite(self, values, inputs)
        return Attribution(
            values=values,
            spec=self.describe(),
            targets=target_rules.described(targets),
            scores=explained.scores.detach(),
            gap=None if explained.gap is None else explained.gap.detach(),
            absorbed=explained.absorbed,
            lost=explained.lost,
            tokens=tokens,
            seed=seed,
        )

    @torch.inference_mode(mode=False)
    def output(self, inputs: Any) -> Tensor:
        """The output that is explained, (N, ...), for the same inputs: in evaluation mode, without a graph.

        Args:
            inputs: as for `attribute`.
        """
        needs = Needs(gradient=False, several_rows=False, global_random=False)
        with opened(self, Request(inputs), needs) as (call, _):
            return call.run(call.inputs)

    @abc.abstractmethod
    def _attribute(self, call: Call) -> Tensors:
        """The method's mathematics: one tensor per `call.inputs`, of the same shape."""

    def _attribute_each(self, call: Call) -> Iterable[Tensors]:
        """The attribution of each of the call's targets. A method of several passes overrides it to share them."""
        passes: dict[Any, Any] = {}  # of the model on the plain inputs, which serve every target
        for target in call.targets:
            yield self._attribute(dataclasses.replace(call.of_target(target), passes_kept=passes))

    def attribute_call(self, call: Call) -> Tensors:
        """The attribution of a call that is already open: one tensor per `call.inputs`, of the same shape.

        A metric that explains perturbed inputs again uses it inside `run_call`.

        Args:
            call: made by `run_call`, or a copy of such a call with other inputs.
        """
        return self._attribute(call)

    def attribute_each(self, call: Call) -> Iterable[Tensors]:
        """The attribution for each of the targets of an open call, in turn; passes are shared where the method can.

        Args:
            call: made by `run_call`, or a copy of such a call with other targets.
        """
        return self._attribute_each(call) if self._shares_passes() else Explainer._attribute_each(self, call)

    def _explained(self, call: Call) -> Explained:
        """The attribution, the explained scores, and what is missing of a promised total: what `explain` reports."""
        values, scores, promised = self._attribute(call), self._explained_scores(call), self._promised_total(call)
        if promised is None:
            return Explained(values, scores)
        sums = torch.stack([v.detach().reshape(len(v), -1).double().sum(1) for v in values])
        return Explained(values, scores, self._gap(sums, promised.detach()).to(promised.dtype), promised)

    def _growth(self, call: Call) -> str:  # noqa: ARG002
        """Where an attribution far above the scores grows, and what helps, as sentences for a warning."""
        return ""

    @classmethod
    def promises_total(cls) -> bool:
        """Whether the method promises what its attributions sum to."""
        return cls._promised_total is not Explainer._promised_total or cls.GAP_TOLERANCE is not None

    def _promised_total(self, call: Call) -> Tensor | None:  # noqa: ARG002
        """What the attribution of each sample sums to, shape (N,), for a method that promises it."""
        return None

    def _gap(self, sums: Tensor, promised: Tensor) -> Tensor:
        """How far the attribution's sums (tensors, N) are from the promised total (N,)."""
        return (sums.sum(0) - promised).abs()

    def _explained_scores(self, call: Call) -> Tensor:
        """The explained score of each sample, (N,), for `explain`."""
        return call.scores(call.inputs)

    def _model_context(self, call: Call) -> contextlib.AbstractContextManager[Any]:  # noqa: ARG002
        """A context that is entered around `_attribute`; a subclass may override it."""
        return contextlib.nullcontext()

    @torch_private.not_compiled
    @torch.inference_mode(mode=False)
    def run_call(  # noqa: PLR0913
        self,
        method: Callable[[Call], tuple[Tensors, ...]],
        inputs: Any,
        targets: Any = None,
        *,
        create_graph: bool = False,
        seed: int = 0,
        cut: bool = False,
        keep_mode: bool = False,
        keep_writes: bool = False,
        on_output: Callable[[Tensor], None] | None = None,
    ) -> tuple[Any, ...]:
        """Run a function on a checked call, while the model is isolated: what `attribute` and plugins are built on.

        Args:
            method: a function of the call. It returns a tuple of results; each result has one tensor per `call.inputs`.
                It may return an empty tuple, and keep what it computed elsewhere.
            inputs: as for `attribute`.
            targets: as for `attribute`.
            create_graph: as for `attribute`.
            seed: as for `attribute`.
            cut: start the call at the layers, so that it accepts other activations, also where a single gradient would
                read them off.
            keep_mode: run the model in the mode that it is in, instead of evaluation mode.
            keep_writes: let buffers and attributes keep what the model writes into them, as after ``model(x)``.
            on_output: called with the model's output (N, ...) on the plain inputs.

        Returns:
            Each result in the structure of the inputs; without its graph unless `create_graph`.

        Raises:
            InvalidInputError, InvalidTypeError, UnboundError, NotDifferentiableError: as for `attribute`.
        """
        if target_rules.is_several(targets):
            raise InvalidInputError("this takes one target; call it for each, or use attribute, which takes several")
        if create_graph and not self.DIFFERENTIABLE:
            able = ", ".join(n for n in EXPLAINERS if EXPLAINERS.get(n).DIFFERENTIABLE)
            raise NotDifferentiableError(
                f"{type(self).__name__} has no exact derivative, so it cannot stand in a loss; these can: {able}"
            )
        request = Request(
            inputs, targets, create_graph=create_graph, seed=Int(ge=0).check(seed, "seed"), keep_mode=keep_mode,
            keep_writes=keep_writes, on_output=on_output,
        )  # fmt: skip
        needs = Needs(
            gradient=self.needs_gradient,
            several_rows=cut or not self.SINGLE_BACKWARD,
            global_random=cut or self.USES_GLOBAL_RANDOM,
            max_rows=getattr(self, "max_rows", None),
        )
        with opened(self, request, needs) as (at_inputs, as_inputs):
            call, rebuild = at_inputs, as_inputs
            if self.layer is not None:
                call, rebuild = self._at_layers(at_inputs, read=self.SINGLE_BACKWARD and not cut)
            call = with_recompute_context(call, self._model_context)
            with self._model_context(call):
                results = method(call)
        for result in results if not call.read_at else ():  # read at layers, they have the layers' shapes
            for value, x in zip(result, call.inputs, strict=True):
                if value.shape != x.shape:
                    raise RuntimeError(
                        f"{type(self).__name__}._attribute returned {tuple(value.shape)} for {tuple(x.shape)}"
                    )
        if create_graph:
            keep_for_hooks((value for result in results for value in result), call.model)
        return tuple(rebuild(r if create_graph else tuple(v.detach() for v in r)) for r in results)

    def _at_layers(self, call: Call, *, read: bool) -> tuple[Call, Callable[[Tensors], Any]]:
        """The call at the layers: they are read while the model runs, or their activations are the call's inputs."""
        several = isinstance(self.layer, tuple)
        pick: Callable[[Tensors], Any] = tuple if several else (lambda out: out[0])
        return at_layers(call, self.layers, read_off=read, must_reach=self.DIFFERENTIABLE), pick
