"""One reader for labels and targets, with one sentence for each wrong form."""

import numpy as np
import pandas as pd
import pytest
import torch

from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.labels import read_classes, read_labels

FORMS = [
    np.array([0, 1, 2, 1], dtype) for dtype in ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", ">i4")
]
FORMS += [[0, 1, 2, 1], (0, 1, 2, 1), [np.int64(0), 1, 2, 1], list(torch.tensor([0, 1, 2, 1])), pd.Series([0, 1, 2, 1])]
FORMS += [torch.tensor([0, 1, 2, 1], dtype=torch.int32), pd.Series([0, 1, 2, 1], dtype="Int64")]
FORMS += [np.array([0, 1, 2, 1], object), pd.Series([0, 1, 2, 1], dtype=object), pd.DataFrame({"class": [0, 1, 2, 1]})]
FORMS += [
    pd.Categorical([0, 1, 2, 1]),
    torch.tensor([0, 1, 2, 1]).to_sparse(),
    torch.tensor([0, 1, 2, 1]).to(torch.uint16),
]
FORMS += [pd.Series([0, 1, 2, 1], index=[9, 8, 7, 6]), np.array([0, 9, 1, 9, 2, 9, 1, 9])[::2]]


@pytest.mark.parametrize("labels", FORMS, ids=lambda v: f"{type(v).__name__} {getattr(v, 'dtype', '')}")
def test_any_integers_are_classes(labels):
    for read in (read_labels, read_classes):
        got = read(labels, 4)
        assert got.dtype == torch.int64
        assert got.tolist() == [0, 1, 2, 1]


def test_numbers_for_a_regression():
    assert read_labels(np.array([0.5, 1.5]), 2).tolist() == [0.5, 1.5]
    assert read_labels(np.array([[0.5], [1.5]]), 2).tolist() == [0.5, 1.5]
    assert read_labels([0.5, 2], 2).dtype == torch.float64


WRONG = {
    "strings": (["cat", "dog"], InvalidTypeError, "labels must hold numbers, got strings such as 'cat'; number the"),
    "categories": (pd.Series(["a", "b"], dtype="category"), InvalidTypeError, "got strings such as 'a'"),
    "column": ([[0], [1]], InvalidInputError, r"shape \(2,\), .* got \(2, 1\); of a column pass labels\[:, 0\]"),
    "one-hot": ([[1, 0], [0, 1]], InvalidInputError, r"got \(2, 2\); these are one-hot rows: pass labels.argmax\(1\)"),
    "several": ([[1, 1], [0, 1]], InvalidInputError, "several labels .*mend would train this"),
    "none of several": ([[0, 0], [0, 1]], InvalidInputError, "to train on several labels for each sample"),
    "map": (np.zeros((2, 3, 3), int), InvalidInputError, "to judge a class of it pass"),
    "scores": ([[0.9, 0.1], [0.2, 0.8]], InvalidInputError, r"got \(2, 2\); of scores pass labels.argmax\(1\)"),
    "length": ([0, 1, 1], InvalidInputError, r"labels must have shape \(2,\), one for each sample, got \(3,\)"),
    "scalar": (1, InvalidInputError, r"labels must have shape \(2,\), one for each sample, got \(\)"),
    "NaN": ([0.0, float("nan")], InvalidInputError, "labels must be finite, got NaN or inf in sample 1"),
    "missing": (pd.Series([0, None], dtype="Int64"), InvalidInputError, "labels must be finite, .* sample 1"),
    "booleans": ([True, False], InvalidTypeError, "labels must be whole class indices, got booleans; if these are"),
    "booleans of several": ([[True, True], [False, True]], InvalidInputError, "several labels .*mend would train this"),
    "ragged": ([[0], [1, 2]], InvalidInputError, "labels must hold rows of one length"),
    "complex": (np.array([1j, 2]), InvalidTypeError, "real numbers, got complex128"),
    "one-hot frame": (pd.DataFrame(np.eye(2)), InvalidInputError, r"pass labels.to_numpy\(\).argmax\(1\)"),
    "hidden": (np.ma.array([0, 1], mask=[False, True]), InvalidInputError, "labels must hold no hidden entries"),
    "no device": (torch.zeros(2, dtype=torch.long, device="meta"), InvalidInputError, "the device 'meta', which holds"),
    "objects": (np.array([0, "cat"], object), InvalidTypeError, "an array of objects such as str"),
    "None": ([0, None], InvalidTypeError, "an array of objects such as NoneType"),
}


@pytest.mark.parametrize("form", WRONG)
def test_each_wrong_form_has_its_sentence(form):
    labels, error, words = WRONG[form]
    for read in (read_labels, read_classes):
        with pytest.raises(error, match=words) as caught:
            read(labels, 2)
        assert "\n" not in str(caught.value)


def test_floats_are_no_classes_and_a_class_is_one_of_the_outputs():
    with pytest.raises(
        InvalidTypeError,
        match=r"got torch.float64 numbers with whole values; if they are classes, pass labels.long\(\)",
    ):
        read_classes(np.array([0.0, 1.0]), 2)
    with pytest.raises(
        InvalidTypeError,
        match=r"numbers such as 0.5; numbers are labels of a regression.* above a threshold, \(labels > t\).long\(\)",
    ):
        read_classes([0.5, 1.0], 2)
    # Targets of a regression: its one output needs none, and integers would be no better.
    with pytest.raises(InvalidTypeError, match="such as 0.5; for a model with a single output, .* pass None") as caught:
        read_classes([0.5, 1.0], 2, what="targets")
    assert "long()" not in str(caught.value)
    with pytest.raises(InvalidTypeError, match=r"if they are classes, pass targets.long\(\), .* pass None$"):
        read_classes([0.0, 1.0], 2, what="targets")
    for labels, got in (([0, 3], 3), ([-1, 0], -1)):
        with pytest.raises(InvalidInputError, match=f"labels must lie in 0..2 for a model with 3 outputs, got {got}"):
            read_classes(labels, 2, n_classes=3)


@pytest.mark.parametrize(
    ("labels", "remedy"),
    [
        ([1, 2, 1], r"got 2; number the classes from 0 on: labels - 1"),
        ([0, -100, 1], r"got -100; samples without a label are left out: inputs\[labels >= 0\], labels\[labels >= 0\]"),
        ([0, 1, 7], "got 7$"),
    ],
)
def test_labels_that_are_no_outputs_have_a_remedy(labels, remedy):
    with pytest.raises(InvalidInputError, match=remedy):
        read_classes(labels, 3, n_classes=2)
