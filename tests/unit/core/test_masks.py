"""One reader for masks: what an axis means follows from the number of axes, and no mask is stretched."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from xaikit.core.boxes import boxes_to_masks
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.mask_shapes import fit_masks, same_proportions
from xaikit.core.masks import is_several, marked, read_masks, take_masks

N, C, H, W = 3, 2, 6, 8
IMAGES = torch.zeros(N, C, H, W)
MAP = (torch.arange(H * W).view(H, W) % 3 == 0).float()
EACH = torch.stack([MAP, 1 - MAP, MAP.flip(0)])


def fitted(mask, x=IMAGES, explained=None):
    return fit_masks(read_masks(mask, x), (x.float() if explained is None else explained,), (x,))[0]


SHARED = {
    "tensor": MAP,
    "booleans": MAP.bool(),
    "array of booleans": MAP.numpy() > 0,
    "array of float64": MAP.double().numpy(),
    "array of bytes": MAP.numpy().astype(np.uint8),
    "lists": MAP.tolist(),
    "with one channel": MAP[None],
    "with all axes": MAP[None, None],
    "unsigned": MAP.to(torch.uint16),
    "8 bits, floating point": MAP.to(torch.float8_e4m3fn),
    "sparse": MAP.to_sparse(),
    "objects": MAP.numpy().astype(object),
    "picture of bits": Image.fromarray(MAP.numpy().astype(np.uint8) * 255).convert("1"),
    "frame": pd.DataFrame(MAP.numpy()),
    "twice as large": MAP.repeat_interleave(2, 0).repeat_interleave(2, 1),
}


@pytest.mark.parametrize("form", SHARED)
def test_one_map_for_all_images(form):
    assert torch.equal(fitted(SHARED[form]), MAP.expand(N, C, H, W))


PER_SAMPLE = {
    "tensor": EACH,
    "array": EACH.numpy(),
    "with one channel": EACH[:, None],
    "nested lists": EACH.tolist(),
    "list of tensors": list(EACH),
    "list of arrays": [m.numpy().astype(bool) for m in EACH],
    "list of lists in arrays": [np.array(m.tolist()) for m in EACH],
    "list with channels": [m[None] for m in EACH],
    "list of pictures": [Image.fromarray(m.numpy().astype(np.uint8) * 255).convert("1") for m in EACH],
}


@pytest.mark.parametrize("form", PER_SAMPLE)
def test_one_map_for_each_image(form):
    assert torch.equal(fitted(PER_SAMPLE[form]), EACH[:, None].expand(N, C, H, W))


@pytest.mark.parametrize("size", [4, 6])
def test_three_axes_are_one_map_for_each_image_also_where_the_number_equals_the_height(size):
    images = torch.zeros(size, size, size, size)
    masks = torch.rand(size, size, size)
    assert torch.equal(fitted(masks, images), masks[:, None].expand_as(images))
    assert torch.equal(fitted(masks[0], images), masks[0].expand_as(images))


@pytest.mark.parametrize("masks", [[None] * N, [MAP, None, None], [None, EACH[1].numpy(), None], list(EACH)])
def test_none_in_a_list_marks_nothing(masks):
    got = fitted(masks)
    for row, mask in zip(got, masks, strict=True):
        assert torch.equal(row, torch.zeros(C, H, W) if mask is None else torch.as_tensor(mask).expand(C, H, W))


def test_series_tables_and_tokens():
    series, steps = torch.zeros(4, 7, 3), torch.tensor([1.0, 1, 0, 0, 0, 0, 0])
    for mask in (steps, steps.expand(4, 7), steps.view(1, 7, 1), steps.numpy(), steps.tolist()):
        assert torch.equal(fitted(mask, series), steps.view(1, 7, 1).expand(4, 7, 3))
    signals = torch.zeros(4, 3, 7)
    for mask in (steps, steps.expand(4, 7), steps.view(1, 1, 7)):
        assert torch.equal(fitted(mask, signals), steps.expand(4, 3, 7))
    table, columns = torch.zeros(4, 3), torch.tensor([1.0, 0, 1])
    for mask in (columns, columns.bool(), columns.expand(4, 3), [1, 0, 1], pd.Series([True, False, True])):
        assert torch.equal(fitted(mask, table), columns.expand(4, 3))
    ids, words = torch.zeros(4, 5, dtype=torch.long), torch.tensor([0.0, 1, 0, 0, 1])
    embedded = torch.zeros(4, 5, 6)
    for mask in (words, words.expand(4, 5), [words] * 4, words.view(1, 5, 1).expand(4, 5, 6)):
        assert torch.equal(fitted(mask, ids, embedded), words.view(1, 5, 1).expand(4, 5, 6))
    assert torch.equal(fitted(words, ids), words.expand(4, 5))


def test_equal_axes_are_no_guess():
    square, steps = torch.zeros(4, 5, 5), torch.tensor([1.0, 0, 0, 0, 0])
    with pytest.raises(InvalidInputError, match=r"could name either axis of \(4, 5, 5\); pass \(N, 5, 1\) for steps"):
        fitted(steps, square)
    assert torch.equal(fitted(steps.view(1, 5, 1), square), steps.view(1, 5, 1).expand(4, 5, 5))
    ids = torch.zeros(4, 5, dtype=torch.long)
    assert torch.equal(fitted(steps, ids, square), steps.view(1, 5, 1).expand(4, 5, 5))  # tokens have steps only


def test_a_layer_counts_as_the_input():
    half = torch.zeros(N, 5, H // 2, W // 2)
    block = torch.zeros(H, W)
    block[:2, :4] = 1
    wanted = torch.zeros(H // 2, W // 2)
    wanted[:1, :2] = 1
    for mask in (block, block.expand(N, C, H, W), wanted):  # over the input, with channels, over the layer's map
        assert torch.equal(fitted(mask, IMAGES, half), wanted.expand_as(half))
    odd = torch.zeros(N, 5, 1, 5)  # a layer may have other proportions than its input
    assert fitted(torch.ones(H, W), IMAGES, odd).eq(1).all()
    signals, strided = torch.zeros(4, 3, 8), torch.zeros(4, 6, 4)
    steps = torch.tensor([1.0, 1, 0, 0, 0, 0, 0, 0])
    assert torch.equal(fitted(steps, signals, strided), torch.tensor([1.0, 0, 0, 0]).expand(4, 6, 4))
    series, hidden = torch.zeros(4, 8, 3), torch.zeros(4, 8, 16)
    assert torch.equal(fitted(steps, series, hidden), steps.view(1, 8, 1).expand(4, 8, 16))
    tokens = torch.zeros(N, 9, 4)  # the tokens of a vision transformer: over them, or refused
    over = torch.arange(9.0).gt(4).float()
    assert torch.equal(fit_masks(over.expand(N, 9), (tokens,))[0], over.view(1, 9, 1).expand(N, 9, 4))
    with pytest.raises(InvalidInputError, match="masks must have shape"):
        fitted(MAP, IMAGES, tokens)


def test_a_mask_of_features_is_not_stretched_over_those_of_a_layer():
    series, hidden = torch.zeros(4, 8, 3), torch.zeros(4, 8, 16)
    with pytest.raises(InvalidInputError, match="masks must have shape"):
        fitted(torch.rand(4, 8, 3), series, hidden)


WRONG = {
    "strings": ([["a"] * W] * H, InvalidTypeError, "masks must hold numbers, got strings such as 'a'; pass 1 inside"),
    "a string": ("mask.png", InvalidTypeError, "got strings such as 'mask.png'"),
    "ragged": ([[1, 0], [1]], InvalidInputError, "masks must hold rows of one length"),
    "NaN": (MAP.masked_fill(MAP > 0, float("nan")), InvalidInputError, r"values in \[0, 1\], got NaN"),
    "negative": (MAP - 0.5, InvalidInputError, r"got -0.5 to 0.5; scale them"),
    "0/255": (MAP.numpy().astype(np.uint8) * 255, InvalidInputError, r"got 0 to 255, .* 8 bits: pass masks > 127"),
    "numbered regions": (
        MAP * 2 + 1,
        InvalidInputError,
        r"got 1 to 3, as in a map that numbers regions: pass masks == 3",
    ),
    "several regions": (torch.arange(48).view(6, 8), InvalidInputError, r"numbers regions: pass masks == 47"),
    "0/65535": (MAP.numpy() * 65535, InvalidInputError, "got 0 to 65535; scale them, or compare"),
    "an array of masks": (np.array([*EACH.numpy(), None], object)[1:], InvalidTypeError, r"pass list\(masks\)"),
    "a column of masks": (pd.Series([*EACH.numpy()]), InvalidTypeError, r"pass list\(masks\)"),
    "0/2": (MAP * 2, InvalidInputError, r"got 0 to 2: pass masks > 0"),
    "other length": (EACH[:2], InvalidInputError, r"shape \(6, 8\) for all samples, .*N = 3.*; got \(2, 6, 8\)"),
    "a list of another length": ([MAP, None], InvalidInputError, r"one \(or None\) for each of 3 samples, got 2"),
    "too many axes": (torch.zeros(1, 1, 1, 1, H, W), InvalidInputError, r"masks must have shape"),
    "column": (torch.ones(N, 1), InvalidInputError, r"a map of \(3, 1\) is no scaled"),
    "other proportions": (
        torch.ones(5, 9),
        InvalidInputError,
        r"same proportions, and a map of \(5, 9\) is no scaled one of \(6, 8\)",
    ),
    "transposed": (MAP.T, InvalidInputError, r"a map of \(8, 6\) is no scaled"),
    "boxes": (np.array([[0, 0, 3, 3]] * N), InvalidTypeError, r"boxes \(x0, y0, x1, y1\); pass xaikit.boxes_to_masks"),
    "boxes in [0, 1]": (torch.rand(N, 4), InvalidTypeError, "look like boxes"),
    "a list of boxes": ([[0, 0, 3, 3]] * N, InvalidTypeError, "look like boxes"),
    "boxes of some": ([[0, 0, 3, 3], None, None], InvalidTypeError, "look like boxes"),
    "one box": ((0, 0, 3, 3), InvalidTypeError, "look like boxes"),
    "several boxes each": ([torch.rand(2, 4)] * N, InvalidTypeError, "look like boxes"),
    "shapes that differ": ([MAP, MAP.T, None], InvalidInputError, "masks of the samples must have one shape"),
}


@pytest.mark.parametrize("form", WRONG)
def test_each_wrong_form_has_its_sentence(form):
    mask, error, words = WRONG[form]
    with pytest.raises(error, match=words) as caught:
        fitted(mask)
    assert "\n" not in str(caught.value)


def test_a_column_is_no_mask_of_a_table():
    with pytest.raises(InvalidInputError, match=r"masks must have shape \(3,\) for all samples .*; got \(4, 1\)"):
        fitted(torch.ones(4, 1), torch.zeros(4, 3))


def test_masks_of_several_inputs():
    x = {"image": IMAGES, "table": torch.zeros(N, 4)}
    read = read_masks({"table": [1, 0, 0, 1], "image": MAP}, x)
    assert list(read) == ["image", "table"]
    image, table = fit_masks(read, tuple(x.values()), tuple(x.values()))
    assert torch.equal(image, MAP.expand(N, C, H, W))
    assert table.tolist() == [[1, 0, 0, 1]] * N
    with pytest.raises(InvalidInputError, match=r"got \['picture'\]; the inputs are \['image', 'table'\]"):
        read_masks({"picture": MAP}, x)
    with pytest.raises(InvalidInputError, match="of masks for the samples pass a list"):
        read_masks(tuple(EACH), IMAGES)


def test_masks_by_class_and_several_masks():
    labels = torch.tensor([2, 0, 2])
    assert torch.equal(read_masks(EACH, IMAGES, labels=labels), EACH[labels])
    assert torch.equal(
        read_masks([None, MAP, EACH[1]], IMAGES, labels=labels), torch.stack([EACH[1], 0 * MAP, EACH[1]])
    )
    with pytest.raises(InvalidInputError, match="there is a label 2, and 2 masks"):
        read_masks(EACH[:2], IMAGES, labels=labels)
    two = torch.rand(2, N, C, H, W)
    assert is_several(read_masks(two, IMAGES), IMAGES)
    assert torch.equal(take_masks(two, IMAGES, torch.tensor([2, 0])), two[:, [2, 0]])


def test_one_mask_for_all_takes_no_memory_and_some_rows_neither():
    read = read_masks(MAP, IMAGES)
    assert read.shape == (N, H, W)
    assert marked(read).shape == (1, H, W)
    some = take_masks(read, IMAGES, torch.tensor([1, 2]))
    assert some.shape == (2, H, W)
    assert some.data_ptr() == MAP.data_ptr()
    assert torch.equal(take_masks(EACH, IMAGES, torch.tensor([2])), EACH[2:])


def test_proportions_within_a_pixel():
    assert same_proportions((224, 224), (7, 7))
    assert same_proportions((33, 50), (66, 99))
    assert same_proportions((2, 3, 4), (4, 6, 8))
    for wrong in ((3, 4), (5, 6), (13, 11), (24, 12), (12,)):
        assert not same_proportions(wrong, (12, 12))
    assert not same_proportions((5, 5), (6, 5))
    assert not same_proportions((6,), (12,))


def test_boxes_to_masks():
    masks = boxes_to_masks([(1, 0, 3, 2), None, [(0, 0, 1, 1), (6.5, 4.2, 99, 99)]], (H, W))
    assert masks.shape == (3, H, W)
    assert masks[0].nonzero().tolist() == [[0, 1], [0, 2], [1, 1], [1, 2]]
    assert masks[1].sum() == 0
    assert masks[2].nonzero().tolist() == [[0, 0], [4, 6], [4, 7], [5, 6], [5, 7]]
    assert torch.equal(boxes_to_masks(np.array([[1, 0, 3, 2]]), (H, W)), masks[:1])
    assert torch.equal(boxes_to_masks(torch.tensor([[[1, 0, 3, 2], [1, 0, 2, 2]]]), (H, W)), masks[:1])
    for boxes, size, words in (
        ([(3, 0, 1, 2)], (H, W), r"x0 <= x1 and y0 <= y1, got \[3.0, 0.0, 1.0, 2.0\]; of \(x, y, width, height\)"),
        ([(3, 0, 1)], (H, W), "four numbers"),
        ([(0, 0, float("nan"), 1)], (H, W), "finite"),
        ([(0, 0, 1, 1)], 5, "size must be"),
        ([(0, 0, 1, 1)], (0, 4), "size must be"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            boxes_to_masks(boxes, size)


def test_a_map_of_one_column_is_refused_where_as_many_images_are_as_rows():
    images = torch.rand(12, 3, 12, 12)
    for mask in (torch.ones(12, 12, 1), torch.ones(12, 1, 12)):  # (H, W, 1) with its channel last, not 12 columns
        with pytest.raises(InvalidInputError, match=r"is no scaled one of \(12, 12\)"):
            fit_masks(mask, (images,))
    assert fit_masks(torch.ones(12, 1, 1), (images,))[0].all()  # whole images
    column = torch.rand(12, 3, 12, 1)
    assert fit_masks(torch.ones(12, 12, 1), (column,))[0].shape == column.shape
