"""A model may write into what it is given: the next pass, and the user, see it as it was."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xaikit import CDEP, EXPLAINERS, RRR, Gradient, IntegratedGradients, assess
from xaikit.core.private_arguments import private_copy
from xaikit.explainers import ExactShapley
from xaikit.influence import tracin
from xaikit.mitigation import Counterexamples
from xaikit.shortcuts import scan
from xaikit.transforms.baselines import Baseline
from xaikit.transforms.feature_masks import FeatureMask

X = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4)
SCALE = torch.tensor([[1.0], [2.0], [3.0]], dtype=torch.float64)
NAMES = ("gradient", "integrated_gradients", "lrp_epsilon_plus", "contextual_decomposition", "captum.feature_ablation")


class Counted:
    """As a cache that grows with each pass."""

    def __init__(self) -> None:
        self.steps: list[Any] = []


class Net(nn.Module):
    """Multiplies the hidden layer by twice the scale, in a way that writes into its arguments, or not."""

    def __init__(self, doubled: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last, self.doubled = nn.Linear(4, 6).double(), nn.Linear(6, 3).double(), [doubled]

    def forward(self, x: Tensor, scale: Any) -> Tensor:
        return self.last(torch.relu(self.first(x)) * self.doubled[0](scale))


def _grown(cache: Any) -> Any:
    cache.steps.append(2.0)
    return sum(cache.steps)


# What multiplies, its argument, and the same without a write.
WAYS: dict[str, tuple[Any, Any, Any]] = {
    "in place": (lambda scale: scale.mul_(2), SCALE.clone, lambda scale: scale * 2),
    "in a list": (lambda scales: scales[0].mul_(2), lambda: [SCALE.clone()], lambda scales: scales[0] * 2),
    "in a dict": (lambda scales: scales["a"].mul_(2), lambda: {"a": SCALE.clone()}, lambda scales: scales["a"] * 2),
    "pop": (lambda scales: scales.pop("a") * 2, lambda: {"a": SCALE.clone()}, lambda scales: scales["a"] * 2),
    "append": (lambda scales: scales.append(1) or scales[0] * len(scales), lambda: [SCALE], lambda s: s[0] * 2),
    "an object": (_grown, Counted, lambda _: 2.0),
}


def _content(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.tolist()
    if isinstance(value, dict):
        return {k: _content(v) for k, v in value.items()}
    return [_content(v) for v in (value.steps if isinstance(value, Counted) else value)]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("way", WAYS)
def test_further_arguments_are_as_found_in_every_pass(way: str, name: str) -> None:
    doubled, argument, plain = WAYS[way]
    scale = argument()
    before = _content(scale)

    def values(net: Net, scale: Any) -> Tensor:
        explainer = EXPLAINERS.get(name)(
            net,
            forward_arg_extractor=lambda batch: batch[0],
            additional_forward_arg_extractor=lambda batch: (batch[1],),
        )
        return explainer.attribute((X, scale), [0, 1, 2])

    torch.testing.assert_close(values(Net(doubled), scale), values(Net(plain), scale))
    assert _content(scale) == before


class Normalising(nn.Sequential):
    """Normalises its input in place, as preprocessing often does."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.sub_(0.1).div_(0.5))


