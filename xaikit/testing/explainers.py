"""The contract of explainers: checks that every one must pass, also those of plugins."""

from __future__ import annotations

import contextlib
import json
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import torch

from xaikit.core import EXPLAINERS
from xaikit.core.errors import NotDifferentiableError, XaikitError
from xaikit.core.params import Categorical, Choice, Number
from xaikit.testing.case import N, contract_case, fail, make, state_of
from xaikit.testing.derivatives import derivative_error


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
    """A call leaves inputs and model unchanged, also when it raises an exception."""
    model, x, y = contract_case()
    model.second.eval()
    for p in model.first.parameters():
        p.requires_grad_(False)
    e = make(explainer, model)
    before, x_before = state_of(model), x.clone()
    e.attribute(x, y)
    assert state_of(model) == before
    assert torch.equal(x, x_before)
    handle = model.relu2.register_forward_hook(fail)
    try:
        e.attribute(x, y)
    except RuntimeError:
        pass
    else:
        raise AssertionError("an exception inside the model was swallowed")
    finally:
        handle.remove()
    assert state_of(model) == before


def check_set_kwargs(explainer: Any) -> None:
    """`set_kwargs` gives the same as a new object with these settings, and does not change the old one."""
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
    """Each tunable setting changes the attribution within its range, and refuses values of another kind."""
    model, x, y = contract_case()
    e = make(explainer, model)
    for name, spec in e.get_tunables().items():
        values = list(spec.names) if isinstance(spec, Choice) else _two_values(spec)
        attributions = []
        for value in values:
            with contextlib.suppress(*([XaikitError] if isinstance(spec, Choice) else [])):  # for other kinds of input
                attributions.append(e.set_kwargs(**{name: value}).attribute(x, y))
        alike = all(torch.equal(a, attributions[0]) for a in attributions)
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
    """The derivative of a penalty on the attribution is exact for every parameter, or the explainer refuses.

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


def check_completeness(explainer: Any) -> None:
    """If the method promises a sum, `explain` reports how far the attribution is from it."""
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
