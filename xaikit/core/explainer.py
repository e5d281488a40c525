"""Explainer: settings and a model; `attribute` is written once, here, and a subclass writes the mathematics."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import itertools
import math
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from xaikit.core import layers as model_layers
from xaikit.core import model_state, structure
from xaikit.core import targets as target_rules
from xaikit.core.arrays import to_tensor
from xaikit.core.attribution import Attribution
from xaikit.core.call import Call
from xaikit.core.configured import Configured
from xaikit.core.errors import (
    InvalidInputError,
    InvalidTypeError,
    NestedLayersError,
    NotDifferentiableError,
    UnboundError,
)
from xaikit.core.forward import run_on
from xaikit.core.inputs import read_inputs
from xaikit.core.params import Int, Layer
from xaikit.core.registries import EXPLAINERS
from xaikit.core.structure import Tensors


def _function(value: Any, where: str) -> Any:
    if value is not None and not callable(value):
        raise InvalidTypeError(f"{where} must be a function of the inputs, got {value!r}")
    return value


class Explainer(Configured, abc.ABC):
    """A method that gives every input feature its share of a model's score.

    Args:
        model: the model to explain. Without one the explainer is a specification; `bind` gives it a model.
    """

    REGISTRY: ClassVar[Any] = EXPLAINERS
    EXPLANATION_TYPE: ClassVar[str] = "attribution"
    SUPPORTED_MODULES: ClassVar[tuple[type[nn.Module], ...]] = (nn.Module,)
    MADE_FOR: ClassVar[tuple[str, ...]] = ()  # kinds of layers: recommendation.profile.KINDS
    PASSES: ClassVar[tuple[str | int, ...]] = (1,)  # of the model, for one explanation: a product, also of settings
    REUSED_MODULES: ClassVar[bool] = True  # whether it copes with a module that runs several times
    IS_GENERIC: ClassVar[bool] = False  # a door to many methods, which a setting chooses
    DIFFERENTIABLE: ClassVar[bool] = True
    # One `Call.grad_of` on the inputs, through the model as it is: a loss can use the output of that very pass.
    SHARES_TASK_FORWARD: ClassVar[bool] = False
    GAP_TOLERANCE: ClassVar[float | None] = None  # share of the promised total above which `explain` warns
    SINGLE_BACKWARD: ClassVar[bool] = (
        False  # made of one `call.grad_at_layers()`, which reads layers off as it passes them
    )

    model: nn.Module | None = None
    layer: Annotated[
        Any, Layer(several=True), "explain the output of this layer (or of several) instead of the inputs"
    ] = None
    head: Annotated[str | int, "which output is explained, where the model returns several"] = "logits"
    forward_arg_extractor: Annotated[Any, _function, "picks the explained tensors out of the inputs"] = None
    additional_forward_arg_extractor: Annotated[Any, _function, "picks further model arguments out of the inputs"] = (
        None
    )
    n_classes: Annotated[Any, Int(ge=1, optional=True), "number of outputs, checked"] = None

    def __init__(self, model: nn.Module | None = None, **settings: Any) -> None:
        if model is not None and not isinstance(model, nn.Module):
            raise InvalidTypeError(f"{type(self).__name__} takes a torch.nn.Module as its model, got {model!r}")
        object.__setattr__(self, "model", model)
        super().__init__(**settings)

    # ------------------------------------------------------------------ the value

    def bind(self, model: nn.Module) -> Self:
        """The same explainer for that model."""
        return type(self)(model, **self.settings())

    def set_kwargs(self, **changes: Any) -> Self:
        """A new explainer with some settings (or the model) changed; this one stays as it is."""
        model = changes.pop("model", self.model)
        return type(self)(model, **{**self.settings(), **changes})

    @classmethod
    def from_spec(cls, spec: Any, model: nn.Module | None = None) -> Explainer:
        """The explainer that a name, a spec string or a spec dict describes."""
        made: Explainer = EXPLAINERS.create(spec)
        return made if model is None else made.bind(model)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        model = self._bound()
        tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
        return torch.device("cpu") if tensor is None else tensor.device

    def _serialised_settings(self) -> dict[str, Any]:
        settings = self.settings()
        if self.model is not None and self.layer is not None:
            several = isinstance(self.layer, tuple)
            names = [
                model_layers.find_layer(self.model, item)[0] for item in (self.layer if several else (self.layer,))
            ]
            settings["layer"] = names if several else names[0]
        return settings

    def __repr__(self) -> str:
        settings = super().__repr__()
        if self.model is None:
            return settings
        name, _, rest = settings.partition("(")
        return f"{name}({type(self.model).__name__}{', ' if rest != ')' else ''}{rest}"

    def __eq__(self, other: object) -> bool:
        same = super().__eq__(other)
        return same if same is NotImplemented else same and self.model is other.model  # type: ignore[attr-defined]

    __hash__ = Configured.__hash__

    @property
    def finds_layer(self) -> bool:
        """Whether it computes its layer's activations by itself, so that nobody can hand it others."""
        return False

    @property
    def passes(self) -> int:
        """About how many passes of the model the explanation of a sample takes."""
        return math.prod(getattr(self, factor) if isinstance(factor, str) else factor for factor in self.PASSES)

    def missing_rules(self, inputs: Any) -> tuple[str, ...]:  # noqa: ARG002
        """Operations of the model, on these inputs, that a method of rules has none for; none for other methods."""
        return ()

    # ------------------------------------------------------------------ the call

    def attribute(self, inputs: Any, targets: Any = None, *, create_graph: bool = False, seed: int = 0) -> Any:
        """The attribution of each sample's score to its input features.

        Args:
            inputs: a floating-point tensor (N, ...), or a tuple or dict of them. Integer tokens need `layer`. Numpy
                arrays, nested lists, pandas objects and Hugging Face batches become tensors of the model's precision.
            targets: a class, one class per sample (N,), a function ``output -> (N,)``, or None for a single output.
            create_graph: keep the result differentiable with respect to parameters and inputs, exactly.
            seed: of the method's random numbers; a sample gets the same ones alone and inside a batch.

        Returns:
            Tensors shaped like the inputs (or like the activations of `layer`), in the same structure.

        Raises:
            InvalidInputError, InvalidTypeError: for inputs or targets that cannot be right.
            UnboundError: for an explainer without a model.
            NotDifferentiableError: for `create_graph` on a method that has no exact derivative.
        """
        return self.attribute_with_output(inputs, targets, create_graph=create_graph, seed=seed)[0]

    def attribute_with_output(
        self, inputs: Any, targets: Any = None, *, create_graph: bool = False, seed: int = 0, keep_mode: bool = False
    ) -> tuple[Any, Tensor | None]:
        """The attribution as by `attribute`, and the model's output on the inputs where one plain pass gives both.

        Args:
            inputs: as for `attribute`.
            targets: likewise.
            create_graph: likewise.
            seed: likewise.
            keep_mode: run the model in the mode that it is in. BatchNorm's running statistics then take part once,
                where the output is returned, and stay as they are where it is not.

        Returns:
            The attribution; and the output (N, ...), with its graph under `create_graph`, or None where the method
            runs the model on something else, or not as it is.
        """
        outputs: list[Tensor] = []
        options: dict[str, Any] = {"create_graph": create_graph, "seed": seed, "keep_mode": keep_mode}
        on_output = outputs.append if self.SHARES_TASK_FORWARD else None
        try:
            (found,) = self._apply(
                lambda call: (self._attribute(call),), inputs, targets, **options, on_output=on_output
            )
        except NestedLayersError:
            # One feeds the other, and one pass holds one version of each: every layer by itself, as if named alone.
            each = (self.set_kwargs(layer=layer) for layer in self.layer)
            found = tuple(e.attribute_with_output(inputs, targets, **options)[0] for e in each)
        return found, outputs[0] if outputs else None

    def explain(self, inputs: Any, targets: Any = None, *, seed: int = 0) -> Attribution:
        """The attribution with its provenance, the explained scores, and the completeness gap where one is promised.

        Warns:
            UserWarning: when the gap is larger than the method's tolerance.
        """
        extra: dict[str, Tensor | None] = {}

        def explained(call: Call) -> tuple[Tensors]:
            values = self._attribute(call)
            extra["scores"] = self._explained_scores(call).detach()
            promised = self._promised_total(call)
            if promised is not None:
                sums = torch.stack([v.detach().flatten(1).double().sum(1) for v in values])
                extra["promised"] = promised = promised.detach()
                extra["gap"] = self._gap(sums, promised).to(promised.dtype)
            return (values,)

        (values,) = self._apply(explained, inputs, targets, create_graph=False, seed=seed)
        gap, promised = extra.get("gap"), extra.get("promised")
        if gap is not None and promised is not None and self.GAP_TOLERANCE is not None:
            share = float(gap.max() / promised.abs().max().clamp_min(torch.finfo(gap.dtype).tiny))
            if share > self.GAP_TOLERANCE:
                warnings.warn(
                    f"{self!r}: the attribution misses the explained score by {share:.1%}, "
                    f"more than the tolerance of {self.GAP_TOLERANCE:.0%}",
                    stacklevel=2,
                )
        return Attribution(
            values=values,
            spec=self._provenance(),
            targets=None if targets is None or callable(targets) else to_tensor(targets, "targets").tolist(),
            scores=extra["scores"],
            gap=gap,
            tokens=self._token_ids(values, inputs),
        )

    @torch.inference_mode(mode=False)
    def output(self, inputs: Any) -> Tensor:
        """The output that is explained, (N, ...), for the same inputs: in evaluation mode, without a graph."""
        model = self._bound()
        explained, extras = self._arguments(inputs)
        tensors, rebuild = structure.flatten(explained)
        n = structure.check_batch(tensors)
        with model_state.isolated(model, tensors[0].device, 0), torch.no_grad():
            raw = run_on(model, rebuild, extras, n, isinstance(explained, Mapping), tensors, None)
        return target_rules.pick_head(raw, self.head)

    @abc.abstractmethod
    def _attribute(self, call: Call) -> Tensors:
        """The method's mathematics: one tensor per `call.inputs`, of the same shape."""

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
        """Entered around `_attribute`."""
        return contextlib.nullcontext()

    # ------------------------------------------------------------------ the template

    @torch.inference_mode(mode=False)
    def _apply(  # noqa: PLR0913
        self,
        method: Callable[[Call], tuple[Tensors, ...]],
        inputs: Any,
        targets: Any,
        *,
        create_graph: bool,
        seed: int,
        cut: bool = False,
        keep_mode: bool = False,
        on_output: Callable[[Tensor], None] | None = None,
    ) -> tuple[Any, ...]:
        """Run `method` on a checked call, the model isolated; give each of its results the structure of the inputs.

        With `cut` the call begins at the layers, and takes other activations, also where a single gradient would read
        them off.
        """
        model = self._bound()
        if create_graph and not self.DIFFERENTIABLE:
            able = ", ".join(n for n in EXPLAINERS if EXPLAINERS.get(n).DIFFERENTIABLE)
            raise NotDifferentiableError(
                f"{type(self).__name__} has no exact derivative, so it cannot stand in a loss; these can: {able}"
            )
        seed = Int(ge=0).check(seed, "seed")
        explained, extras = self._arguments(inputs)
        tensors, rebuild = structure.flatten(explained)
        n = structure.check_batch(tensors)
        if self.layer is None:
            self._check_floating(model, tensors)
        tensors = tuple(t.clone() if t.is_inference() else t for t in tensors)
        forward = functools.partial(run_on, model, rebuild, extras, n, isinstance(explained, Mapping))
        call = Call(
            model=model,
            inputs=tensors,
            target=target_rules.normalise(targets, n, tensors[0].device),
            create_graph=create_graph,
            seed=seed,
            forward=forward,
            head=self.head,
            n_classes=self.n_classes,
            modules=(modules := model_state.modules_of(model)),
            on_output=on_output,
        )

        @contextlib.contextmanager
        def recompute_context() -> Iterator[None]:
            isolated = model_state.isolated(model, tensors[0].device, seed, modules=modules, keep_mode=keep_mode)
            private = model_state.private_buffers if keep_mode and on_output is None else contextlib.nullcontext
            with isolated, private(model):
                yield

        with recompute_context(), torch.set_grad_enabled(create_graph):
            if self.layer is not None:
                call, rebuild = self._at_layers(call, read=self.SINGLE_BACKWARD and not cut)

            bare = call  # without `again`: a call that held itself would keep its tensors until Python's next sweep

            @contextlib.contextmanager
            def again() -> Iterator[None]:
                with recompute_context(), self._model_context(bare):
                    yield

            call = dataclasses.replace(bare, recompute_context=again)
            freeze = contextlib.nullcontext() if create_graph else model_state.frozen(model, modules=modules)
            with freeze, self._model_context(call):
                results = method(call)
        for result in results if not call.read_at else ():  # read off at layers, they have the shapes of gradients
            for value, x in zip(result, call.inputs, strict=True):
                if value.shape != x.shape:
                    raise RuntimeError(
                        f"{type(self).__name__}._attribute returned {tuple(value.shape)} for {tuple(x.shape)}"
                    )
        return tuple(rebuild(r if create_graph else tuple(v.detach() for v in r)) for r in results)

    def _at_layers(self, call: Call, *, read: bool) -> tuple[Call, Callable[[Tensors], Any]]:
        """The call at the layers: read off on the way, or cut there, so that their activations are its inputs."""
        several = isinstance(self.layer, tuple)
        named = self.layer if several else (self.layer,)
        layers = tuple(model_layers.find_layer(call.model, item) for item in named)
        pick: Callable[[Tensors], Any] = tuple if several else (lambda out: out[0])
        if read:
            return dataclasses.replace(call, read_at=layers), pick
        original, forward = call.inputs, call.forward
        activations = model_layers.cut_at(
            call.model, layers, lambda: forward(original, None), call.n, call.create_graph
        )

        def from_layer(inputs: Tensors, samples: Tensor | None) -> Any:
            rows = original if samples is None else tuple(t[samples] for t in original)
            with model_layers.substituted(layers, inputs):
                return forward(rows, samples)

        cut = dataclasses.replace(call, inputs=activations, forward=from_layer, layers=layers, uncut=call)
        return cut, pick

    def _arguments(self, inputs: Any) -> tuple[Any, Any]:
        """The explained tensors and the further model arguments."""
        pick, extractor = self.forward_arg_extractor, self.additional_forward_arg_extractor
        explained = read_inputs(inputs if pick is None else pick(inputs), self.model)
        return explained, None if extractor is None else extractor(inputs)

    def _check_floating(self, model: nn.Module, tensors: Tensors) -> None:
        for tensor in tensors:
            if tensor.is_floating_point():
                continue
            embedding = next((name for name, m in model.named_modules() if isinstance(m, nn.Embedding)), None)
            remedy = f"layer={embedding!r}, the model's embedding" if embedding else "a float tensor (inputs.float())"
            raise InvalidTypeError(f"inputs of {tensor.dtype} have no gradient; pass {remedy}")

    def _token_ids(self, values: Any, inputs: Any) -> Tensor | None:
        return structure.token_ids(values, structure.flatten(self._arguments(inputs)[0])[0])

    def _bound(self) -> nn.Module:
        if self.model is None:
            raise UnboundError(f"{self!r} has no model yet; call .bind(model) first")
        return self.model

    def _provenance(self) -> dict[str, Any]:
        try:
            return self.spec()
        except InvalidInputError:
            return {
                "name": self.NAME or type(self).__name__,
                "settings": {n: repr(v) for n, v in self.settings().items()},
            }


def as_explainer(value: Any, model: nn.Module | None = None) -> Explainer:
    """An explainer from a name, a spec string, a spec dict, a class or an object, bound to `model` if one is given."""
    return Explainer.from_spec(value, model)