class Plain(nn.Sequential):
    """The same, in new tensors."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - 0.1) / 0.5)


def _net(kind: type[nn.Sequential]) -> nn.Sequential:
    torch.manual_seed(0)
    return kind(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.2), nn.Linear(6, 3)).double()


def test_a_penalty_and_fit_and_assess_see_the_input_as_it_is() -> None:
    y, mask = torch.tensor([0, 1, 2]), torch.tensor([1, 0, 0, 0])
    results = []
    for kind in (Normalising, Plain):
        net, x = _net(kind), X.clone()
        torch.manual_seed(1)
        loss = RRR(output="logit").loss(net, (x, y, mask.expand(3, 4)), seed=0)
        RRR(n_epochs=2, batch_size=3, output="logit").fit(net, x, y, mask, progress=False)
        reliance = assess(net.eval(), (x, y, mask.expand(3, 4)), progress=False)
        results.append((loss.total.detach(), net[0].weight.detach(), str(reliance)))
        torch.testing.assert_close(x, X, rtol=0, atol=0)
    ours, expected = results
    torch.testing.assert_close(ours[:2], expected[:2])
    assert ours[2] == expected[2]


@dataclasses.dataclass
class Packed:
    """An argument as libraries for graphs have them."""

    x: Tensor
    more: dict[str, Any]


def test_a_private_copy_keeps_kinds_and_what_is_the_same_twice() -> None:
    table = dict.fromkeys(range(2000))
    layer = nn.Linear(1, 1)
    packed = Packed(SCALE, {"again": SCALE, "none": None, "table": table, "layer": layer})
    copy = private_copy((packed, 3, "word"))
    assert copy[1:] == (3, "word")
    assert type(copy[0]) is Packed
    assert copy[0].x is copy[0].more["again"] is not SCALE
    assert copy[0].more["table"] is table
    assert copy[0].more["layer"] is layer
    assert private_copy(("a", 1)) == ("a", 1)


def _written(value: Any) -> Any:
    value[:, 0] = 0.0
    return value


def _unwritten(value: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(value[:, :1]), value[:, 1:]], 1)


def _by_function(change: Any, x: Tensor) -> list[Any]:
    """What comes out where a user's function changes the samples, an attribution or an explained input."""
    y, mask, net = torch.tensor([0, 1, 2]), torch.tensor([1.0, 0, 0, 0]).expand(3, 4), _net(Plain)
    net.eval()

    class Cut(Baseline):
        def __call__(self, value: Tensor) -> Tensor:
            return change(value)

    class Signs(FeatureMask):
        def __call__(self, value: Tensor) -> Tensor:
            return (change(value) > 0).long()

    def task(logits: Tensor, labels: Tensor) -> Tensor:
        return nn.functional.cross_entropy(change(logits), change(labels[:, None])[:, 0])

    losses = [
        RRR(task_loss=task, output="logit").loss(net, (x, y, mask), seed=0).task,
        Counterexamples(fill=lambda value, *_: change(value)).loss(net, (x, y, mask), seed=0).total,
        CDEP(keep=change).loss(net, (x, y, mask), seed=0).penalty,
        RRR(what=change, output="logit").loss(net, (x, y, mask), seed=0).penalty,
    ]
    decoy = assess(net, (x, y), decoy={"cut": lambda value, _: change(value)}, progress=False)
    values = IntegratedGradients(net, baseline=Cut(), n_steps=4).attribute(x, y)
    grouped = ExactShapley(net, feature_mask=Signs()).attribute(x, y)
    scores = Gradient(net).attribute(x, lambda output: change(output).sum(1))
    halves = assess(net, (x, y, mask), groups=lambda x, _: (change(x)[:, 1] > 0).long(), progress=False)
    return [*(loss.detach() for loss in losses), values, grouped, scores, str((decoy, halves.groups))]


def test_functions_of_the_user_may_write_into_what_they_get() -> None:
    x = X.clone()
    ours, expected = _by_function(_written, x), _by_function(_unwritten, X.clone())
    torch.testing.assert_close(ours[:-1], expected[:-1])
    assert ours[-1] == expected[-1]
    torch.testing.assert_close(x, X, rtol=0, atol=0)


class Counting(nn.Sequential):
    """Counts its passes, and keeps what it saw."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__(*layers)
        self.passes, self.log = 0, []
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.passes += 1
        self.log.append(len(x))
        self.count += 1
        self.seen = x
        return super().forward(x)


def test_what_judges_a_model_leaves_no_trace_in_it() -> None:
    net, y, mask = _net(Counting), torch.tensor([0, 1, 2]), torch.tensor([1.0, 0, 0, 0]).expand(3, 4)
    net[1].eval()
    assess(net, (X, y, mask), progress=False)
    scan(net, (X, y), progress=False)
    tracin(net, (X, y), (X[:1], y[:1]))
    assert (net.passes, net.log, float(net.count), hasattr(net, "seen")) == (0, [], 0.0, False)
    assert [module.training for module in net.modules()] == [True, True, False, True, True]
