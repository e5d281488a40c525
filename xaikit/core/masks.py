"""The one reader of masks: values, and the axis of the samples. `mask_shapes` then fits them to what is explained.

A mask marks features: 1 inside, 0 outside; values in between mark a feature in part. What its axes mean follows from
the number of axes of the inputs, and never from their sizes:

=====================  =======================  ==========================  ================================
inputs                 one mask for all         one for each sample         with channels
=====================  =======================  ==========================  ================================
images (N, C, H, W)    (H, W) or (1, H, W)      (N, H, W)                   (N, C, H, W) or (1, C, H, W)
volumes (N, C, ...)    (...) or (1, ...)        (N, ...)                    (N, C, ...) or (1, C, ...)
series (N, T, D)       (T,) names steps         (N, T)                      (N, T, D), (1, T, D), (N, T, 1)
signals (N, C, L)      (L,)                     (N, L)                      (N, C, L), (1, C, L), (N, 1, L)
table (N, F)           (F,) names columns       (N, F)                      -
token ids (N, T)       (T,)                     (N, T)                      (N, T, D), over the embedding
=====================  =======================  ==========================  ================================

So (N, H, W) is always one mask for each image, also where N equals H. A *list* holds one mask, or None, for each
sample; a *tuple* or a *dict* holds one for each input of a model with several.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from xaikit.core.arrays import is_array, to_tensor
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.structure import flatten
from xaikit.core.value_ranges import range_of

WHAT = "masks"
REMEDY = "; pass 1 inside and 0 outside, of a file what numpy.load or PIL.Image.open reads"


def read_masks(masks: Any, inputs: Any, *, what: str = WHAT, labels: Any = None) -> Any:
    """Masks with one for each sample, as floating-point tensors with values in [0, 1].

    The forms that a mask may have stand at the top of this file. One mask for all samples is expanded to N without
    taking memory.

    Args:
        masks: a mask, or a list with one or None for each sample (None marks nothing); a tuple or a dict of these, one
            for each input. None stays None.
        inputs: the samples: a tensor (N, ...), or a tuple or dict of them.
        what: name of the masks in messages.
        labels: class indices (N,), where there is one mask for each class instead, (classes, ...): each sample gets
            that of its label.

    Returns:
        A tensor (N, ...), with or without an axis for the channels; of several masks for each sample, (M, N, ...); or
        a tuple or dict of them.

    Raises:
        InvalidTypeError: for strings, objects.
        InvalidInputError: for NaN, values outside [0, 1], boxes, another number of samples or of axes.
    """
    if masks is None:
        return None
    tensors = flatten(inputs)[0]
    if isinstance(masks, Mapping):
        if not masks:
            raise InvalidInputError(f"a dict of {what} holds one for each input by its name, and this one is empty")
        strangers = [k for k in masks if not isinstance(inputs, Mapping) or k not in inputs]
        if strangers:
            name_list = f"the inputs are {list(inputs)}" if isinstance(inputs, Mapping) else "the inputs have no names"
            raise InvalidInputError(
                f"a dict of {what} holds one for each input by its name, got {strangers}; {name_list}"
            )
        return {key: _read(masks[key], x, what, labels) for key, x in inputs.items() if key in masks}
    if isinstance(masks, tuple) and any(is_array(m) or isinstance(m, list) for m in masks):
        if len(masks) != len(tensors) and len(tensors) == 1:
            raise InvalidInputError(
                f"a tuple of {what} holds one for each input of the model, and there is one input, got {len(masks)}; "
                "of masks for the samples pass a list"
            )
        origins = tensors if len(tensors) == len(masks) else (tensors[0],) * len(masks)
        return tuple(_read(mask, x, what, labels) for mask, x in zip(masks, origins, strict=True))
    return _read(masks, tensors[0], what, labels)


def read_mask_values(mask: Any, *, what: str = WHAT) -> Tensor:
    """The mask as a floating-point tensor with values in [0, 1], its axes as they came.

    Args:
        mask: booleans, 0 and 1, or numbers in [0, 1], as a tensor, an array, a nested list, a picture of PIL.
        what: name of the masks in messages.

    Raises:
        InvalidTypeError: for strings, objects.
        InvalidInputError: for NaN or values outside [0, 1].
    """
    raw = to_tensor(mask, what, remedy=REMEDY)
    tensor = raw if raw.is_floating_point() else raw.float()
    if raw.dtype == torch.bool:
        return tensor
    low, high = range_of(raw)
    if math.isnan(low):
        raise InvalidInputError(f"{what} must hold values in [0, 1], got NaN")
    if low < 0 or high > 1:
        remedy = _range_remedy(tensor, low, high, what)
        raise InvalidInputError(f"{what} must hold values in [0, 1], got {low:g} to {high:g}{remedy}")
    return tensor


def _range_remedy(tensor: Tensor, low: float, high: float, what: str) -> str:
    if low < 0 or high > 255 or bool((tensor != tensor.round()).any()):
        return "; scale them, or compare them with a threshold"
    if high > 127:
        return f", as in a picture with 8 bits: pass {what} > 127"
    if low == high or (low == 0 and len(tensor.unique()) == 2):
        return f": pass {what} > 0"
    return f", as in a map that numbers regions: pass {what} == {high:g} for one of them"


def marked(mask: Tensor) -> Tensor:
    """The mask without repetitions: if one mask was expanded for all samples, the part for one sample."""
    return mask[:1] if mask.ndim and len(mask) > 1 and mask.stride(0) == 0 else mask


def is_several(mask: Tensor, x: Tensor) -> bool:
    """Whether these are several masks for each sample, (M, N, ...): one axis more than the samples have.

    Over token ids (N, T), a mask (N, T, D) is one over their embedding instead.
    """
    if mask.ndim != x.ndim + 1 or mask.shape[1] != len(x):
        return False
    return x.is_floating_point() or mask.shape[:2] != x.shape


def map_leaves(masks: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Masks as `read_masks` gives them with each tensor changed."""
    if masks is None or isinstance(masks, Tensor):
        return None if masks is None else change(masks)
    if isinstance(masks, Mapping):
        return {key: change(mask) for key, mask in masks.items()}
    return tuple(change(mask) for mask in masks)


