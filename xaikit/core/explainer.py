"""Explainer: settings and a model; `attribute` is written once, here, and a subclass writes the mathematics."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import functools
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from xaikit.core import isolation, structure
from xaikit.core import targets as target_rules
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
from xaikit.core.params import Int
from xaikit.core.registries import EXPLAINERS
from xaikit.core.structure import Tensors


def _layer(value: Any, where: str) -> Any:
    items = value if isinstance(value, (tuple, list)) else (value,)
    if value is not None and (not items or not all(isinstance(item, (str, nn.Module)) for item in items)):
        raise InvalidTypeError(f"{where} must be a layer's name, a module, or a sequence of them, got {value!r}")
    return tuple(value) if isinstance(value, list) else value


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
    DIFFERENTIABLE: ClassVar[bool] = True
    # One `Call.grad` on the inputs, through the model as it is: a loss can use the output of that very pass.
    GIVES_OUTPUT: ClassVar[bool] = False
    GAP_TOLERANCE: ClassVar[float | None] = None  # share of the promised total above which `explain` warns

    model: nn.Module | None = None
    layer: Annotated[Any, _layer, "explain the output of this layer (or of several) instead of the inputs"] = None
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

    def _portable(self) -> dict[str, Any]:
        settings = self.settings()
        if self.model is not None and self.layer is not None:
            several = isinstance(self.layer, tuple)
            names = [isolation.find_layer(self.model, item)[0] for item in (self.layer if several else (self.layer,))]
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

    # ------------------------------------------------------------------ the call

    def attribute(self, inputs: Any, targets: Any = None, *, create_graph: bool = False, seed: int = 0) -> Any:
        """The attribution of each sample's score to its input features.

        Args:
            inputs: a floating-point tensor (N, ...), or a tuple or dict of them. Integer tokens need `layer`.
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
        record = outputs.append if self.GIVES_OUTPUT and self.layer is None else None
        try:
            (found,) = self._apply(lambda call: (self._attribute(call),), inputs, targets, **options, record=record)
        except NestedLayersError:
            # One feeds the other: each is explained by itself, as if it had been named alone.
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
            extra["scores"] = call.scores(call.inputs).detach()
            promised = self._promised_total(call)
            extra["promised"] = promised if promised is None else promised.detach()
            total = torch.stack([v.detach().flatten(1).double().sum(1) for v in values]).sum(0)
            extra["gap"] = None if promised is None else (total - promised.detach()).abs().to(promised.dtype)
            return (values,)

        (values,) = self._apply(explained, inputs, targets, create_graph=False, seed=seed)
        gap, promised = extra["gap"], extra["promised"]
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
            targets=targets
            if isinstance(targets, int)
            else (targets.tolist() if isinstance(targets, Tensor) else None),
            scores=extra["scores"],
            gap=gap,
        )

    @abc.abstractmethod
    def _attribute(self, call: Call) -> Tensors:
        """The method's mathematics: one tensor per `call.inputs`, of the same shape."""

    def _promised_total(self, call: Call) -> Tensor | None:  # noqa: ARG002
        """What the attribution of each sample sums to, shape (N,), for a method that promises it."""
        return None

    def _model_context(self, call: Call) -> contextlib.AbstractContextManager[Any]:  # noqa: ARG002
        """Entered around `_attribute`."""
        return contextlib.nullcontext()

    # ------------------------------------------------------------------ the template

    @torch.inference_mode(mode=False)
    def _apply(
        self,
        method: Callable[[Call], tuple[Tensors, ...]],
        inputs: Any,
        targets: Any,
        *,
        create_graph: bool,
        seed: int,
        keep_mode: bool = False,
        record: Callable[[Tensor], None] | None = None,
    ) -> tuple[Any, ...]:
        """Run `method` on a checked call, the model isolated; give each of its results the structure of the inputs."""
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
        forward = functools.partial(_forward, model, rebuild, extras, n, isinstance(explained, Mapping))
        call = Call(
            model=model,
            inputs=tensors,
            target=target_rules.normalise(targets, n, tensors[0].device),
            create_graph=create_graph,
            seed=seed,
            forward=forward,
            head=self.head,
            n_classes=self.n_classes,
            record=record,
        )

        @contextlib.contextmanager
        def surroundings() -> Iterator[None]:
            private = isolation.private_buffers if keep_mode and record is None else contextlib.nullcontext
            with isolation.isolated(model, tensors[0].device, seed, keep_mode=keep_mode), private(model):
                yield

        with surroundings(), torch.set_grad_enabled(create_graph):
            if self.layer is not None:
                call, rebuild = self._cut(call)

            @contextlib.contextmanager
            def again() -> Iterator[None]:
                with surroundings(), self._model_context(call):
                    yield

            call = dataclasses.replace(call, surroundings=again)
            with contextlib.nullcontext() if create_graph else isolation.frozen(model), self._model_context(call):
                results = method(call)
        for result in results:
            for value, x in zip(result, call.inputs, strict=True):
                if value.shape != x.shape:
                    raise RuntimeError(
                        f"{type(self).__name__}._attribute returned {tuple(value.shape)} for {tuple(x.shape)}"
                    )
        return tuple(rebuild(r if create_graph else tuple(v.detach() for v in r)) for r in results)

    def _cut(self, call: Call) -> tuple[Call, Callable[[Tensors], Any]]:
        """The call seen from the layer on: its activations are the inputs."""
        several = isinstance(self.layer, tuple)
        layers = [isolation.find_layer(call.model, item) for item in (self.layer if several else (self.layer,))]
        original, forward = call.inputs, call.forward
        activations = isolation.cut_at(call.model, layers, lambda: forward(original, None), call.n, call.create_graph)

        def from_layer(inputs: Tensors, samples: Tensor | None) -> Any:
            rows = original if samples is None else tuple(t[samples] for t in original)
            with isolation.substituted(layers, inputs):
                return forward(rows, samples)

        cut = dataclasses.replace(call, inputs=activations, forward=from_layer)
        return cut, tuple if several else (lambda out: out[0])

    def _arguments(self, inputs: Any) -> tuple[Any, Any]:
        """The explained tensors and the further model arguments."""
        explained = inputs if self.forward_arg_extractor is None else self.forward_arg_extractor(inputs)
        extractor = self.additional_forward_arg_extractor
        return explained, None if extractor is None else extractor(inputs)

    def _check_floating(self, model: nn.Module, tensors: Tensors) -> None:
        for tensor in tensors:
            if tensor.is_floating_point():
                continue
            embedding = next((name for name, m in model.named_modules() if isinstance(m, nn.Embedding)), None)
            remedy = f"layer={embedding!r}, the model's embedding" if embedding else "a float tensor (inputs.float())"
            raise InvalidTypeError(f"inputs of {tensor.dtype} have no gradient; pass {remedy}")

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


