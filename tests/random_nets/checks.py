"""The checks of a random net: values against references, a sample alone, sums, derivatives, the model's state."""

from __future__ import annotations

import collections
import dataclasses
import random
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from tests.random_nets.derivatives import derivative_violations
from tests.random_nets.nets import Case, build, in_dtype
from tests.random_nets.reference import Points, Reference
from tests.random_nets.surroundings import surroundings
from xaikit import EXPLAINERS
from xaikit.core.errors import NotDifferentiableError, XaikitError
from xaikit.core.structure import flatten

IG_STEPS = 8
GRADIENTS = ("gradient", "gradient_x_input", "integrated_gradients", "smoothgrad", "vargrad")  # never refused
DIFFERENTIATED = (
    *GRADIENTS, "expected_gradients", "gradcam", "lrp_uniform_epsilon", "lrp_epsilon_plus", "attn_lrp",
    "contextual_decomposition", "deep_lift",
)  # fmt: skip
SETTINGS: dict[str, dict[str, Any]] = {
    "gradient": {},
    "gradient_x_input": {},
    "integrated_gradients": {"n_steps": IG_STEPS},
    "smoothgrad": {"n_iter": 4},
    "vargrad": {"n_iter": 4},
    "expected_gradients": {},
    "gradcam": {},
    "lrp_uniform_epsilon": {},
    "lrp_epsilon_plus": {},
    "attn_lrp": {},
    "contextual_decomposition": {},
    "captum.feature_ablation": {},
    "captum.occlusion": {},
    "captum.deep_lift": {},
    "deep_lift": {},
}
OFTEN = ("gradient", "integrated_gradients", "captum.feature_ablation", "contextual_decomposition", "attn_lrp")


@dataclasses.dataclass
class Outcome:
    """What the checks of one net gave."""

    case: Case
    violations: list[str] = dataclasses.field(default_factory=list)
    refusals: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)


def check(seed: int) -> Outcome:
    """Every check on the net of a seed; violations are sentences that name the method."""
    outcome = Outcome(build(seed))
    r = random.Random(seed)
    for module in outcome.case.net.modules():  # an explanation runs in evaluation mode, and puts back each one's own
        module.training = seed % 2 == 1 and r.random() < 0.7
    names = [n for n in SETTINGS if n in OFTEN or r.random() < 0.4]
    if not any(isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d) for m in outcome.case.net.modules()):
        names = [n for n in names if n != "gradcam"]
    parts: list[tuple[str, Callable[[], Iterator[str]]]] = [
        (name, lambda name=name: _method(outcome.case, name)) for name in names
    ]
    parts += [("layer", lambda: _at_layer(outcome.case, r)), ("float32", lambda: _float32(outcome.case, r))]
    for name in sorted({"gradient", *r.sample(DIFFERENTIATED, 2)} - (set() if "gradcam" in names else {"gradcam"})):
        parts.append((f"derivative of {name}", lambda name=name: _derivative(outcome.case, name)))
    before = surroundings(outcome.case)
    for name, part in parts:
        _run(outcome, name, part)
        after = surroundings(outcome.case)
        changed = [key for key in before if before[key] != after[key]]
        if changed:
            outcome.violations.append(f"{name}: changed {', '.join(changed)}")
            before = after
    return outcome


