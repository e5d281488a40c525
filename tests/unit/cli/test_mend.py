"""mend, assess and compare: against the library called directly; exit codes; wrong calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from xaikit.cli.assess import Assess
from xaikit.cli.demo_digits import make_network
from xaikit.cli.groups import read_groups
from xaikit.cli.mend import _judgements
from xaikit.core.errors import UnknownNameError
from xaikit.mitigation import Counterexamples, assess, mend

NETWORK = "xaikit.cli.demo_digits:make_network"
# The network has ten outputs, and these data two classes.
pytestmark = pytest.mark.filterwarnings("ignore:8 of the model's 10 outputs")
DATA = ("--data", "c.npz", "--model", NETWORK, "--weights", "fooled.pt")


@pytest.fixture(scope="module")
def planted() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Two classes told by a corner, and by the lower half; the mask; the weights of a model that follows the corner."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(160) % 2
    x = 0.3 * torch.rand(160, 1, 12, 12, generator=generator)
    x[:, :, 6:] += 0.06 * y.view(-1, 1, 1, 1)
    x[:, :, :3, :3] = y.view(-1, 1, 1, 1).float()
    mask = torch.zeros(12, 12)
    mask[:3, :3] = 1
    model = make_network()
    train = Counterexamples(lambda_ce=0.0, lr=3e-3, n_epochs=6, batch_size=16, random_state=0)
    train.fit(model, x, y, mask, progress=False)
    return x, y, mask, model.state_dict()


@pytest.fixture(autouse=True)
def files(planted: tuple[torch.Tensor, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the current folder."""
    monkeypatch.chdir(tmp_path)
    x, y, mask, weights = planted
    np.savez("c.npz", x=x.numpy(), y=y.numpy())
    np.save("m.npy", mask.numpy())
    torch.save(weights, "fooled.pt")


