"""What every result can do: be compared, hashed, shown, saved and read again; and what a wrong file says."""

from __future__ import annotations

import dataclasses
import json
import math
import warnings
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import xaikit.metrics
from xaikit import Attribution, ContextualDecomposition, Gradient
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.core.results import Interval, Real, Result, Stopped
from xaikit.core.value_equality import same_value, value_hash
from xaikit.explainers import AgglomerativeDecomposition

NET = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
X = torch.rand(2, 4, generator=torch.Generator().manual_seed(0))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Example(Result):
    """One field of each kind."""

    values: torch.Tensor
    numbers: np.ndarray
    intervals: tuple[Interval, ...]
    rows: list[dict[str, Real]]
    groups: dict[str, dict[object, float]]
    stopped: Stopped = Stopped.DONE
    share: Real = math.nan
    model: nn.Module | None = dataclasses.field(default=None, compare=False, repr=False)


def example(**changes) -> Example:
    settings = {
        "values": torch.tensor([[1.0, math.nan], [-math.inf, 2.0]], dtype=torch.bfloat16),
        "numbers": np.arange(3),
        "intervals": (Interval(math.nan, 1.0, math.nan, 0.95, 1), Interval(0.25, 0.5, 0.75, 0.9, 8)),
        "rows": [{"accuracy": math.nan, "loss": 0.5}],
        "groups": {"kept": {0: 1.0, "a": 0.5}},
        "stopped": Stopped.OUT_OF_TIME,
        "model": NET,
    }
    return Example(**{**settings, **changes})


RESULTS = {
    "attribution": lambda: Gradient(NET).explain(X, 0),
    "attribution of two inputs": lambda: Attribution((X, X.half()), {"name": "gradient"}, [0, 1], seed=3),
    "attribution of named inputs": lambda: Attribution({"a": X, "b": X.to(torch.complex64)}, {"name": "gradient"}),
    "decomposition": lambda: ContextualDecomposition(NET).decompose(X, torch.tensor([[1.0, 0, 0, 1]])),
    "hierarchy": lambda: AgglomerativeDecomposition(NET).hierarchy(X[:1], 1),
    "example": example,
    "interval": lambda: Interval(0.1, 0.2, math.inf, 0.95, 4),
}


@pytest.fixture(params=RESULTS)
def result(request) -> Result:
    return RESULTS[request.param]()


@pytest.mark.parametrize("suffix", [".json", ".npz", ".safetensors"])
def test_a_saved_result_comes_back_equal(result, suffix, tmp_path):
    again = type(result).load(result.save(tmp_path / f"result{suffix}"))
    assert again == result
    assert not again != result  # noqa: SIM202 - what is tested
    assert hash(again) == hash(result)
    assert repr(again) == repr(result)
    for field in dataclasses.fields(result):
        assert type(getattr(again, field.name)) is type(getattr(result, field.name)) or not field.compare


def test_plain_values_come_back_equal(result):
    plain = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert type(result).from_dict(plain) == result


def test_comparing_never_raises(result):
    for other in (result, RESULTS["attribution"](), None, 3, X, np.zeros(3), "x"):
        assert isinstance(result == other, bool) or isinstance(other, np.ndarray)
    assert len({result, result}) == 1


def test_a_difference_in_any_field_counts():
    for change in (
        {"values": torch.zeros(2, 2)},
        {"values": example().values.float()},
        {"numbers": np.arange(4)},
        {"rows": []},
        {"groups": {"kept": {"0": 1.0, "a": 0.5}}},
        {"stopped": Stopped.DONE},
        {"share": 0.5},
    ):
        assert example(**change) != example(), change
    assert example(model=None) == example()


def test_only_the_name_of_a_file_without_tensors_is_free(tmp_path):
    assert Interval.load(Interval(0, 1, 2, 0.9, 3).save(tmp_path / "table")) == Interval(0, 1, 2, 0.9, 3)
    with pytest.raises(InvalidInputError, match=r"saved as \.npz, \.safetensors or \.json, got 'a\.pt'"):
        example().save(tmp_path / "a.pt")
    assert list(tmp_path.iterdir()) == [tmp_path / "table"]


def test_what_no_file_can_hold_is_named(tmp_path):
    with pytest.raises(InvalidInputError, match=r"rows\.0\.f is a function, which no file can hold"):
        example(rows=[{"f": example}]).save(tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"result": "Evaluation"}, "of the kind Evaluation, not Example; Evaluation.load reads it"),
        ({"format": 2}, "format 2, and this xaikit reads formats up to 1; a newer xaikit wrote it"),
        ({"format": "x"}, "format 'x'"),
        ({"values": None}, "values: Input should be an instance of Tensor"),
        ({"values": {"$array": "other", "dtype": "float32"}}, "other"),
        ({"intervals": [{"low": 1}]}, "'intervals.0.mean' is missing"),
        ({"rows": [{"loss": "much"}]}, "rows.0.loss: Input should be a valid number, .* got 'much'"),
        ({"stopped": "tired"}, "stopped: .* got 'tired'"),
    ],
)
def test_a_wrong_file_names_itself_and_what_is_wrong(change, says, tmp_path):
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps({**example().to_dict(), **change}))
    with pytest.raises(InvalidInputError, match=f"wrong.json holds no Example that can be read: .*{says}") as caught:
        Example.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\xff\xfe\x00", b"null", b"{}"])