def leaves_of(masks: Any) -> tuple[Tensor, ...]:
    """The tensors of masks as `read_masks` gives them; none for None."""
    if masks is None:
        return ()
    if isinstance(masks, Tensor):
        return (masks,)
    return tuple(masks.values() if isinstance(masks, Mapping) else masks)


def place_of_mask(masks: Any, inputs: Any) -> int | None:
    """Which of several inputs the only mask is over: the one that a dict names, else the first; None for several masks.

    Args:
        masks: as `read_masks` gives them for the inputs.
        inputs: a tensor, or a tuple or dict of them.

    >>> x = {"a": torch.zeros(4, 3), "b": torch.zeros(4, 3)}
    >>> place_of_mask({"b": torch.ones(4, 3)}, x), place_of_mask(torch.ones(4, 3), x)
    (1, 0)
    """
    if len(leaves_of(masks)) > 1:
        return None
    return list(inputs).index(next(iter(masks))) if isinstance(masks, Mapping) and masks else 0


def take_masks(masks: Any, inputs: Any, rows: Tensor) -> Any:
    """The masks of some samples, of masks as `read_masks` gives them.

    Args:
        masks: what `read_masks` returned.
        inputs: the samples that it was given.
        rows: indices of the samples, (n,).
    """
    x = flatten(inputs)[0][0]

    def rows_of(mask: Tensor) -> Tensor:
        chosen = rows.to(mask.device)
        if is_several(mask, x):
            return mask[:, chosen]
        return mask[:1].expand(len(rows), *mask.shape[1:]) if marked(mask) is not mask else mask[chosen]

    return map_leaves(masks, rows_of)


