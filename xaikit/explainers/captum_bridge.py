"""Captum's attribution classes as explainers."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from xaikit.core import Call, Explainer, Int
from xaikit.core import targets as target_rules
from xaikit.core.errors import InvalidInputError
from xaikit.core.layers import LayerPoint, find_point, hooked
from xaikit.core.rows import rows_per_pass
from xaikit.core.structure import Tensors
from xaikit.explainers.captum_classes import LAYER_INPUT, arguments_of, build, is_layer_class, needs_layer
from xaikit.explainers.captum_passes import (
    ONE_BY_ONE_WITH_OWN_GROUPS,
    ONE_INPUT_AT_A_TIME,
    ONE_VALUE_FOR_A_GROUP,
    WITHOUT_GRADIENT,
    as_found,
    blocks,
    check_groups,
    check_one_run,
    check_whole_numbers,
    clear,
    last_convolution,
    layer_modules,
    leaf,
    like,
    normalizes_over_rows,
    randomness,
    rows_per_sample,
    score_by_function,
)
from xaikit.explainers.captum_sums import MissedSums, promises_sum
from xaikit.explainers.feature_groups import JoinedInputs, share_groups, windows, without_gaps
from xaikit.explainers.functional_relu import FUNCTIONAL_RELU, refuse_hidden_relus, replaced_relu


def _rows(value: Any, where: str) -> Any:
    return value if value is None else Int(ge=1).check(value, where)


class CaptumMethod(Explainer):
    """Base of the explainers that run a class of captum.

    Captum gets a model that returns the explained score, so every form of target, head and further argument works, and
    `layer` cuts the model as for any explainer. The size of a pass is bounded by captum's own setting
    (perturbations_per_eval, internal_batch_size), or else by giving captum only some samples at a time.

    It is not differentiable: captum's result has no graph, or one that reaches the input but no parameter. The tests in
    tests/unit/explainers/test_captum_bridge.py measure this for every registered class.
    """

    DIFFERENTIABLE = False
    ALGORITHM: ClassVar[str] = ""

    max_rows: Annotated[Any, _rows, "most rows in one forward pass; None chooses"] = None

    def _algorithm(self) -> str:
        return self.ALGORITHM

    def _options(self, call: Call) -> dict[str, Any]:  # noqa: ARG002
        """Captum's arguments by name; arguments that its class does not take are left out, None is captum's default."""
        return {n: getattr(self, n) for n in self.SETTINGS if n not in CaptumMethod.SETTINGS}

    def _groups(self, call: Call) -> Tensors | None:  # noqa: ARG002
        """Group numbers of the features, for the classes that take a feature mask."""
        return None

    def _baselines(self, call: Call) -> Tensors | None:
        baseline = getattr(self, "baseline", None)
        return None if baseline is None else baseline.of(call)

    @property
    def innermost(self) -> str:
        """The name of the class that explains: the one inside a NoiseTunnel, or the class itself."""
        return str(getattr(self, "attribution_method", None) or self._algorithm())

    @property
    def finds_layer(self) -> bool:
        """Whether the class is one of captum's for layers."""
        return self.layer is not None and is_layer_class(self.innermost)

    @property
    def needs_gradient(self) -> bool:
        """Whether the class differentiates the score, so that it refuses whole numbers."""
        return self._algorithm() not in WITHOUT_GRADIENT

    def _attribute(self, call: Call) -> Tensors:
        check_whole_numbers(self._algorithm(), self.innermost, call.own_inputs)
        if self.finds_layer:
            check_one_run(self.innermost, call)
        switches_one_input = self._algorithm() in ONE_INPUT_AT_A_TIME and len(call.inputs) > 1
        if switches_one_input and share_groups(groups := self._groups(call)):
            return self._of_one_tensor(call, groups or ())
        values = self._by_blocks(call)
        if self.innermost not in ONE_VALUE_FOR_A_GROUP:
            return values
        # A token has one value, which captum repeats for each number of the token's vector.
        return tuple(v / v.shape[2] if token else v for v, token in zip(values, call.tokens, strict=True))

    def _of_one_tensor(self, call: Call, groups: Tensors) -> Tensors:
        """The attribution of several inputs that share groups: they are joined, so that a group is switched at once."""
        joined = JoinedInputs(call.inputs)
        baselines = self._baselines(call)
        inner = dataclasses.replace(
            call,
            inputs=(joined.join(call.inputs),),
            batch=(joined.join(call.batch),),
            forward=lambda inputs, samples: call.forward(joined.split(inputs[0]), samples),
        )
        side_by_side: dict[str, Tensors] = {"feature_mask": (joined.join(groups),)}
        if baselines is not None:
            side_by_side["baselines"] = (joined.join(baselines),)
        return joined.split(self._by_blocks(inner, side_by_side)[0], keep_type=True)

    def _by_blocks(self, call: Call, per_sample: dict[str, Tensors] | None = None) -> Tensors:
        # Layer classes find the layer themselves.
        uncut = call.uncut if call.uncut is not None and needs_layer(self.innermost) else call
        options = self._filled_options(call)
        points = self._points(uncut, options)
        with layer_modules(self.innermost, points) as modules:
            if modules and modules[0] is not points[0].module:
                options = {n: v for n, v in options.items() if n not in LAYER_INPUT}
            layer = (modules if isinstance(self.layer, tuple) else modules[0]) if modules else None
            instance = self._instance(uncut, layer, options)
            parts = self._of_blocks(instance, call, uncut, options, per_sample)
        return tuple(
            like(torch.cat(pieces), x) for pieces, x in zip(zip(*parts, strict=True), call.inputs, strict=True)
        )

    def _filled_options(self, call: Call) -> dict[str, Any]:
        """Captum's arguments by name, with windows for a class that slides them."""
        options = {n: v for n, v in self._options(call).items() if v is not None}
        inner = options.get("attribution_settings") or {}
        if self.innermost == "Occlusion" and "sliding_window_shapes" not in {*options, *inner}:
            shapes, strides = windows(call.inputs, 0.2, 0.5, call.tokens)
            options = {"sliding_window_shapes": tuple(shapes), "strides": tuple(strides), **options}
        return options

    def _points(self, call: Call, options: dict[str, Any]) -> list[LayerPoint]:
        """The points of the model that a class with a layer explains."""
        if not needs_layer(self.innermost):
            return []
        if self.layer is None and self.innermost == "GuidedGradCam":
            return [LayerPoint("", last_convolution(call))]
        points = [find_point(call.model, layer) for layer in self.layers]
        return [point.at_input() for point in points] if _looks_at_input(options) else points

    def _instance(self, call: Call, layer: Any, options: dict[str, Any]) -> Any:
        """An object of the captum class, on the model as captum sees it."""
        instance = build(self._algorithm(), _Explained(call, FUNCTIONAL_RELU.get(self.innermost)), layer, options)
        if self.innermost == "GuidedGradCam":
            # Its class activation map has the plain gradient: captum changes it for the other factor alone.
            inside = instance if self._algorithm() == self.innermost else instance.attribution_method
            inside.grad_cam.forward_func = _Explained(call)
        return instance

    def _of_blocks(
        self, instance: Any, call: Call, uncut: Call, options: dict[str, Any], per_sample: dict[str, Tensors] | None
    ) -> list[Tensors]:
        """Captum's attributions, computed for some samples at a time."""
        name, inner = self._algorithm(), self.innermost
        takes = arguments_of(name, inner)
        per_sample = self._of_samples(takes - set(options), call, uncut) if per_sample is None else per_sample
        settings = {**options, **(options.get("attribution_settings") or {})}
        check_groups(inner, per_sample.get("feature_mask", ()), settings.get("n_samples"))
        limit, rows = rows_per_pass(uncut.inputs, self.max_rows), rows_per_sample(inner, options)
        alone = inner in ONE_BY_ONE_WITH_OWN_GROUPS and any(len(ids) > 1 for ids in per_sample.get("feature_mask", ()))
        alone = alone or normalizes_over_rows(inner, uncut.model)
        parts: list[Tensors] = []
        sums = MissedSums(name) if promises_sum(name, settings) else None
        for block in blocks(name, inner, uncut.n, 1 if alone else limit // rows, options):
            chosen = slice(block.start, block.stop)
            arguments = {
                "perturbations_per_eval": max(1, limit // len(block)),
                "internal_batch_size": max(limit, rows * len(block)),
                "nt_samples_batch_size": max(1, limit // (rows * len(block))),
                "attr_dim_summation": False,
                # A tensor of one row serves every sample.
                **{n: tuple(t[chosen] if len(t) == uncut.n else t for t in v) for n, v in per_sample.items()},
                **options,
                **(options.get("attribution_settings") or {}),
            }
            arguments |= {n: without_gaps(arguments[n]) for n in ("feature_mask", "layer_mask") if n in per_sample}
            if inner.endswith("DeepLiftShap") and "baselines" in per_sample:
                # Captum wants at least two background samples.
                arguments["baselines"] = tuple(torch.cat([b, b]) for b in arguments["baselines"])
            inputs = tuple(leaf(x[chosen]) for x in uncut.inputs)
            arguments = {n: v for n, v in arguments.items() if n in takes}
            arguments["additional_forward_args"] = (torch.arange(block.start, block.stop, device=inputs[0].device),)
            with as_found(uncut.model), randomness(call, name, inner), clear(name, independent=call.rule.independent):
                values = instance.attribute(inputs, **arguments, **({} if sums is None else sums.ARGUMENTS))
            values = values if sums is None else sums.without_delta(values)
            parts.append(tuple(values) if isinstance(values, (tuple, list)) else (values,))
            if any(v.numel() == 0 for v in parts[-1]):
                raise InvalidInputError(
                    f"captum's {name} lays the layer's map over the input, so its layer must return positions as the "
                    "input has them, (N, channels, ...); name such a layer, like a convolution"
                )
        if sums is not None:
            sums.warn()
        return parts

    def _of_samples(self, takes: set[str], call: Call, uncut: Call) -> dict[str, Tensors]:
        """The arguments that hold one row for each sample, or one row for all samples."""
        makers = {
            "baselines": lambda: self._baselines(uncut),
            "layer_baselines": lambda: self._baselines(call),
            "feature_mask": lambda: self._groups(uncut),
            "layer_mask": lambda: self._groups(call),
        }
        tensors_by_name = {n: make() for n, make in makers.items() if n in takes}
        return {n: tensors for n, tensors in tensors_by_name.items() if tensors is not None}

    def run_call(self, method: Any, *args: Any, **options: Any) -> tuple[Any, ...]:
        """Run a function on a checked call; see `Explainer.run_call`."""
        # GuidedGradCam and the Neuron classes use a layer but explain the inputs, so the call must not be cut.
        at_inputs = self.layer is not None and needs_layer(self.innermost) and not self.finds_layer
        runner = self.set_kwargs(layer=None) if at_inputs else self
        return super(CaptumMethod, runner).run_call(method, *args, **options)

    def _at_layers(self, call: Call, *, read: bool) -> tuple[Call, Any]:
        # Captum hooks the modules before the layer too, and its hooks need tensors that require a gradient.
        leaves = tuple(x.detach().requires_grad_() if x.is_floating_point() else x for x in call.inputs)
        call, runner = dataclasses.replace(call, inputs=leaves), self
        if self.finds_layer and _looks_at_input(self._options(call)):
            names = [find_point(call.model, layer).at_input().name for layer in self.layers]
            runner = self.set_kwargs(layer=names if isinstance(self.layer, tuple) else names[0])
        return super(CaptumMethod, runner)._at_layers(call, read=read)


def _looks_at_input(options: dict[str, Any]) -> bool:
    """Whether captum's arguments ask for what goes into the layer."""
    options = options | (options.get("attribution_settings") or {})
    return any(options.get(name) for name in LAYER_INPUT)


def _differentiable_embeddings(call: Call) -> contextlib.AbstractContextManager[None]:
    """While active, captum's hooks on modules before a layer meet tensors that require a gradient, also behind ids."""
    if not call.layers or not torch.is_grad_enabled():
        return contextlib.nullcontext()

    def leaf_of(output: Tensor) -> Tensor:
        return output if output.requires_grad else output.detach().requires_grad_().clone()

    return hooked([(m, leaf_of) for m in call.modules if isinstance(m, nn.Embedding)])


class _Explained(nn.Module):
    """The model as captum sees it: a function from rows, and the sample of each row, to explained scores.

    Args:
        call: the call whose score captum explains.
        relu: replaces ReLUs that are called as functions, which captum does not see; None leaves them.
    """

    def __init__(self, call: Call, relu: Callable[[Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self._relu = relu
        self.model = call.model
        self.training = False
        self._call = call

    def forward(self, *arguments: Tensor) -> Tensor:
        *inputs, samples = arguments
        call = self._call
        # Captum's noise is float32, which a model of lower precision refuses.
        rows = tuple(x.to(like.dtype) for x, like in zip(inputs, call.inputs, strict=True))
        origin = samples if call.samples is None else call.samples[samples]
        relus = contextlib.nullcontext() if self._relu is None else replaced_relu(self._relu)
        with relus, _differentiable_embeddings(call):
            output = call.output_of(rows, origin)
        if self._relu is not None:
            refuse_hidden_relus(rows, output, "captum's GuidedBackprop or Deconvolution")
        if isinstance(call.target, Tensor):
            return target_rules.score(output, call.target[samples], call.n_classes)
        if isinstance(call.target, target_rules.RowTarget):
            return target_rules.score(output, call.target.of(samples))
        if call.target is None:
            return target_rules.score(output, None)
        return score_by_function(output, call, samples)
