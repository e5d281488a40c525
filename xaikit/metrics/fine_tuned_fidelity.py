"""F-Fidelity: a few random features of the explanation are removed, and the model is one that was tuned for that."""

from __future__ import annotations

import abc
import dataclasses
from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from xaikit.core import METRICS, Call, Explainer, Float, Int
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.structure import Tensors
from xaikit.metrics.base import EvaluationContext, _Probe
from xaikit.metrics.faithfulness import ranks
from xaikit.metrics.perturbation import Removal
from xaikit.metrics.pooled_features import PooledFeatureMetric
from xaikit.metrics.random_subsets import random_keys


def _model_setting(value: Any, where: str) -> Any:
    if value is not None and not isinstance(value, nn.Module):
        raise InvalidTypeError(f"{where} must be a model, as tune_with_masks(model, data) returns, got {value!r}")
    return value


class FineTunedFidelity(Removal, PooledFeatureMetric, abc.ABC):
    """Base of the F-Fidelity metrics (Zheng et al. 2024, arXiv:2410.02970).

    For each size s = 1/(K + 1), ..., K/(K + 1), the s P positions of the highest attribution are the explanation, the
    other positions the rest. Of one of the two parts with m positions, min(share * m, limit * P) random ones are
    replaced by the baseline, at least one: never more than `limit` of the input, so that a model that was tuned with as
    many random positions masked (`tune_with_masks`) knows such inputs. The drop is f(x) - f(x without them), the mean
    over the draws and sizes, of the tuned model. The attributions are those of the explained model.

    The authors' example tosses a coin for each position, so that the number removed varies about the same mean. On six
    digits both forms agreed within 0.08 for every sample and 0.025 in the mean.
    """

    IN_ORDER: ClassVar[bool] = True

    tuned_model: Annotated[Any, _model_setting, "the model that is measured; None: the explained one, as it is"] = None
    share: Annotated[float, Float(gt=0, le=1), "alpha: share of the part that is removed"] = 0.5
    limit: Annotated[float, Float(gt=0, le=1), "beta: most of the whole input that is removed"] = 0.1
    n_sizes: Annotated[int, Int(ge=1), "sizes K of the explanation"] = 9
    n_iter: Annotated[int, Int(ge=1), "random draws for each size"] = 10

    def _drops(self, context: EvaluationContext, *, explanation: bool) -> Tensor:
        """The mean drop without random positions of the explanation, or of the rest, (N,)."""
        if self.tuned_model is None:
            return self._drops_in(context, explanation=explanation)
        explainer, drops = context.explainer, []

        def inside(call: Call) -> tuple[Tensors, ...]:
            for x, features in zip(call.inputs, context.call.inputs, strict=True):
                if x.shape != features.shape:
                    raise InvalidInputError(
                        f"the tuned model must explain the same features as the model, {tuple(features.shape)}, got "
                        f"{tuple(x.shape)}; tune a copy of the model, as tune_with_masks does"
                    )
            drops.append(self._drops_in(dataclasses.replace(context, call=call), explanation=explanation))
            return ()

        view = {name: getattr(explainer, name) for name in Explainer.SETTINGS}
        probe = _Probe(**{**view, "model": self.tuned_model})
        probe.run_call(inside, context.inputs, context.targets, create_graph=False, seed=context.seed)
        return drops[0]

    def _drops_in(self, context: EvaluationContext, *, explanation: bool) -> Tensor:
        places = self._pooled_features(context)
        total = places.values.shape[1]
        if total < 2:
            raise InvalidInputError(f"{type(self).__name__} needs at least 2 positions, of which one can be the rest")
        rank = ranks(places.values)
        keys = random_keys(places.sizes, self.n_iter, context.seed).to(rank.device)
        sizes = [min(max(round(total * k / (self.n_sizes + 1)), 1), total - 1) for k in range(1, self.n_sizes + 1)]

        def removed(samples: slice, some: range) -> Tensor:
            flags = []
            for copy in some:
                size, draw = sizes[copy // self.n_iter], copy % self.n_iter
                part = (rank[samples] < size) == explanation
                members = size if explanation else total - size
                count = max(1, min(round(self.share * members), round(self.limit * total)))
                # Random keys decide, the same for a position in all samples; positions outside of the part come last.
                flags.append(ranks(-keys[draw].where(part, 2.0)) < count)
            return torch.stack(flags)

        outputs = self._removed(context, places, len(sizes) * self.n_iter, removed)
        return self._unchanged(context) - outputs.mean(0)


@METRICS.register("f_fidelity_plus")
class FFidelityPlus(FineTunedFidelity):
    """FFid+: mean drop of the output without random positions of the explanation; higher is more faithful.

    ``output="accuracy"`` is the paper's form (Zheng et al. 2024, arXiv:2410.02970).

    >>> from xaikit.explainers import GradientXInput
    >>> model = torch.nn.Linear(8, 2)
    >>> FFidelityPlus().evaluate(GradientXInput(model), torch.rand(3, 8), 0).shape
    torch.Size([3])
    """

    DIRECTION = "maximize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        return self._drops(context, explanation=True)


@METRICS.register("f_fidelity_minus")
class FFidelityMinus(FineTunedFidelity):
    """FFid-: mean drop of the output without random positions of the rest; lower is more faithful.

    ``output="accuracy"`` is the paper's form (Zheng et al. 2024, arXiv:2410.02970).

    >>> from xaikit.explainers import GradientXInput
    >>> model = torch.nn.Linear(8, 2)
    >>> FFidelityMinus().evaluate(GradientXInput(model), torch.rand(3, 8), 0).shape
    torch.Size([3])
    """

    DIRECTION = "minimize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        return self._drops(context, explanation=False)


@METRICS.register("f_fidelity")
class FFidelity(FineTunedFidelity):
    """FFid+ less FFid-: how much more the explanation's positions do than the others; higher is more faithful.

    Zero in the mean for a ranking that says nothing (Zheng et al. 2024, arXiv:2410.02970).

    >>> from xaikit.explainers import GradientXInput
    >>> model = torch.nn.Linear(8, 1)
    >>> bool((FFidelity(limit=1.0).evaluate(GradientXInput(model), torch.rand(3, 8)) > 0).all())
    True
    """

    DIRECTION = "maximize"

    def _evaluate(self, context: EvaluationContext) -> Tensor:
        return self._drops(context, explanation=True) - self._drops(context, explanation=False)