def _forward(
    model: nn.Module,
    rebuild: Callable[[Tensors], Any],
    extras: Any,
    n: int,
    by_name: bool,
    inputs: Tensors,
    samples: Tensor | None,
) -> Any:
    """Run the model on `inputs`, with the further arguments of the samples that they stand for.

    A tensor of length `n` holds something for each sample; any other (an attention mask, a scalar) is for all.
    """
    # Clones, since the model may work in place on what it is given.
    given = rebuild(tuple(x.clone() for x in inputs))

    def rows(value: Any) -> Any:
        each = samples is not None and isinstance(value, Tensor) and value.ndim > 0 and len(value) == n
        return value[samples] if each else value

    keywords = {k: rows(v) for k, v in extras.items()} if isinstance(extras, Mapping) else {}
    items: Sequence[Any] = (
        ()
        if extras is None or isinstance(extras, Mapping)
        else extras
        if isinstance(extras, (tuple, list))
        else (extras,)
    )
    positional = [rows(v) for v in items]
    if by_name:
        return model(*positional, **given, **keywords)
    return model(*(given if isinstance(given, (tuple, list)) else (given,)), *positional, **keywords)


def as_explainer(value: Any, model: nn.Module | None = None) -> Explainer:
    """An explainer from a name, a spec string, a spec dict, a class or an object, bound to `model` if one is given."""
    return Explainer.from_spec(value, model)
