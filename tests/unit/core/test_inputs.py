"""One reader for inputs: whatever users hold becomes tensors, or is refused in one sentence."""

from collections import UserDict

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from xaikit import Gradient
from xaikit.core.arrays import to_tensor
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.inputs import read_inputs

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


def net(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 2)).to(dtype)


def same(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)


def flipped(array):
    """The same values with negative strides."""
    return np.ascontiguousarray(array[::-1])[::-1]


def locked(array):
    array = array.copy()
    array.flags.writeable = False
    return array


FORMS = {
    "float64": lambda: X.double().numpy(),
    "float32": X.numpy,
    "big-endian": lambda: X.numpy().astype(">f4"),
    "long double": lambda: X.numpy().astype(np.longdouble),
    "negative strides": lambda: flipped(X.numpy()),
    "column order": lambda: np.asfortranarray(X.numpy()),
    "read only": lambda: locked(X.numpy()),
    "list": X.tolist,
    "tuple of tuples of numbers inside a list": lambda: [tuple(row) for row in X.tolist()],
    "frame": lambda: pd.DataFrame(X.numpy(), columns=["a", "b", "c"]),
    "nullable frame": lambda: pd.DataFrame(X.numpy()).astype("Float64"),
}


@pytest.mark.parametrize("form", FORMS)
def test_any_form_of_numbers_is_explained_like_the_tensor(form):
    labels = torch.tensor([0, 1, 1, 0])
    truth = Gradient(net()).attribute(X, labels)
    got = Gradient(net()).attribute(FORMS[form](), labels)
    assert got.dtype == torch.float32
    same(got, truth)
    found = Gradient(net()).explain(FORMS[form](), labels.numpy())
    same(found.values, truth)
    assert found.targets == labels.tolist()
    same(Gradient(net()).output(FORMS[form]()), net()(X).detach())


def test_arrays_take_the_precision_of_the_model_and_tensors_keep_theirs():
    assert read_inputs(X.numpy(), net(torch.float64)).dtype == torch.float64
    assert read_inputs(X.double().numpy(), net()).dtype == torch.float32
    assert read_inputs(X.double(), net()).dtype == torch.float64
    assert read_inputs(X.double().numpy()).dtype == torch.get_default_dtype()
    with pytest.raises(InvalidTypeError, match=r"float32 parameters and fails on torch.float64 inputs"):
        Gradient(net()).attribute(X.double(), 0)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "uint32", "int64", "uint64"])
def test_integers_of_any_width_are_tokens(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))
    ids = np.array([[1, 2, 3], [8, 0, 5]])
    truth = Gradient(model, layer="0").attribute(torch.tensor(ids), 1)
    same(Gradient(model, layer="0").attribute(ids.astype(dtype), 1), truth)
    same(Gradient(model, layer="0").attribute(ids.tolist(), 1), truth)


def test_booleans_stay_and_a_frame_of_integers_holds_features():
    assert read_inputs(np.array([[True, False]])).dtype == torch.bool
    frame = pd.DataFrame({"age": [30, 40], "smokes": [True, False], "weight": [70.5, 60.0]})
    read = read_inputs(frame, net())
    assert read.dtype == torch.float32
    assert read.tolist() == [[30.0, 1.0, 70.5], [40.0, 0.0, 60.0]]


def test_several_inputs_keep_their_structure():
    ids = [[1, 2], [3, 4]]
    read = read_inputs(UserDict(input_ids=ids, attention_mask=np.ones((2, 2), int)))
    assert type(read) is dict
    assert read["input_ids"].tolist() == ids
    assert read["attention_mask"].dtype == torch.int64
    assert type(read_inputs((X.numpy(), X))) is tuple
    assert type(read_inputs([X.numpy(), X])) is list
    assert [t.shape for t in read_inputs((X.tolist(), [[1], [2], [3], [4]]))] == [(4, 3), (4, 1)]
    assert read_inputs([torch.tensor(1.0), torch.tensor(2.0)]).tolist() == [1.0, 2.0]


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        ([["a", "b"]], InvalidTypeError, "inputs must hold numbers, got strings such as 'a'; turn them"),
        (np.array([["a"]], dtype=object), InvalidTypeError, "got strings such as 'a'"),
        ("text", InvalidTypeError, "inputs must hold tensors or arrays of numbers, got str"),
        (None, InvalidTypeError, "got NoneType"),
        ([[1.0, 2.0], [3.0]], InvalidInputError, "inputs must hold rows of one length, got a ragged list"),
        ([[1.0, None]], InvalidTypeError, "an array of objects such as NoneType"),
        (np.ones((2, 3), complex), InvalidTypeError, "real numbers, got complex128"),
        (np.array(["2020-01-01"], "M8[D]"), InvalidTypeError, "dates or times"),
        (pd.DataFrame({"a": [1.0], "city": ["Bern"]}), InvalidTypeError, "the column 'city' holds"),
        ({"ids": X, "text": ["a"]}, InvalidTypeError, r"inputs\['text'\] must hold numbers, got strings such as 'a'"),
        ({"ids": X, "more": None}, InvalidTypeError, "got NoneType inside a dict"),
        (np.array([[2**64 - 1]], np.uint64), InvalidInputError, "integers below"),
        (object(), InvalidTypeError, "must hold numbers, got object"),
    ],
)
def test_what_holds_no_numbers_is_refused_in_one_sentence(value, error, words):
    with pytest.raises(error, match=words) as caught:
        Gradient(net()).attribute(value, 0)
    assert "\n" not in str(caught.value)


def test_missing_values_of_pandas_are_refused_as_nan():
    frame = pd.DataFrame({"a": pd.array([1, None], "Int64"), "b": [1.0, 2.0], "c": [0.0, 0.0]})
    with pytest.raises(InvalidInputError, match="inputs must be finite, got NaN or inf in sample 1"):
        Gradient(net()).attribute(frame, 0)


def test_reading_copies_nothing_that_torch_can_share():
    array = X.clone().numpy()
    assert to_tensor(array, "x").data_ptr() == torch.from_numpy(array).data_ptr()
    assert to_tensor(X, "x") is X
