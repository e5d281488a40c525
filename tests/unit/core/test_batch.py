"""One batch, and one way to the batches of whatever users hold."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from xaikit import RRR
from xaikit.core.batch import Batch, count_batches, read_batch, read_batches
from xaikit.core.errors import InvalidInputError, InvalidTypeError

X, Y = torch.arange(70.0).view(10, 7), torch.arange(10) % 3
MASKS = (torch.arange(70).view(10, 7) % 2).float()
COLUMNS = MASKS[0]


class Samples(Dataset):
    """With a mask for every third sample."""

    def __len__(self):
        return 10

    def __getitem__(self, i):
        if i >= 10:
            raise IndexError(i)
        return X[i].numpy(), int(Y[i]), MASKS[i] if i % 3 == 0 else None


class Streamed(IterableDataset):
    def __iter__(self):
        return ((X[i], Y[i]) for i in range(10))


def joined(data, masks=None, **options):
    """The samples of all batches as one."""
    batches = list(read_batches(data, masks, **options))
    assert count_batches(data, options.get("rows", 256)) in (len(batches), None)
    parts = [b.masks for b in batches]
    return Batch(
        torch.cat([b.inputs for b in batches]),
        torch.cat([b.labels for b in batches]),
        None if any(p is None for p in parts) else torch.cat(parts),
    )


FORMS = {
    "tensors": (X, Y),
    "arrays": (X.double().numpy(), Y.numpy().astype(np.int16)),
    "lists": (X.tolist(), Y.tolist()),
    "a batch": Batch(X, Y),
    "a list of a batch's parts": [X, Y],
    "a list of batches": [(X[:4], Y[:4]), (X[4:], Y[4:])],
    "a tuple of batches": ((X[:4], Y[:4]), (X[4:].numpy(), Y[4:].numpy())),
    "a list of batches of lists": [(X[:4].tolist(), Y[:4].tolist()), (X[4:].tolist(), Y[4:].tolist())],
    "a loader": DataLoader(TensorDataset(X, Y), batch_size=4),
    "a data set": TensorDataset(X, Y),
    "a stream": Streamed(),
    "a generator": lambda: (b for b in [(X[:4], Y[:4]), (X[4:], Y[4:])]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", [3, 256])
def test_every_form_of_data_gives_the_samples_in_order(form, rows):
    def data():
        return FORMS[form]() if form == "a generator" else FORMS[form]

    got = joined(data(), rows=rows)
    assert torch.equal(got.inputs, X)
    assert torch.equal(got.labels, Y)
    assert got.masks is None
    for masks in (MASKS, MASKS.numpy() > 0, MASKS.tolist(), list(MASKS)):
        assert torch.equal(joined(data(), masks, rows=rows).masks, MASKS)
    assert torch.equal(joined(data(), COLUMNS.tolist(), rows=rows).masks, COLUMNS.expand(10, 7))
    some = [m if i % 4 == 0 else None for i, m in enumerate(MASKS)]
    wanted = MASKS * (torch.arange(10) % 4 == 0)[:, None]
    assert torch.equal(joined(data(), some, rows=rows).masks, wanted)


def test_masks_in_the_data():
    assert torch.equal(joined((X, Y, MASKS), rows=4).masks, MASKS)
    wanted = MASKS * (torch.arange(10) % 3 == 0)[:, None]
    assert torch.equal(joined(Samples(), rows=4).masks, wanted)
    assert torch.equal(joined(Samples(), COLUMNS, rows=4).masks, COLUMNS.expand(10, 7))  # in place of the data's


def test_arrays_take_the_precision_of_the_model():
    (batch,) = read_batches((X.numpy(), Y), model=nn.Linear(7, 2).double())
    assert batch.inputs.dtype == torch.float64


def test_targets_may_be_a_class_a_function_or_none():
    for target in (1, None, len):
        assert read_batch((X, target), targets=True).labels is target
    for number in (torch.tensor(1), np.int64(1), np.uint8(1)):
        assert type(read_batch((X, number), targets=True).labels) is int
    with pytest.raises(InvalidTypeError, match="labels must hold numbers, got NoneType"):
        read_batch((X, None))


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (X, InvalidTypeError, r"data must be \(inputs, labels\) or .* got Tensor"),
        (X.numpy(), InvalidTypeError, "got ndarray"),
        ({"x": X}, InvalidTypeError, "got dict"),
        (5, InvalidTypeError, "got int"),
        ([], InvalidInputError, "data holds no batch"),
        ([X, X, X, X], InvalidTypeError, "a batch must be .* got Tensor"),
        ((X, Y[:4]), InvalidInputError, r"labels must have shape \(10,\), one for each sample, got \(4,\)"),
        ((X, Y, MASKS[:4]), InvalidInputError, r"masks must have shape \(7,\) for all samples or .* got \(4, 7\)"),
        ((X[:0], Y[:0]), InvalidInputError, "empty batch"),
        ([(X, Y), (X, Y[:3])], InvalidInputError, "labels must have shape"),
        (TensorDataset(X), InvalidTypeError, r"samples \(x, label\) or \(x, label, mask\)"),
    ],
)
def test_wrong_data(data, error, words):
    with pytest.raises(error, match=words):
        list(read_batches(data))


def test_masks_of_another_number_and_of_a_shuffling_loader():
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    for masks, words in ((MASKS[:9], "got 9, and there are more"), (torch.cat([MASKS] * 2), "10 samples.*got 20")):
        with pytest.raises(InvalidInputError, match=words):
            list(read_batches(loader, masks))
    shuffled = DataLoader(TensorDataset(X, Y), batch_size=4, shuffle=True)
    with pytest.raises(InvalidInputError, match="the loader shuffles them; put the masks into the data set"):
        list(read_batches(shuffled, MASKS))
    assert sum(b.size for b in read_batches(shuffled, COLUMNS)) == 10
    order = [*range(9, -1, -1)]  # `fit` takes the masks by the data set's order, so that of the loader would differ
    for sampler in ({"sampler": order}, {"batch_sampler": [order[:4], order[4:]]}):
        own_order = DataLoader(TensorDataset(X, Y), **sampler)
        with pytest.raises(InvalidInputError, match="the loader has a sampler of its own; put the masks into the data"):
            list(read_batches(own_order, MASKS))
        assert sum(b.size for b in read_batches(own_order, COLUMNS)) == 10


def test_rows_and_devices_of_a_batch():
    batch = read_batch(({"a": X, "b": X.long()}, Y, (COLUMNS, MASKS.long())))
    some = batch.take([7, 0])
    assert some.size == 2
    assert torch.equal(some.inputs["b"], X.long()[[7, 0]])
    assert torch.equal(some.labels, Y[[7, 0]])
    assert torch.equal(some.masks[0], COLUMNS.expand(2, 7))
    assert torch.equal(some.masks[1], MASKS[[7, 0]])
    moved = batch.to("meta")
    assert {t.device.type for t in (*moved.inputs.values(), moved.labels, *moved.masks)} == {"meta"}


def test_labels_one_by_one_are_labels_and_no_batches():
    with pytest.raises(InvalidInputError, match=r"got \(10, 1\); of a column pass labels\[:, 0\]"):
        next(read_batches((X, list(Y[:, None]))))


def test_a_list_of_single_samples_is_refused():
    lists = {
        "numbers": [(x, int(y)) for x, y in zip(X, Y, strict=True)],
        "tensors": list(zip(X, Y, strict=True)),
        "two": [(X[0], 0), (X[1], 1)],
        "masks": [(x, int(y), None) for x, y in zip(X, Y, strict=True)],
        "dicts": [{"x": x, "label": y.item()} for x, y in zip(X, Y, strict=True)],
        "lists": [(x.tolist(), float(y)) for x, y in zip(X, Y, strict=True)],
    }
    for data in lists.values():
        for targets in (False, True):
            with pytest.raises(InvalidInputError, match=r"single samples .* pass .*DataLoader\(data, batch_size=64"):
                list(read_batches(data, targets=targets))
        with pytest.raises(InvalidInputError, match="holds single samples"):
            RRR(n_epochs=1).fit(nn.Linear(7, 3), data, shortcut_masks=MASKS[0], progress=False)
    (batch,) = read_batches(DataLoader(lists["numbers"], batch_size=64))  # what the message says
    assert torch.equal(batch.inputs, X)
    assert torch.equal(batch.labels, Y)
    with pytest.raises(InvalidInputError, match="holds single samples"):
        list(read_batches([(X[0], 1), (X[1], 1)]))
    for sizes, classes in (((5, 5), (1, 1)), ((4, 6), (0, 1))):  # batches with a class for all of each
        batches = read_batches(list(zip(X.split(sizes), classes, strict=True)), targets=True)
        assert [(batch.size, batch.labels) for batch in batches] == list(zip(sizes, classes, strict=True))


PANDAS_MASKS = {
    "a series for all": lambda pd, marks: pd.Series(marks),
    "a frame": lambda pd, marks: pd.DataFrame([marks] * 4),
    "booleans": lambda pd, marks: pd.Series(marks).astype(bool),
}


@pytest.mark.parametrize("order", [("age", "race", "height"), ("race", "height", "age")])
@pytest.mark.parametrize("form", PANDAS_MASKS)
def test_masks_of_pandas_go_by_the_names_of_the_columns(form, order):
    pd = pytest.importorskip("pandas")
    table, labels = pd.DataFrame(np.random.rand(4, 3), columns=["age", "race", "height"]), np.arange(4) % 2
    masks = PANDAS_MASKS[form](pd, {name: int(name == "race") for name in order})
    model = nn.Linear(3, 2)
    by_name = RRR().loss(model, (table, labels, masks)).penalty
    assert torch.equal(by_name, RRR().loss(model, (table.to_numpy(), labels, np.array([0, 1, 0]))).penalty)
    by_position = RRR().loss(model, (table, labels, masks.to_numpy())).penalty
    assert torch.equal(by_position, by_name) == (order[1] == "race")


def test_masks_of_pandas_for_each_sample_and_for_each_input():
    pd = pytest.importorskip("pandas")
    table, labels = pd.DataFrame(np.random.rand(2, 3), columns=["age", "race", "height"]), np.arange(2)
    mask = pd.Series({"race": 1, "height": 0, "age": 0})
    assert read_batch((table, labels, [mask, None])).masks.tolist() == [[0, 1, 0], [0, 0, 0]]
    by_name = read_batch(({"a": table, "b": table}, labels, {"b": mask})).masks
    assert by_name["b"].tolist() == [[0, 1, 0]] * 2
    first, second = read_batch(((table, table), labels, (mask, mask.to_numpy()))).masks
    assert (first[0].tolist(), second[0].tolist()) == ([0, 1, 0], [1, 0, 0])


def test_an_empty_dict_of_masks_is_refused():
    x, labels = torch.rand(4, 3), torch.arange(4) % 2
    for inputs in (x, {"input": x}):
        with pytest.raises(InvalidInputError, match="by its name, and this one is empty"):
            read_batch((inputs, labels, {}))
        with pytest.raises(InvalidInputError, match="by its name, and this one is empty"):
            RRR(n_epochs=1).fit(nn.Linear(3, 2), inputs, labels, {}, progress=False)


def test_masks_of_pandas_with_other_names_are_refused():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame(np.random.rand(4, 3), columns=["age", "race", "height"])
    for names in (["age", "race", "sex"], ["age", "race"], ["age", "race", "race"]):
        with pytest.raises(
            InvalidInputError, match=r"masks names the columns .* pass masks.to_numpy\(\) to go by position"
        ):
            read_batch((table, np.zeros(4, int), pd.Series([1] * len(names), index=names)))
    assert read_batch((table, np.zeros(4, int), pd.Series([0, 1, 0]))).masks[0].tolist() == [0, 1, 0]
