"""Robust training inside the mask: the worst change of what must not matter must not change the answer."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import torch
from torch import Tensor, nn

from xaikit.core import MITIGATORS, Float, Int
from xaikit.core.errors import InvalidInputError
from xaikit.core.mask_shapes import fit_masks
from xaikit.core.masks import place_of_mask
from xaikit.core.model_state import isolated
from xaikit.core.structure import flatten
from xaikit.mitigation.changed import ChangedMitigator
from xaikit.mitigation.forward import logits_of


@MITIGATORS.register("pgd_ex")
class PGDEx(ChangedMitigator):
    """Mean cross-entropy + lambda_pgd * that of the samples with the worst change of their masked region.

    The worst change is looked for by projected gradient ascent on the loss, within epsilon of each masked value (Heo et
    al. 2023, "Use perturbations when learning from explanations", arXiv:2303.06419, there PGD-Ex; the attack is that of
    Madry et al. 2018, arXiv:1706.06083). It needs no explanation and no other samples, and costs 1 + n_steps passes.
    epsilon is in units of the batch's range in each channel, and changed values stay within that range, so that 1 lets
    the region become anything that the batch shows. The model is attacked in evaluation mode.

    >>> import torch
    >>> x, y, mask = torch.rand(8, 4), torch.tensor([0, 1] * 4), torch.tensor([1.0, 0, 0, 0])
    >>> history = PGDEx(lr=0.1, random_state=0).fit(torch.nn.Linear(4, 2), x, y, mask, progress=False)
    >>> history["penalty"][-1] < history["penalty"][0]
    True
    """

    WEIGHT: ClassVar[str] = "lambda_pgd"
    EMPTY_MASK_WARNING: ClassVar[str | None] = "no sample is changed"

    lambda_pgd: Annotated[float, Float(low=1e-2, high=1e2, log=True, ge=0), "weight of the changed samples"] = 1.0
    epsilon: Annotated[float, Float(low=0.05, high=1.0, log=True, gt=0), "largest change, of the batch's range"] = 1.0
    n_steps: Annotated[int, Int(low=1, high=20, ge=1), "of the ascent"] = 7

    def _full_mask_warning(self) -> str | None:
        return "every value is changed for the worse: mask what must not matter"

    def _penalty(self, model: nn.Module, x: Any, y: Tensor, masks: Any, *, seed: int, create_graph: bool) -> Tensor:
        worst = self._worst(model, x, y, masks, seed)
        return super()._penalty(model, worst, y, None, seed=seed, create_graph=create_graph)

    def _changed_logits(self, model: nn.Module, x: Any, y: Tensor, masks: Any, seed: int) -> Tensor:  # noqa: ARG002
        return self._logits(model, x)

    def _worst(self, model: nn.Module, x: Any, y: Tensor, masks: Any, seed: int) -> Any:
        """The samples with the change of their masked region that raises the loss most, as far as the ascent gets."""
        tensors, rebuild = flatten(x)
        place = place_of_mask(masks, x) if masks is not None else None
        begin, end = (0, len(tensors)) if place is None else (place, place + 1)
        if not all(t.is_floating_point() for t in tensors[begin:end]):
            raise InvalidInputError("PGDEx changes numbers, and tokens have none; use Counterexamples")
        inside = fit_masks(masks, tensors[begin:end], what=self.MASK_NAME)
        start = [t.detach() for t in tensors[begin:end]]
        ranges = [_range(t) for t in start]
        reach = [self.epsilon * m * (high - low) for m, (low, high) in zip(inside, ranges, strict=True)]
        generator = torch.Generator().manual_seed(seed)
        changes = [r * (2 * torch.rand(r.shape, generator=generator, device="cpu").to(r) - 1) for r in reach]
        step = 2.5 / self.n_steps  # so that the steps can cross the whole range, as in the paper of the attack

        def changed(values: list[Tensor]) -> list[Tensor]:
            moved = zip(start, values, ranges, inside, strict=True)
            return [torch.where(m > 0, (t + v).clamp(low, high), t) for t, v, (low, high), m in moved]

        with isolated(model, y.device, seed), torch.enable_grad():
            for _ in range(self.n_steps):
                inputs = [t.detach().requires_grad_() for t in changed(changes)]
                logits = logits_of(model, rebuild((*tensors[:begin], *inputs, *tensors[end:])), self.head)
                loss = self.task_of(logits, self.task_labels(y, logits))
                grads = torch.autograd.grad(loss, inputs)
                changes = [
                    (v + step * r * g.sign()).clamp(-r, r) for v, r, g in zip(changes, reach, grads, strict=True)
                ]
        return rebuild((*tensors[:begin], *changed(changes), *tensors[end:]))


def _range(x: Tensor) -> tuple[Tensor, Tensor]:
    """The smallest and the largest value in each channel of the batch."""
    axes = (0, *range(2, x.ndim))
    return x.amin(axes, keepdim=True), x.amax(axes, keepdim=True)
