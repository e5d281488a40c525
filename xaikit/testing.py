"""What every explainer and every mitigator owes its users, as checks that a plugin's tests can run too.

A plugin's test file is three lines::

    @pytest.mark.parametrize("check", EXPLAINER_CHECKS, ids=lambda c: c.__name__)
    def test_contract(check):
        check(MyExplainer)

Each check takes an explainer class (or an object with settings) and raises AssertionError where a promise is broken;
`MITIGATOR_CHECKS` likewise take a mitigator.
"""

from __future__ import annotations

import contextlib
import json
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from xaikit.core import EXPLAINERS, Explainer
from xaikit.core.errors import NotDifferentiableError, XaikitError
from xaikit.core.params import Categorical, Choice, Number
from xaikit.core.structure import flatten

N, CHANNELS, SIZE, CLASSES = 3, 2, 6, 3


class ContractNet(nn.Module):
    """A small net of modules only: what any explainer should handle."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(CHANNELS, 4, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.second = nn.Conv2d(4, 4, 3, stride=2)
        self.relu2 = nn.ReLU()
        self.flatten = nn.Flatten()
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, image: Tensor) -> Tensor:
        """Logits (N, CLASSES) of images (N, CHANNELS, SIZE, SIZE)."""
        hidden = self.relu2(self.second(self.relu1(self.first(image))))
        return self.head(self.drop(self.flatten(hidden)))


def contract_case(dtype: torch.dtype = torch.float64) -> tuple[ContractNet, Tensor, Tensor]:
    """The net (in training mode, so that isolation shows), a batch and its targets."""
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ContractNet().to(dtype)
    x = torch.randn(N, CHANNELS, SIZE, SIZE, generator=generator, dtype=torch.float64).to(dtype)
    return model.train(), x, torch.tensor([0, 2, 1])


def make(explainer: Any, model: nn.Module | None = None) -> Explainer:
    """The explainer for a model, from a class or an object."""
    made: Explainer = explainer() if isinstance(explainer, type) else explainer
    return made if model is None else made.bind(model)


def check_shape_dtype_device(explainer: Any) -> None:
    """The attribution has shape, dtype and device of the input, and is finite and detached."""
    model, x, y = contract_case()
    a = make(explainer, model).attribute(x, y)
    assert (a.shape, a.dtype, a.device) == (x.shape, x.dtype, x.device)
    assert bool(torch.isfinite(a).all())
    assert not a.requires_grad
    assert bool(a.any()), "zero everywhere"


def check_structures(explainer: Any) -> None:
    """A tensor, a tuple and a dict of it give the same attribution in the same structure."""
    model, x, y = contract_case()
    e = make(explainer, model)
    a = e.attribute(x, y)
    (b,) = e.attribute((x,), y)
    c = e.attribute({"image": x}, y)
    assert torch.equal(a, b)
    assert set(c) == {"image"}
    assert torch.equal(a, c["image"])


def check_repeatable(explainer: Any) -> None:
    """Two calls with one seed agree; the global random state is untouched."""
    model, x, y = contract_case()
    e = make(explainer, model)
    before = torch.random.get_rng_state()
    a = e.attribute(x, y, seed=3)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(5)
    assert torch.equal(a, e.attribute(x, y, seed=3))


def check_sample_alone(explainer: Any) -> None:
    """A sample gets the same attribution alone as inside a batch."""
    model, x, y = contract_case()
    e = make(explainer, model)
    a = e.attribute(x, y)
    for i in range(N):
        alone = e.attribute(x[i : i + 1], y[i : i + 1])
        assert torch.allclose(alone, a[i : i + 1], rtol=1e-6, atol=1e-8 * float(a.abs().max())), f"sample {i} differs"


def check_untouched(explainer: Any) -> None:
    """Inputs and model are as found, also after an exception inside the call."""
    model, x, y = contract_case()
    model.second.eval()
    for p in model.first.parameters():
        p.requires_grad_(False)
    e = make(explainer, model)
    before, kept = _state(model), x.clone()
    e.attribute(x, y)
    assert _state(model) == before
    assert torch.equal(x, kept)
    handle = model.relu2.register_forward_hook(_raise)
    try:
        e.attribute(x, y)
    except RuntimeError:
        pass
    else:
        raise AssertionError("an exception inside the model was swallowed")
    finally:
        handle.remove()
    assert _state(model) == before


def check_set_kwargs(explainer: Any) -> None:
    """`set_kwargs` gives what a fresh object would, and leaves the old one alone."""
    model, x, y = contract_case()
    e = make(explainer, model)
    old = e.attribute(x, y)
    for name, spec in e.get_tunables().items():
        for value in _two_values(spec):
            changed = e.set_kwargs(**{name: value})
            fresh = type(e)(model, **{**e.settings(), name: value})
            assert changed == fresh
            assert torch.equal(changed.attribute(x, y), fresh.attribute(x, y)), name
    assert torch.equal(e.attribute(x, y), old)


def check_tunables_alive(explainer: Any) -> None:
    """Each tunable changes the attribution between the ends of its range, and refuses what it cannot be."""
    model, x, y = contract_case()
    e = make(explainer, model)
    for name, spec in e.get_tunables().items():
        values = list(spec.names) if isinstance(spec, Choice) else _two_values(spec)
        found = []
        for value in values:
            with contextlib.suppress(*([XaikitError] if isinstance(spec, Choice) else [])):  # for other kinds of input
                found.append(e.set_kwargs(**{name: value}).attribute(x, y))
        alike = all(torch.equal(a, found[0]) for a in found)
        assert not alike, f"{name}={values[0]!r} and {name}={values[-1]!r} give the same attribution"
        for wrong in ("no such value", float("nan"), object()):
            try:
                e.set_kwargs(**{name: wrong})
            except XaikitError:
                continue
            raise AssertionError(f"{name}={wrong!r} was accepted")


def check_spec(explainer: Any) -> None:
    """The spec goes through JSON and back; the object goes through pickle."""
    e = make(explainer)
    assert EXPLAINERS.create(json.loads(json.dumps(e.spec()))) == e
    assert pickle.loads(pickle.dumps(e)) == e  # noqa: S301


def check_layer(explainer: Any) -> None:
    """`layer` explains activations, by name and by module alike."""
    model, x, y = contract_case()
    with torch.no_grad():
        shape = model.first(x).shape
    by_name = make(explainer, model).set_kwargs(layer="first").attribute(x, y)
    by_module = make(explainer, model).set_kwargs(layer=model.first).attribute(x, y)
    assert by_name.shape == shape
    assert torch.equal(by_name, by_module)


def check_targets(explainer: Any) -> None:
    """A class, a list, a tensor and a function that mean the same score give the same attribution."""
    model, x, y = contract_case()
    e = make(explainer, model)
    a = e.attribute(x, torch.full((N,), 1))
    same = [1, [1] * N, torch.tensor(1), lambda out: out[:, 1]]
    for target in same:
        b = e.attribute(x, target)
        assert torch.allclose(a, b, rtol=1e-6, atol=1e-8 * float(a.abs().max())), f"target {target!r} differs"


def check_memory_formats_and_dtypes(explainer: Any) -> None:
    """Non-contiguous input changes nothing; float32 agrees with float64; bfloat16 runs."""
    model, x, y = contract_case()
    e = make(explainer, model)
    a = e.attribute(x, y)
    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    assert not strided.is_contiguous()
    assert torch.allclose(e.attribute(strided, y), a, rtol=1e-6, atol=1e-8 * float(a.abs().max()))
    single = e.bind(model.float()).attribute(x.float(), y).double()
    assert float((single - a).norm() / a.norm()) < 1e-3
    model, x, y = contract_case(torch.bfloat16)
    half = make(explainer, model).attribute(x, y)
    assert half.dtype == torch.bfloat16
    assert bool(torch.isfinite(half).all())


def check_derivative(explainer: Any) -> None:
    """The derivative of a penalty on the attribution is exact for every parameter, or refused.

    Against central finite differences along a random direction of each parameter, in float64: relative error < 1e-5.
    """
    model, x, y = contract_case()
    e = make(explainer, model)
    if not e.DIFFERENTIABLE:
        try:
            e.attribute(x, y, create_graph=True)
        except NotDifferentiableError as err:
            if "gradient" in str(err):
                return
            raise AssertionError("the refusal must name explainers that can") from err
        raise AssertionError("an explainer that is not differentiable took create_graph=True")
    assert derivative_error(e, x, y) < 1e-5


def derivative_error(explainer: Explainer, x: Any, y: Any, *, step: float = 1e-6) -> float:
    """Largest relative error of d penalty / d parameter along random directions, one for each parameter.

    The penalty is sum((w * attribution)**2) with fixed random w; the model should be float64.
    """
    model = explainer.model
    if model is None:
        raise AssertionError("bind the explainer to a model first")
    generator = torch.Generator().manual_seed(1)
    weights: list[Tensor] = []

    def penalty() -> Tensor:
        a = explainer.attribute(x, y, create_graph=True)
        parts = [a] if isinstance(a, Tensor) else list(a.values() if isinstance(a, dict) else a)
        if not weights:
            weights.extend(torch.rand(p.shape, generator=generator, dtype=p.dtype) for p in parts)
        return torch.stack([(w * p).square().sum() for w, p in zip(weights, parts, strict=True)]).sum()

    parameters = [p for p in model.parameters() if p.requires_grad]
    value = penalty()
    grads = torch.autograd.grad(value, parameters, allow_unused=True)
    exact, found = [], []
    for p, g in zip(parameters, grads, strict=True):
        direction = torch.randn(p.shape, generator=generator, dtype=p.dtype)
        exact.append(0.0 if g is None else float((g * direction).sum()))
        kept = p.detach().clone()
        ends = []
        for sign in (1, -1):
            with torch.no_grad():
                p.copy_(kept + sign * step * direction)
            ends.append(float(penalty().detach()))
        with torch.no_grad():
            p.copy_(kept)
        found.append((ends[0] - ends[1]) / (2 * step))
    scale = max([abs(f) for f in found] + [1e-12])
    return max(abs(a - b) / max(abs(b), 1e-3 * scale) for a, b in zip(exact, found, strict=True))


def directional_derivative_error(
    explainer: Explainer, x: Any, y: Any, *, parts: int = 3, steps: tuple[float, ...] = (1e-6, 1e-7, 1e-8)
) -> float:
    """Largest relative error of d penalty / d parameters along few directions, for nets with many parameters.

    The penalty is sum((w a)^2 + w a) of the attribution a with fixed random w. The directions move all parameters at
    once, then every third of them (with `parts=3`). The best of the steps counts: a larger one crosses kinks of ReLU
    and max-pooling, a smaller one loses digits. The model should be float64.
    """
    model = explainer.model
    if model is None:
        raise AssertionError("bind the explainer to a model first")
    parameters = list(model.parameters())

    def penalty(create_graph: bool = False) -> Tensor:
        found = explainer.attribute(x, y, create_graph=create_graph)
        flat = torch.cat([part.flatten(1) for part in flatten(found)[0]], 1)
        generator = torch.Generator().manual_seed(5)
        weighted = flat * torch.randn(flat.shape, dtype=flat.dtype, generator=generator)
        return (weighted.square() + weighted).sum()

    def moved(direction: list[Tensor], size: float) -> Tensor:
        with torch.no_grad():
            kept = [p.clone() for p in parameters]
            for p, d in zip(parameters, direction, strict=True):
                p.add_(d, alpha=size)
            value = penalty()
            for p, old in zip(parameters, kept, strict=True):
                p.copy_(old)
        return value

    grads = torch.autograd.grad(penalty(True), parameters, allow_unused=True, materialize_grads=True)
    errors = []
    for part in range(-1, parts):
        direction = [
            torch.randn_like(p) * (p.detach().abs().mean() + 1e-3) * (part in (-1, i % parts))
            for i, p in enumerate(parameters)
        ]
        exact = torch.stack([(g * d).sum() for g, d in zip(grads, direction, strict=True)]).sum()
        numeric = [(moved(direction, h) - moved(direction, -h)) / (2 * h) for h in steps]
        errors.append(min(float((n - exact).abs() / n.abs()) for n in numeric))
    return max(errors)


def check_completeness(explainer: Any) -> None:
    """Where a sum is promised, `explain` reports how far the attribution is from it."""
    model, x, y = contract_case()
    e = make(explainer, model)
    with warnings.catch_warnings():
        warnings.simplefilter("error" if e.GAP_TOLERANCE is not None else "ignore")
        result = e.explain(x, y)
    assert result.scores is not None
    assert result.scores.shape == (N,)
    assert result.spec["name"] == e.NAME
    if result.gap is not None:
        assert result.gap.shape == (N,)
        assert bool((result.gap >= 0).all())


EXPLAINER_CHECKS: tuple[Callable[[Any], None], ...] = (
    check_shape_dtype_device,
    check_structures,
    check_repeatable,
    check_sample_alone,
    check_untouched,
    check_set_kwargs,
    check_tunables_alive,
    check_spec,
    check_layer,
    check_targets,
    check_memory_formats_and_dtypes,
    check_derivative,
    check_completeness,
)


def check_plain_step(mitigator: Any) -> None:
    """With weight 0 the loss, its gradient and the random state are those of the plain step, bit for bit."""
    model, batch, made = _step(mitigator)
    torch.manual_seed(5)
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()
    plain, after = [p.grad for p in model.parameters()], torch.random.get_rng_state()
    for settings, options in (({made.WEIGHT: 0.0}, {}), ({}, {"weight": 0.0})):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(5)
        loss = made.set_kwargs(**settings).loss(model, batch, **options)
        loss.total.backward()
        assert torch.equal(after, torch.random.get_rng_state())
        assert torch.equal(loss.total, loss.task)
        assert bool(torch.isfinite(loss.penalty))
        for p, g in zip(model.parameters(), plain, strict=True):
            assert g is not None
            assert p.grad is not None
            assert torch.equal(p.grad, g)


def check_total(mitigator: Any) -> None:
    """Total = task + weight * penalty, with the task's loss that of the model alone; one seed, one penalty."""
    model, batch, made = _step(mitigator)
    model.eval()
    loss = made.loss(model, batch, seed=3, weight=2.5)
    assert torch.allclose(loss.total, loss.task + 2.5 * loss.penalty)
    assert torch.allclose(loss.task, nn.functional.cross_entropy(model(batch[0]), batch[1]))
    assert torch.equal(loss.penalty, made.loss(model, batch, seed=3).penalty)