def _read(masks: Any, x: Tensor, what: str, labels: Any) -> Tensor:
    """One leaf: a mask, or a list with one for each sample or class."""
    if masks is None:
        return torch.zeros((), device=x.device).expand(x.shape)
    if labels is not None:
        return _of_labels(masks, x, what, labels)
    if isinstance(masks, list) and any(item is None or is_array(item) for item in masks):
        return _of_samples(masks, x, what, len(x), "samples")
    objects = getattr(getattr(masks, "dtype", None), "kind", "") == "O" and masks.ndim == 1
    if objects and any(m is None or is_array(m) for m in masks):
        raise InvalidTypeError(f"{what} of several samples must be a list, got an array of objects; pass list({what})")
    raw = to_tensor(masks, what, remedy=REMEDY)
    refuse_boxes(raw, x, what)
    mask = read_mask_values(raw, what=what)
    return align(mask, x, what=what)


def align(mask: Tensor, x: Tensor, *, what: str = WHAT) -> Tensor:
    """A mask with the axis of the samples first, N long; its values are not looked at.

    Args:
        mask: of the forms at the top of this file.
        x: the samples (N, ...).
        what: name of the masks in messages.

    Raises:
        InvalidInputError: for another number of samples or of axes.
    """
    return mask if is_several(mask, x) else _with_samples(mask, x, what)


def _with_samples(mask: Tensor, x: Tensor, what: str) -> Tensor:
    """The mask with the axis of the samples first, N long."""
    n, axes = len(x), mask.ndim
    tokens = not x.is_floating_point() and x.ndim == 2
    per_sample = (2, 3) if tokens else (x.ndim,) if x.ndim <= 2 else (x.ndim - 1, x.ndim)
    if axes in per_sample and len(mask) in (1, n):
        return mask.expand(n, *mask.shape[1:])
    if axes == max(1, x.ndim - 2):
        return mask.expand(n, *mask.shape)
    raise InvalidInputError(f"{what} must have shape {allowed_shapes(x)}; got {tuple(mask.shape)}")


def _of_samples(masks: list[Any], x: Tensor, what: str, count: int, units: str) -> Tensor:
    """The masks of a list as one tensor; zeros for None."""
    if len(masks) != count:
        raise InvalidInputError(
            f"a list of {what} must hold one (or None) for each of {count} {units}, got {len(masks)}"
        )
    raws = [None if m is None else to_tensor(m, what, remedy=REMEDY) for m in masks]
    present = [m for m in raws if m is not None]
    if not present:
        return torch.zeros((), device=x.device).expand(count, *x.shape[1:])
    for raw in present:
        if x.ndim > 3 and raw.ndim in (1, 2) and raw.shape[-1] == 4 and (raw.ndim == 1 or x.shape[-1] != 4):
            raise _boxes_error(raw, what)
        if raw.ndim not in _axes_of_a_sample(x):
            raise InvalidInputError(f"{what} must have shape {allowed_shapes(x)}; got {tuple(raw.shape)} for a sample")
    shapes = {tuple(m.shape) for m in present}
    if len(shapes) > 1:
        raise InvalidInputError(f"the {what} of the samples must have one shape, got {sorted(shapes)}")
    empty = torch.zeros_like(present[0])
    return read_mask_values(torch.stack([empty if m is None else m.to(empty.device) for m in raws]), what=what)


def _axes_of_a_sample(x: Tensor) -> tuple[int, ...]:
    if x.ndim <= 2:
        return (1,) if x.is_floating_point() else (1, 2)
    return (x.ndim - 2, x.ndim - 1)


