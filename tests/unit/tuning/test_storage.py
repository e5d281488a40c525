"""A study in a storage: killed, gone on with, shared between processes and machines."""

from __future__ import annotations

import itertools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from sqlalchemy.exc import IntegrityError, OperationalError
from torch import nn

from tests.forks import forked
from tests.unit.tuning.slow_search import search
from xaikit.core import Float
from xaikit.core.errors import InvalidInputError, InvalidTypeError, MissingDependencyError
from xaikit.explainers import SmoothGrad
from xaikit.tuning import tune
from xaikit.tuning.optuna_private import disconnect
from xaikit.tuning.study import open_storage, without_password

optuna = pytest.importorskip("optuna")


def trials_in(storage: str) -> list[optuna.trial.FrozenTrial]:
    opened = open_storage(storage)
    try:
        return optuna.load_study(study_name="shared", storage=opened).trials
    except KeyError:
        return []
    finally:
        disconnect(opened)


def finished(storage: str) -> list[optuna.trial.FrozenTrial]:
    return [trial for trial in trials_in(storage) if trial.state.is_finished()]


def wait_for(storage: str, count: int) -> None:
    end = time.monotonic() + 240
    while time.monotonic() < end:
        if len(finished(storage)) >= count:
            return
        time.sleep(0.2)
    raise AssertionError(f"no {count} trials in four minutes")


def url(kind: str, folder: Path, request: pytest.FixtureRequest) -> str:
    if kind == "postgresql":
        return request.getfixturevalue("postgresql")
    return f"sqlite:///{folder}/study.db" if kind == "sqlite" else f"{folder}/study.journal"


@pytest.mark.nightly
@pytest.mark.parametrize("kind", ["sqlite", "journal"])
def test_a_killed_search_loses_at_most_the_running_trial(kind, tmp_path, request):
    storage = url(kind, tmp_path, request)
    first = forked(search, storage, 1000, False, 0.2)
    wait_for(storage, 4)
    first.kill()
    first.join()
    before = [(trial.number, trial.state.name, trial.values) for trial in finished(storage)]
    second = forked(search, storage, 5, True, 0.0, tmp_path / "trials")
    second.join(240)
    assert second.exitcode == 0
    trials = trials_in(storage)
    assert [(t.number, t.state.name, t.values) for t in trials if t.state.is_finished()][: len(before)] == before
    assert sum(t.state.name == "COMPLETE" for t in trials) == len(before) + 5
    assert sum(t.state.name == "RUNNING" for t in trials) <= 1
    # What was waiting when the process died has been taken up.
    assert not [t for t in trials if t.state.name == "WAITING"]
    assert int((tmp_path / "trials").read_text()) in {len(before) + 5, len(before) + 6}


@pytest.mark.nightly
def test_several_open_an_empty_database_at_once(postgresql):
    """Each finds no tables, and makes them: the database refuses all but one."""
    psycopg = pytest.importorskip("psycopg")
    for name in ("first", "second"):
        with psycopg.connect(postgresql, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url = postgresql.rpartition("/")[0] + f"/{name}"
        with ThreadPoolExecutor(6) as pool:
            for opened in pool.map(lambda _, url=url: open_storage(url), range(6)):
                assert opened.get_all_studies() == []
                disconnect(opened)


@pytest.mark.parametrize(
    "message", ["UNIQUE constraint failed: alembic_version.version_num", "table studies already exists"]
)
def test_an_sqlite_file_whose_tables_another_makes_at_once_is_opened_again(tmp_path, monkeypatch, message):
    first, errors = optuna.storages.RDBStorage, [message]
    kind = IntegrityError if "UNIQUE" in message else OperationalError

    def refused_once(*args, **kwargs):
        if errors:
            raise kind("INSERT", {}, Exception(errors.pop()))
        return first(*args, **kwargs)

    monkeypatch.setattr(optuna.storages, "RDBStorage", refused_once)
    storage = open_storage(f"sqlite:///{tmp_path}/a.db")
    assert storage.get_all_studies() == []
    disconnect(storage)


@pytest.mark.nightly
def test_machines_share_a_study_on_postgresql_and_one_may_die(postgresql, tmp_path):
    """Two processes that know nothing of each other but the URL."""
    first = forked(search, postgresql, 14, False, 0.3)
    wait_for(postgresql, 1)
    second = forked(search, postgresql, 14, True, 0.3, tmp_path / "trials")
    alone = len(finished(postgresql))
    wait_for(postgresql, alone + 4)
    first.kill()
    first.join()
    second.join(240)
    assert second.exitcode == 0
    trials = trials_in(postgresql)
    done = [t for t in trials if t.state.name == "COMPLETE"]
    assert len(done) >= 14
    assert sum(t.state.name == "RUNNING" for t in trials) <= 1
    # What had been measured when a trial began is not measured again; two may begin with the same settings at once.
    measured = [t for t in done if "repeats" not in t.user_attrs]
    for a, b in itertools.permutations(measured, 2):
        assert a.params != b.params or a.datetime_complete > b.datetime_start
    assert int((tmp_path / "trials").read_text()) >= 14


@pytest.mark.parametrize("form", ["journal://{}/a", "{}/a.journal", "{}/a.log"])
def test_a_journal_file(form, tmp_path, explainer, data):
    storage = form.format(tmp_path)
    tune(explainer, "abpc", data, n_trials=3, storage=storage, study_name="a", progress=False)
    again = tune(explainer, "abpc", data, n_trials=3, storage=storage, study_name="a", resume=True, progress=False)
    assert len(again.trials) == 6
    assert len(list(tmp_path.iterdir())) == 1


def test_an_own_storage(explainer, data):
    storage = optuna.storages.InMemoryStorage()
    tune(explainer, "abpc", data, n_trials=3, storage=storage, study_name="a", progress=False)
    again = tune(explainer, "abpc", data, n_trials=2, storage=storage, study_name="a", resume=True, progress=False)
    assert len(again.trials) == 5


@pytest.fixture
def explainer():
    torch.manual_seed(1)
    return SmoothGrad(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2)), n_iter=4)