def batches(x: torch.Tensor, y: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """As the command reads them, so that the same donors are drawn."""
    return [(x[i : i + 32], y[i : i + 32]) for i in range(0, len(y), 32)]


def model_with(weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    model = make_network()
    model.load_state_dict(weights)
    return model


@pytest.mark.nightly
def test_mend_is_the_library(
    leave: Callable[..., int], planted: tuple[torch.Tensor, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    x, y, mask, weights = planted
    flags = ("--mask", "m.npy", "--epochs", "1", "--out", "new/mended.pt", "--json", "--quiet", "--seed", "1")
    assert leave("mend", *DATA, *flags, "--budget", "3") == 0
    said = json.loads(capsys.readouterr().out)
    samples = (x, y, mask.expand(160, 12, 12))
    result = mend(model_with(weights), samples, "region", n_epochs=1, budget=3, seed=1, progress=False)
    assert said["verdict"] == result.verdict
    assert said["relies"] is result.relies
    assert said["mitigator"] == result.method
    written = torch.load("new/mended.pt", weights_only=True)
    assert all(torch.equal(written[name], value) for name, value in result.model.state_dict().items())
    assert json.loads(Path("new/mended.json").read_text())["comparison"]["rows"]["after"] == [result.after.row()]
    assert {p.name for p in Path("new").iterdir()} == {"mended.pt", "mended.json"}
    assert leave("report", "--assessment", "new/mended.json", "--out", "r.html") == 0


def test_assess_and_its_exit_code(
    leave: Callable[..., int], planted: tuple[torch.Tensor, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    x, y, mask, weights = planted
    truth = assess(model_with(weights), batches(x, y), shortcut_masks=mask, progress=False)
    assert leave("assess", *DATA, "--mask", "m.npy", "--explainer", "gradient", "--json", "--quiet") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["assessment"]["accuracy"] == truth.accuracy
    assert said["assessment"]["mass"] == truth.mass
    assert said["verdict"] == truth.verdict
    assert leave("assess", *DATA, "--mask", "m.npy", "--fail-if-relies", "--quiet", "--out", "a.json") == 3
    assert json.loads(Path("a.json").read_text())["relies"] is True
    assert "still relies on it" in capsys.readouterr().out
    # By the factor, the corner is the same region.
    assert leave("assess", *DATA, "--factor", "corner:size=3", "--json", "--quiet") == 0
    by_factor = json.loads(capsys.readouterr().out)["assessment"]["accuracy"]
    assert by_factor == {name: truth.accuracy[name] for name in ("kept", "randomised", "flipped")}
    # Several are exchanged together; the last one is not all that counts.
    assert leave("assess", *DATA, "--factor", "corner:size=3", "--factor", "brightness", "--json", "--quiet") == 0
    both = json.loads(capsys.readouterr().out)["assessment"]["accuracy"]
    factors = ["corner:size=3", "brightness"]
    assert both == assess(model_with(weights), batches(x, y), factor=factors, explainers=(), progress=False).accuracy
    assert Assess(model="a:b", data="d", factor="hue").factor == Assess(model="a:b", data="d", factor=["hue"]).factor
    # What lies elsewhere does not matter, and the code is 0.
    np.save("other.npy", np.roll(mask.numpy(), 9, 1))
    assert leave("assess", *DATA, "--mask", "other.npy", "--fail-if-relies", "--quiet") == 0


def test_compare_weights_side_by_side(
    leave: Callable[..., int], planted: tuple[torch.Tensor, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    x, y, mask, weights = planted
    torch.save(make_network().state_dict(), "plain.pt")
    both = ("--weights", "fooled=fooled.pt", "--weights", "plain=plain.pt", "--mask", "m.npy")
    call = ("compare", "--data", "c.npz", "--model", NETWORK, *both, "--quiet")
    assert leave(*call, "--json") == 0
    said = json.loads(capsys.readouterr().out)
    for name, state in (("fooled", weights), ("plain", make_network().state_dict())):
        truth = assess(model_with(state), batches(x, y), shortcut_masks=mask, explainers=(), progress=False)
        assert said["comparison"]["rows"][name] == [truth.row()]
        assert said["verdicts"][name] == [truth.verdict]
    assert "fooled" in said["relying"]
    assert leave(*call, "--fail-if-relies", "--out", "c.json") == 3
    assert "fooled: still relies on it" in capsys.readouterr().out
    assert json.loads(Path("c.json").read_text())["relying"] == said["relying"]


def test_mend_by_groups_alone(leave: Callable[..., int], planted: tuple[torch.Tensor, ...]) -> None:
    names = [f"{label} {'north' if i % 5 else 'south'}" for i, label in enumerate(planted[1].tolist())]
    Path("g.txt").write_text("\n".join(names) + "\n")
    method = ("--method", "group_balanced:lr=0.001", "--epochs", "1")
    assert leave("mend", *DATA, "--groups", "g.txt", *method, "--quiet") == 0
    found = json.loads(Path("mended.json").read_text())["mend"]
    assert found["shortcut"] == "the groups"
    assert found["tries"][1]["method"].startswith("group_balanced")
    assert all(0 <= row["worst_group"] <= 1 for row in found["tries"])


def test_groups_are_read_from_files_and_columns(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("age,place\n3,sea\n4,land\n")
    (tmp_path / "g.csv").write_text("file,group\na.png,sea\nb.png,land\n")
    (tmp_path / "one.csv").write_text("where\nsea\nland\n")
    (tmp_path / "g.txt").write_text("sea\nland\n")
    np.save(tmp_path / "g.npy", np.array(["sea", "land"]))
    for name in ("g.csv", "one.csv", "g.txt", "g.npy"):
        assert read_groups(str(tmp_path / name), "c.npz") == ["sea", "land"]
    assert read_groups("place", str(tmp_path / "t.csv")) == ["sea", "land"]
    with pytest.raises(UnknownNameError, match="has no column 'places'; did you mean 'place'"):
        read_groups("places", str(tmp_path / "t.csv"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["mend", *DATA, "--groups", "none.txt"], "--groups must be a file"),
        (
            ["mend", *DATA, "--groups", "m.npy", "--validation", "c.npz"],
            "name that of --validation with --validation-groups",
        ),
        (["mend", *DATA], "mend needs the shortcut: --mask or --mask-names say where it is, --factor what"),
        (["assess", *DATA], "assess needs the shortcut"),
        (["assess", *DATA, "--mask", "m.npy", "--factor", "hue"], "by --mask or by --factor, not by both"),
        (["assess", *DATA, "--factor", "hues"], "unknown factor 'hues'; did you mean 'hue'"),
        (["assess", *DATA, "--mask", "m.npy", "--out", "a.txt"], "--out must end in .json, got 'a.txt'"),
        (["mend", *DATA, "--mask", "m.npy", "--out", "m.bin"], "--out must end in .pt, got 'm.bin'"),
        (["mend", *DATA, "--mask", "m.npy", "--assessment", "a.txt"], "--assessment must end in .json"),
        (["mend", *DATA, "--mask", "m.npy", "--budget", "soon"], "a number of trainings, such as 3, or a time"),
        (["mend", *DATA, "--mask", "m.npy", "--budget", "0"], "at least one training, got 0"),
        (["mend", *DATA, "--mask", "m.npy", "--method", "rr"], "unknown mitigator 'rr'; did you mean 'rrr'"),
        (["mend", *DATA, "--mask", "m.npy", "--max-loss", "2"], "--max-loss must be"),
        (["mend", *DATA, "--factor", "hue"], "three channels"),
        (
            ["compare", *DATA[:4], "--weights", "a=fooled.pt", "--mask", "m.npy"],
            "--weights NAME=FILE at least twice, got 1",
        ),
        (["compare", *DATA[:4], "--weights", "a", "--weights", "b=b.pt", "--mask", "m.npy"], "reads NAME=FILE"),
    ],
)
def test_wrong_calls(
    leave: Callable[..., int], capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    assert leave(*arguments, "--quiet") == 2
    assert words in capsys.readouterr().err


def test_groups_that_are_classes_have_their_names_on_the_page() -> None:
    x, y = torch.tensor([[1.0, 0.5], [1.0, -0.5], [-1.0, 0.5], [-1.0, -0.5]]), torch.tensor([0, 0, 1, 1])
    mask = torch.tensor([1.0, 0.0])
    assessment = assess(torch.nn.Linear(2, 2), (x, y), shortcut_masks=mask, progress=False)
    result = SimpleNamespace(before=assessment, after=assessment, method="rrr")
    judged = _judgements(result, ["benign", "malignant"])
    assert (
        set(judged["before"]["groups"]["kept"]) == set(judged["after"]["groups"]["flipped"]) == {"benign", "malignant"}
    )
    assert _judgements(result, ())["before"] == assessment.to_dict()
