"""Each marked line is wrong, and mypy finds it."""

import torch
from torch import Tensor, nn

import xaikit
from xaikit import (
    EXPLAINERS,
    RRR,
    AbPC,
    Explainer,
    GradCam,
    IntegratedGradients,
    LRPEpsilonGammaBox,
    Metric,
    SmoothGrad,
    tune,
)
from xaikit.transforms import Blur

model, x = nn.Linear(4, 2), torch.rand(3, 4)

SmoothGrad(model, n_itr=8)  # wrong: n_itr
SmoothGrad(model, n_iter="many")  # wrong: "str"
SmoothGrad(8)  # wrong: int
SmoothGrad(model, 8)  # wrong: positional
GradCam(model, layr="0")  # wrong: layr
LRPEpsilonGammaBox(model, hihg=3.0)  # wrong: hihg
Blur(sigm=2.0)  # wrong: sigm
AbPC(n_stepz=4)  # wrong: n_stepz
RRR(lambda_rr=1.0)  # wrong: lambda_rr
RRR(lambda_rrr="one")  # wrong: "str"
SmoothGrad(model).n_iter = 3  # wrong: read-only
SmoothGrad(model).atribute(x)  # wrong: atribute
number: int = SmoothGrad(model).attribute(x, 0)  # wrong: Tensor
pair: tuple[Tensor, Tensor] = SmoothGrad(model).attribute(x, 0)  # wrong: Tensor
vargrad: xaikit.VarGrad = EXPLAINERS.create("vargrad")  # wrong: Explainer
smooth: SmoothGrad = tune(IntegratedGradients(model), "abpc", (x, 0), n_trials=3).best  # wrong: IntegratedGradients
grads: SmoothGrad = IntegratedGradients(model).set_kwargs(n_steps=3)  # wrong: IntegratedGradients
SmoothGrad(model).attribute(x, 0, create_grph=True)  # wrong: create_grph
SmoothGrad(model).explain(x, 0, sed=1)  # wrong: sed
xaikit.PointingGame()  # wrong: PointingGame
EXPLAINERS.register(3)  # wrong: int


class Mine(Explainer):
    sharpness: float = 1.0

    def _attribute(self, call: xaikit.core.Call) -> tuple[Tensor, ...]:
        return call.inputs


Mine(model, sharpnes=2.0)  # wrong: sharpnes
Mine(model, sharpness="very")  # wrong: "str"


class Measure(Metric):
    DIRECTION = "sideways"  # wrong: sideways