def _of_labels(masks: Any, x: Tensor, what: str, labels: Any) -> Tensor:
    """The mask of each sample's label."""
    indices = labels if isinstance(labels, Tensor) else torch.tensor(labels, device="cpu")
    highest = int(range_of(indices).high)
    if isinstance(masks, list) and any(item is None or is_array(item) for item in masks):
        table = _of_samples(masks, x, what, len(masks), "classes")
    else:
        table = read_mask_values(masks, what=what)
    if table.ndim == 0 or len(table) <= highest:
        number = len(table) if table.ndim else 1
        raise InvalidInputError(
            f"mask_scope='class' needs a mask for each class, (classes, ...): there is a label {highest}, and "
            f"{number} masks"
        )
    return _with_samples(table[indices.to(table.device)], x, what)


def allowed_shapes(x: Tensor) -> str:
    """The shapes that masks of some samples may have, for a message."""
    n, per_sample = len(x), tuple(x.shape[1:])
    if x.ndim <= 2:
        return f"{per_sample} for all samples or {(n, *per_sample)}, N = {n}"
    if x.ndim == 3:
        steps, last = per_sample
        shared = f"({steps},) or ({last},)" if steps != last else f"(1, {steps}, 1) or (1, 1, {last})"
        return f"{shared} for all samples, the same with N = {n} in front, or {(n, *per_sample)}"
    return f"{per_sample[1:]} for all samples, {(n, *per_sample[1:])} or {(n, *per_sample)}, N = {n}"


def in_order_of_columns(masks: Any, inputs: Any, what: str = WHAT) -> Any:
    """Masks of pandas by the names of the inputs' columns; all others as they are, by position.

    Args:
        masks: as they came; a DataFrame has the names as columns, a Series for all samples as its index. A list holds
            one for each sample, a tuple or a dict one for each of several inputs.
        inputs: as they came.
        what: name of the masks in messages.

    Raises:
        InvalidInputError: where the names are other ones.
    """
    if isinstance(masks, list):
        return [in_order_of_columns(mask, inputs, what) for mask in masks]
    if isinstance(masks, Mapping) and isinstance(inputs, Mapping):
        return {name: in_order_of_columns(mask, inputs.get(name), what) for name, mask in masks.items()}
    if type(masks) is type(inputs) is tuple and len(masks) == len(inputs):
        return tuple(in_order_of_columns(mask, x, what) for mask, x in zip(masks, inputs, strict=True))
    columns = list(getattr(inputs, "columns", ()))
    names = list(getattr(masks, "columns", getattr(masks, "index", ()))) if hasattr(masks, "iloc") else []
    if not columns or not names or names == columns or not all(isinstance(name, str) for name in names):
        return masks
    if not len(set(columns)) == len(columns) == len(names) or set(names) != set(columns):
        raise InvalidInputError(
            f"{what} names the columns {names}, and the inputs have {columns}; name each of these once, or pass "
            f"{what}.to_numpy() to go by position"
        )
    return masks[columns]


def refuse_boxes(mask: Tensor, x: Tensor, what: str = WHAT) -> None:
    """Raise for four numbers, or rows of four, beside images, which are boxes.

    Rows of 0 and 1 pass: they may be a map of 4 columns.

    Args:
        mask: as it came.
        x: the samples.
        what: name of the masks in messages.

    Raises:
        InvalidTypeError: for boxes.
    """
    rows = mask.shape == (4,) or (mask.ndim in (2, 3) and mask.shape[-1] == 4 and len(mask) == len(x))
    if rows and x.ndim > 3 and x.shape[-1] != 4 and not bool(((mask == 0) | (mask == 1)).all()):
        raise _boxes_error(mask, what)


def _boxes_error(boxes: Tensor, what: str) -> InvalidTypeError:
    return InvalidTypeError(
        f"{what} must mark pixels, and numbers of shape {tuple(boxes.shape)} look like boxes (x0, y0, x1, y1); pass "
        "xaikit.boxes_to_masks(boxes, (height, width))"
    )
