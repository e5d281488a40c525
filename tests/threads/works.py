"""What a thread may do with a model; each work returns tensors that are the same whenever it runs alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from tests.threads.models import Closed, Deployed, Stateful, Tokens
from xaikit import CDEP, EXPLAINERS, METRICS, RRR, Concept, Counterexamples
from xaikit.mitigation import AClArC

Work = Callable[[nn.Module, Any, Tensor], list[Tensor]]

LABELS = torch.tensor([0, 1, 2])
IMAGES = torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
IDS = torch.randint(9, (3, 5), generator=torch.Generator().manual_seed(1))
INPUTS: dict[type[nn.Module], Tensor] = {Stateful: IMAGES, Deployed: IMAGES, Closed: IMAGES, Tokens: IDS}


def explain(spec: str) -> Work:
    """An attribution with its scores."""

    def work(model: nn.Module, x: Any, y: Tensor) -> list[Tensor]:
        attribution = EXPLAINERS.create(spec).bind(model).explain(x, y, seed=3)
        return [attribution.values, attribution.scores]

    return work


def penalise(mitigator: Any) -> Work:
    """The gradient of a penalty's loss by every parameter."""

    def work(model: nn.Module, x: Any, y: Tensor) -> list[Tensor]:
        mask = torch.zeros(4, 4)
        mask[:2] = 1
        loss = mitigator.loss(model, (x, y, mask), seed=2).penalty
        return list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True, materialize_grads=True))

    return work


def changed(model: nn.Module, x: Any, y: Tensor) -> list[Tensor]:
    """The gradients of samples with another region, and of activations without a concept that is fitted for it."""
    concept = Concept.fit(model, x, y == 0, layer="conv")
    return [
        gradient
        for mitigator in (Counterexamples(fill="noise"), AClArC(concept=concept))
        for gradient in penalise(mitigator)(model, x, y)
    ]


def measure(spec: str, explainer: str) -> Work:
    """A metric of an explanation."""

    def work(model: nn.Module, x: Any, y: Tensor) -> list[Tensor]:
        return [METRICS.create(spec).evaluate(EXPLAINERS.create(explainer).bind(model), x, y, seed=1)]

    return work


def run_in_training_mode(model: nn.Module, x: Any, y: Tensor) -> list[Tensor]:
    """The user's own pass: a training step's loss, by what runs before the dropout, which draws anew each time."""
    hidden, thread = [], threading.get_ident()
    layer = model.drop if hasattr(model, "drop") else model.head

    def keep(_module: nn.Module, args: Any) -> None:
        if threading.get_ident() == thread:  # an explanation runs the hooks of the model, too
            hidden.append(args[0])

    handle = layer.register_forward_pre_hook(keep)
    try:
        model(x)
    finally:
        handle.remove()
    modes = torch.tensor([float(m.training) for m in model.modules()])
    return [hidden[-1].detach(), modes]


WORKS: dict[type[nn.Module], dict[str, Work]] = {
    Stateful: {
        "gradient": explain("gradient"),
        "smoothgrad with a seed": explain("smoothgrad:n_iter=3"),
        "integrated gradients at a layer": explain("integrated_gradients:n_steps=3,layer=norm"),
        "GradCam": explain("gradcam"),
        "LRP": explain("lrp_epsilon_plus"),
        "AttnLRP at a layer": explain("attn_lrp:layer=conv"),
        "CD": explain("contextual_decomposition"),
        "guided backprop": explain("captum.guided_backprop"),
        "kernel SHAP": explain("captum.kernel_shap:n_samples=8"),
        "noise tunnel": explain("captum.noise_tunnel:nt_samples=2"),
        "layer conductance": explain("captum:algorithm=LayerConductance,layer=inner"),
        "RRR's penalty": penalise(RRR(mode="eval")),
        "RRR's penalty over LRP": penalise(RRR(explainer="lrp_epsilon_plus", mode="eval")),
        "RRR's penalty over SmoothGrad": penalise(RRR(explainer="smoothgrad:n_iter=3", mode="eval")),
        "CDEP's penalty": penalise(CDEP(mode="eval")),
        "a training pass": run_in_training_mode,
        "model randomisation": measure("model_randomisation", "gradient"),
        "pixel flipping": measure("abpc", "gradient_x_input"),
    },
    Deployed: {
        "gradient": explain("gradient"),
        "LRP": explain("lrp_epsilon_plus"),
        "CD": explain("contextual_decomposition"),
        "guided backprop": explain("captum.guided_backprop"),
        "kernel SHAP": explain("captum.kernel_shap:n_samples=8"),
        "RRR's penalty in one pass": penalise(RRR(mode="train")),
        "the penalty of changed samples": changed,
        "model randomisation": measure("model_randomisation", "gradient"),
    },
    Closed: {
        "gradient": explain("gradient"),
        "smoothgrad with a seed": explain("smoothgrad:n_iter=3"),
        "LRP": explain("lrp_epsilon_plus"),
        "CD": explain("contextual_decomposition"),
        "deconvolution": explain("captum.deconvolution"),
        "DeepLift": explain("captum.deep_lift"),
        "integrated gradients at a layer": explain("integrated_gradients:n_steps=3,layer=norm"),
        "RRR's penalty": penalise(RRR(mode="eval")),
    },
    Tokens: {
        "gradient": explain("gradient_x_input:layer=embedding"),
        "integrated gradients": explain("integrated_gradients:n_steps=3,layer=embedding"),
        "AttnLRP": explain("attn_lrp:layer=embedding"),
        "CD": explain("contextual_decomposition"),
        "feature ablation": explain("captum.feature_ablation:layer=embedding"),
        "GradientShap": explain("captum.gradient_shap:layer=embedding,n_samples=2"),
    },
}