def _run(outcome: Outcome, name: str, part: Callable[[], Iterator[str]]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome.violations += [f"{name}: {sentence}" for sentence in part()]
    except XaikitError as error:
        sentence = f"{name}: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        if name in (*GRADIENTS, "layer", "float32") and not isinstance(error, NotDifferentiableError):
            outcome.violations.append(f"{sentence} (refused a net that torch differentiates)")
        else:
            outcome.refusals[sentence] += 1
    except Exception as error:  # noqa: BLE001 a raw exception is what we look for
        outcome.violations.append(f"{name}: raw {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def _explainer(case: Case, name: str, **settings: Any) -> Any:
    settings = {**SETTINGS[name], **settings}
    if name == "expected_gradients":
        settings["references"] = _references(case)
    if case.net.output == "tuple":
        settings["head"] = 0
    if case.layer is not None and "layer" not in settings:
        settings["layer"] = case.layer
        if name == "gradcam":
            settings["channel_axis"] = 2
    return EXPLAINERS.get(name)(case.net, **settings)


def _references(case: Case) -> Any:
    """Two reference samples: noise in the form of the inputs."""
    generator = torch.Generator().manual_seed(case.seed)
    points = Reference(case).points(0)
    drawn = tuple(torch.randn(2, *p.shape[1:], generator=generator, dtype=p.dtype) for p in points)
    return drawn[0] if len(drawn) == 1 else drawn


def _method(case: Case, name: str) -> Iterator[str]:
    """One explainer's values."""
    reference, settings = Reference(case), {}
    masks = _masks(reference.points(0))
    if name == "captum.feature_ablation":
        settings["feature_mask"] = masks if len(masks) > 1 else masks[0]
    explainer = _explainer(case, name, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = explainer.explain(case.inputs, case.targets)
    values = flatten(result.values)[0]
    expected: Points | None = {
        "gradient": reference.gradients,
        "gradient_x_input": reference.gradients_x_inputs,
        "integrated_gradients": lambda: reference.integrated_gradients(IG_STEPS),
        "captum.feature_ablation": lambda: reference.ablation(masks),
    }.get(name, lambda: None)()  # type: ignore[func-returns-value]
    shapes = [(len(case.arguments[0]), *p.shape[1:]) for p in reference.points(0)]
    if [tuple(v.shape) for v in values] != shapes:
        yield f"shapes {[tuple(v.shape) for v in values]} for {shapes}"
        return
    if not all(bool(v.isfinite().all()) for v in values):
        yield "not finite"
        return
    if expected is not None and (error := _distance(values, expected)) > 1e-8:
        # A fall of the score is known to the last digits of the score, however small it is.
        rounding = 1e-14 * float(result.scores.abs().max()) if name == "captum.feature_ablation" else 0.0
        if error * max(float(e.detach().abs().max()) for e in expected) > rounding:
            yield f"{error:.2g} from the reference"
    if name == "contextual_decomposition":
        # Contributions of the groups cancel; where they are large, so is the rounding of what remains.
        largest = max(float(v.detach().abs().max()) for v in values)
        error = float((result.gap / (result.scores.abs().max() + 1e-7 * largest).clamp(min=1e-3)).max())
        if error > 1e-6:
            yield f"misses the score by {error:.2g}"
    if name == "deep_lift" and not any("whose condition alone differs" in str(w.message) for w in caught):
        largest = max(float(v.detach().abs().max()) for v in values)
        error = float(result.gap.max()) / (float(result.scores.abs().max()) + largest)
        if error > 1e-8 and float(result.gap.max()) > _rounding_of_scores(case):
            yield f"misses S(x) - S(baseline) by {error:.2g}"
    inputs, targets = case.rows(1, 2)
    alone = flatten(explainer.attribute(inputs, targets))[0]
    error = _distance(alone, tuple(v[1:2] for v in values), scale=values)
    if error > 1e-8 and error > 100 * _last_digits(case, explainer, values):
        yield f"a sample alone is {error:.2g} from the same in a batch"


def _rounding_of_scores(case: Case) -> float:
    """How much the scores change with the last digits of what each step returns: a sum may miss them by this much.

    Those of the samples and those of the baseline, 0: there a norm of nothing but rounding is divided by itself.
    """
    gradient, moves = _explainer(case, "gradient"), []
    tensors, rebuild = flatten(case.inputs)
    zeros = rebuild(tuple(torch.zeros_like(t) if t.is_floating_point() else t for t in tensors))
    for inputs in (case.inputs, zeros):
        scores = gradient.explain(inputs, case.targets).scores
        for seed in range(3):
            generator = torch.Generator().manual_seed(seed)

            def jitter(_module: Any, _args: Any, output: Any, generator: torch.Generator = generator) -> Any:
                if not isinstance(output, torch.Tensor) or not output.is_floating_point():
                    return None
                noise = torch.randn(output.shape, generator=generator, dtype=output.dtype)
                return output + 4 * torch.finfo(output.dtype).eps * output.detach().abs() * noise

            hooks = [module.register_forward_hook(jitter) for module in case.net.steps.modules()]
            try:
                moves.append(float((gradient.explain(inputs, case.targets).scores - scores).abs().max()))
            finally:
                for hook in hooks:
                    hook.remove()
    return max(moves)


def _last_digits(case: Case, explainer: Any, values: Points) -> float:
    """How much the values change with the last digits of the parameters: a method may differ by this much."""
    parameters = list(case.net.parameters())
    before, moves = [p.detach().clone() for p in parameters], []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p, b in zip(parameters, before, strict=True):
                p.copy_(
                    b * (1 + 4 * torch.finfo(b.dtype).eps * torch.randn(b.shape, generator=generator, dtype=b.dtype))
                )
        moves.append(_distance(flatten(explainer.attribute(case.inputs, case.targets))[0], values))
    with torch.no_grad():
        for p, b in zip(parameters, before, strict=True):
            p.copy_(b)
    return max(moves)


def _at_layer(case: Case, r: random.Random) -> Iterator[str]:
    """The gradient at what a step of the net returned."""
    index = r.randrange(len(case.net.steps))
    layer = f"steps.{index}"
    expected = Reference(case).gradients_at(case.net.steps[index])
    for name in ("gradient", "integrated_gradients"):
        explainer = _explainer(case, name, layer=layer)
        if name == "gradient":
            value = explainer.attribute(case.inputs, case.targets)
            if value.shape != expected.shape:
                yield f"{name} at {layer}: shape {tuple(value.shape)} for {tuple(expected.shape)}"
            elif (error := _distance((value,), (expected,))) > 1e-8:
                yield f"{name} at {layer} is {error:.2g} from the reference"
        elif not bool(explainer.attribute(case.inputs, case.targets).isfinite().all()):
            yield f"{name} at {layer}: not finite"


def _float32(case: Case, r: random.Random) -> Iterator[str]:
    """The same net in float32 and in bfloat16: shapes, finite values, a sample alone in float32."""
    single = in_dtype(case, torch.float32)
    explainer = _explainer(single, "gradient")
    values = flatten(explainer.attribute(single.inputs, single.targets))[0]
    if any(v.dtype != torch.float32 or not bool(v.isfinite().all()) for v in values):
        yield f"gives {[v.dtype for v in values]}, finite: {[bool(v.isfinite().all()) for v in values]}"
    inputs, targets = single.rows(1, 2)
    alone = flatten(explainer.attribute(inputs, targets))[0]
    error = _distance(alone, tuple(v[1:2] for v in values), scale=values)
    if error > 1e-3 and error > 100 * _last_digits(single, explainer, values):
        yield f"a sample alone is {error:.2g} from the same in a batch"
    half = in_dtype(case, torch.bfloat16)
    try:
        half.net(*(a.clone() for a in half.arguments))
    except Exception:  # noqa: BLE001 torch has no such kernel
        return
    explainer = _explainer(half, "gradient")
    if any(v.dtype != torch.bfloat16 for v in flatten(explainer.attribute(half.inputs, half.targets))[0]):
        yield "bfloat16 gives another type"


def _derivative(case: Case, name: str) -> Iterator[str]:
    """The derivative of a penalty on the explanation."""
    return derivative_violations(case, _explainer(case, name), name)


def _masks(points: Points) -> Points:
    """Three groups for each of the inputs, none shared."""
    return tuple(
        (torch.arange(p.numel()) * 3 // p.numel() + 3 * i).view(p.shape) for i, p in enumerate(points)
    )  # fmt: skip


def _distance(values: Points, expected: Points, scale: Points | None = None) -> float:
    """The largest difference, as a share of the largest expected value."""
    largest = max(float(e.detach().abs().max()) for e in (scale or expected))
    differences = [float((v - e).detach().abs().max()) for v, e in zip(values, expected, strict=True)]
    return max(differences) / max(largest, 1e-9)