@pytest.mark.parametrize("suffix", [".json", ".npz", ".safetensors", ".txt"])
def test_a_file_of_another_kind_is_refused_in_one_sentence(content, suffix, tmp_path):
    path = tmp_path / f"other{suffix}"
    path.write_bytes(content)
    with pytest.raises(InvalidInputError, match=f"other{suffix}") as caught:
        Attribution.load(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_damaged_bytes_never_raise_anything_raw(suffix, tmp_path):
    sound = RESULTS["attribution"]().save(tmp_path / f"sound{suffix}").read_bytes()
    random, path = np.random.default_rng(0), tmp_path / f"hurt{suffix}"
    for _ in range(60):
        hurt = bytearray(sound[: random.integers(1, len(sound) + 1)])
        for at in random.integers(0, len(hurt), 8):
            hurt[at] = random.integers(256)
        path.write_bytes(bytes(hurt))
        try:
            Attribution.load(path)
        except InvalidInputError as err:
            assert path.name in str(err)  # noqa: PT017 - damage inside the values themselves cannot be seen


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz"):
        Attribution.load(tmp_path / "none.npz")


@pytest.mark.parametrize("structure", ["tensor", "tuple", "dict"])
def test_attributions_of_version_0_1_still_load(structure, tmp_path):
    names = {"tensor": ["0"], "tuple": ["0", "1"], "dict": ["a", "b"]}[structure]
    meta = {"spec": {"name": "gradient"}, "targets": [0, 1], "absorbed": None, "lost": None, "structure": structure}
    arrays = {f"values.{name}": X.numpy() for name in names}
    np.savez(tmp_path / "old.npz", meta=np.array(json.dumps(meta)), scores=np.ones(2), **arrays)
    loaded = Attribution.load(tmp_path / "old.npz")
    values = {"tensor": X, "tuple": (X, X), "dict": {"a": X, "b": X}}[structure]
    expected = Attribution(values, {"name": "gradient"}, [0, 1], torch.ones(2, dtype=torch.float64))
    assert loaded == expected
    assert type(loaded.values) is type(values)


def test_a_file_that_is_a_zip_of_something_else_names_itself(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("readme.txt", "hello")
    with pytest.raises(
        InvalidInputError, match=r"a\.npz holds no Attribution that can be read: the file is damaged, or xaikit did not"
    ):
        Attribution.load(tmp_path / "a.npz")


def test_an_interval_reads_well_and_is_no_tuple():
    interval = Interval(low=0.5, mean=0.75, high=1.0, level=0.95, n=10)
    assert interval.margin == 0.25
    assert 0.6 in interval
    assert 2.0 not in interval
    with pytest.raises(InvalidTypeError, match=r"no tuple any more; it has \.mean, \.low"):
        _mean, _low, _high = interval


def test_why_something_stopped_is_text_and_its_old_words_are_told():
    assert Stopped.DONE == "done"
    assert {"done": 1}[Stopped.DONE] == 1
    assert Stopped("epochs") is Stopped("trials") is Stopped.DONE
    with pytest.warns(FutureWarning, match="'early' is called 'early_stopping' now"):
        assert Stopped.EARLY_STOPPING != "early"
    with pytest.raises(ValueError, match="tired"):
        Stopped("tired")


@pytest.mark.parametrize(
    ("a", "b", "equal"),
    [
        (math.nan, math.nan, True),
        ([1, X], (1, X.clone()), True),
        (X, X.double(), False),
        (X, X.numpy(), False),
        (torch.empty(2, device="meta"), torch.empty(2, device="meta"), False),
        (np.array([1.0, math.nan]), np.array([1.0, math.nan]), True),
        (np.array(["a"]), np.array(["a"]), True),
        (np.array([X, None], dtype=object), np.array([X, None], dtype=object), None),
        ({"a": [X]}, {"a": [X + 1]}, False),
        ({"a": 1}, {"b": 1}, False),
        (X, None, False),
    ],
)
def test_values_compare_without_raising(a, b, equal):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert same_value(a, b) is equal or equal is None
    if same_value(a, b):
        assert value_hash(a) == value_hash(b)


def test_an_old_name_says_its_new_one():
    @dataclasses.dataclass(frozen=True, eq=False, repr=False)
    class Renaming(Result):
        RENAMED = {"dead": "inactive_settings"}
        inactive_settings: tuple[str, ...] = ()

    with pytest.raises(AttributeError, match="Renaming has no 'dead' any more; it is called 'inactive_settings' now"):
        Renaming().dead  # noqa: B018
    with pytest.raises(AttributeError, match="Renaming has no attribute 'other'"):
        Renaming().other  # noqa: B018
    with pytest.raises(
        AttributeError, match=r"xaikit\.metrics has no 'Row' any more; it is called 'EvaluationRow' now"
    ):
        xaikit.metrics.Row  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'Entropi'; did you mean 'Entropy'"):
        xaikit.metrics.Entropi  # noqa: B018


def test_a_dict_that_looks_like_our_own_marks_comes_back_as_it_is(tmp_path):
    marks = {"$values": [1.0], "$array": "x", "$items": [], "$tensor": [1.0], "dtype": "float32"}
    result = Attribution(X, {"name": "gradient", "settings": marks})
    for suffix in (".json", ".npz"):
        assert Attribution.load(result.save(tmp_path / f"a{suffix}")).spec["settings"] == marks