def check_penalty_derivative(mitigator: Any) -> None:
    """The penalty's gradient is that of finite differences along one direction of all parameters, to 1e-5."""
    model, batch, made = _step(mitigator)
    model.eval()
    parameters, generator = list(model.parameters()), torch.Generator().manual_seed(1)
    grads = torch.autograd.grad(made.loss(model, batch, seed=0).penalty, parameters, allow_unused=True)
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]
    exact = sum(float((g * d).sum()) for g, d in zip(grads, directions, strict=True) if g is not None)
    step = 1e-7  # small, since a ReLU or a hinge that changes sides on the way spoils the difference
    ends = []
    for move in (step, -2 * step, step):
        with torch.no_grad():
            for p, d in zip(parameters, directions, strict=True):
                p.add_(d, alpha=move)
        ends.append(float(made.loss(model, batch, seed=0).penalty.detach()))
    found = (ends[0] - ends[1]) / (2 * step)
    size = max((float(g.norm()) for g in grads if g is not None), default=0.0)
    assert abs(exact - found) < 1e-5 * max(abs(found), 1e-3 * size) + 1e-9


MITIGATOR_CHECKS: tuple[Callable[[Any], None], ...] = (check_plain_step, check_total, check_penalty_derivative)


def _step(mitigator: Any) -> tuple[nn.Module, tuple[Tensor, Tensor, Tensor], Any]:
    """The net in training mode, a batch with a mask for each sample, the mitigator."""
    model, x, y = contract_case()
    mask = torch.rand(N, SIZE, SIZE, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    return model, (x, y, mask), mitigator() if isinstance(mitigator, type) else mitigator


def _raise(*_: Any) -> None:
    raise RuntimeError("raised by a hook of the contract tests")


def _state(model: nn.Module) -> Any:
    """All that a call could disturb, comparable."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
    modules = [
        (name, m.training, [len(getattr(m, h)) for h in hooks], sorted(m.__dict__)) for name, m in model.named_modules()
    ]
    parameters = [(n, id(p), p.requires_grad, p.grad is None, p.tolist()) for n, p in model.named_parameters()]
    return modules, parameters, [(n, b.tolist()) for n, b in model.named_buffers()]


def _two_values(spec: Any) -> tuple[Any, Any]:
    if isinstance(spec, Number):
        low, high = spec.low, spec.high
        return (int(low), int(high)) if spec.kind == "int" else (low, high)  # type: ignore[arg-type]
    if isinstance(spec, Categorical):
        return spec.choices[0], spec.choices[-1]
    if isinstance(spec, Choice):
        names = list(spec.names)
        return names[0], names[-1]
    raise AssertionError(f"no values known for {spec!r}")