@pytest.fixture
def data():
    return torch.rand(5, 4), torch.tensor([0, 1, 0, 1, 1])


def test_a_study_of_another_search_is_named_with_the_difference(tmp_path, explainer, data):
    storage = f"{tmp_path}/a.journal"

    def search(explainer=explainer, data=data, **options):
        options = {"n_trials": 2, "storage": storage, "study_name": "a", "resume": True, "progress": False, **options}
        return tune(explainer, options.pop("metric", "abpc"), data, **options)

    search(resume=False)
    search()
    other = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    cases = [
        (
            {"explainer": explainer.set_kwargs(n_iter=7)},
            r"explainer SmoothGrad\(noise_level=0.1, n_iter=4\), now it is",
        ),
        ({"explainer": explainer.bind(other)}, r"model Sequential \("),
        ({"data": (data[0] + 1, data[1])}, r"data 5 samples in 1 batches \("),
        ({"data": (data[0], 1 - data[1])}, r"data 5 samples in 1 batches \("),
        ({"data": (data[0], 0)}, r"data 5 samples in 1 batches \("),
        ({"seed": 3}, "seed 0, now it is 3"),
        ({"metric": "morf"}, "metric AbPC.*now it is MoRF"),
        ({"space": ["n_iter"]}, "space of 'noise_level'"),
        ({"space": {"n_iter": [1, 2], "noise_level": Float(low=0.1, high=0.2)}}, "space of 'noise_level'"),
    ]
    for change, words in cases:
        with pytest.raises(InvalidInputError, match=f"study 'a' was made with {words}"):
            search(**change)
        with pytest.raises(InvalidInputError, match=f"study 'a' was made with {words}"):
            search(**change, resume=False)
    with pytest.raises(InvalidInputError, match="already holds a study 'a'"):
        search(resume=False)


def test_a_storage_that_does_not_answer(tmp_path, explainer, data):
    cases = {
        "postgresql://me:s3:cr@t@127.0.0.1:1/none": "start the PostgreSQL server",
        "postgres://me:s3:cr@t@127.0.0.1:1/none": "start the PostgreSQL server",
        f"sqlite:///{tmp_path}/no/such/study.db": "the file's folder must exist",
        f"{tmp_path}/no/such/study.journal": "must exist and be writable",
    }
    for storage, words in cases.items():
        with pytest.raises(InvalidInputError, match="does not answer") as caught:
            tune(explainer, "abpc", data, storage=storage, n_trials=1, progress=False)
        assert words in str(caught.value)
        assert "s3" not in str(caught.value)
        assert "cr@t" not in str(caught.value)
    with pytest.raises(InvalidInputError, match="must be an URL such as 'sqlite:///study.db'"):
        open_storage("study")
    with pytest.raises(InvalidInputError, match=r"foo://me:\*\*\*@host/x is no URL of a database; use 'sqlite"):
        open_storage("foo://me:secret@host/x")
    with pytest.raises(InvalidTypeError, match="must be an URL, a path or an Optuna storage"):
        open_storage(3)
    with pytest.raises(MissingDependencyError, match="needs a driver"):
        open_storage("mysql+pymysql://me:secret@localhost/none")


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("postgresql://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgresql://me:se@cr:et@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("postgresql://host/db?user=me&password=secret&x=1", "postgresql://host/db?user=me&password=***&x=1"),
        ("sqlite:///study.db", "sqlite:///study.db"),
        ("postgresql://me@host/db", "postgresql://me@host/db"),
    ],
)
def test_no_message_shows_a_password(given, shown):
    assert without_password(given) == shown
