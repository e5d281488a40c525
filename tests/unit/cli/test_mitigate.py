"""mitigate: against the library called directly, interrupted, and wrong calls."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from xaikit.cli.demo_digits import make_network
from xaikit.mitigation import RRR, assess

NETWORK = "xaikit.cli.demo_digits:make_network"
DATA = ("--data", "d.npz", "--model", NETWORK, "--weights", "w.pt")
pytestmark = pytest.mark.usefixtures("samples")


def test_mitigate_trains_as_the_library_does(
    leave: Callable[..., int], samples: tuple[torch.Tensor, torch.Tensor]
) -> None:
    x, y = samples
    np.savez("test.npz", x=x[:6].numpy(), y=y[:6].numpy())
    flags = (*DATA, "--mask", "m.npy", "--mitigator", "rrr:lambda_rrr=5,lr=0.01,n_epochs=2", "--test", "test.npz")
    assert leave("mitigate", *flags, "--out", "new/mended.pt", "--seed", "3", "--quiet") == 0
    mask = torch.from_numpy(np.load("m.npy"))
    model = make_network()
    before = assess(model, (x[:6], y[:6]), shortcut_masks=mask, seed=3, progress=False)
    RRR(lambda_rrr=5, lr=0.01, n_epochs=2, random_state=3).fit(model, x, y, mask, progress=False)
    after = assess(model, (x[:6], y[:6]), shortcut_masks=mask, seed=3, progress=False)
    written = torch.load("new/mended.pt", weights_only=True)
    assert all(torch.allclose(written[name], value, atol=1e-6) for name, value in model.state_dict().items())
    told = json.loads(Path("new/mended.json").read_text())
    assert told["before"]["accuracy"] == before.accuracy
    assert told["after"]["mass"] == pytest.approx(after.mass)
    assert told["comparison"]["rows"]["after"][0]["mass gradient"] == pytest.approx(after.mass["gradient"])
    assert {p.name for p in Path("new").iterdir()} == {"mended.pt", "mended.json"}
    again = ("--weights", "new/mended.pt", "--explainer", "gradient", "--out", "run", "--quiet")
    assert leave("explain", *DATA[:4], *again) == 0


def test_mitigate_holds_a_fifth_back_and_takes_masks_per_sample(
    leave: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    np.save("each.npy", np.repeat(np.load("m.npy")[None], 20, 0))
    flags = (*DATA, "--mitigator", "rrr:n_epochs=1", "--json", "--quiet")
    assert leave("mitigate", *flags, "--mask", "each.npy", "--save-job", "job.yaml") == 0
    capsys.readouterr()
    assert leave("run", "job.yaml") == 0
    each = json.loads(capsys.readouterr().out)
    assert (each["trained_on"], each["measured_on"]) == (16, 4)
    assert leave("mitigate", *flags, "--mask", "m.npy") == 0
    assert json.loads(capsys.readouterr().out)["after"] == each["after"]


def test_mitigate_takes_the_mask_of_a_label(
    leave: Callable[..., int], samples: tuple[torch.Tensor, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    by_class = np.random.default_rng(0).integers(0, 2, (10, 12, 12)).astype(np.float32)
    np.save("classes.npy", by_class)
    np.save("each.npy", by_class[samples[1].numpy()])
    flags = ("mitigate", *DATA, "--quiet", "--mitigator")
    assert leave(*flags, "rrr:n_epochs=1,mask_scope=class", "--mask", "classes.npy", "--out", "a.pt") == 0
    assert leave(*flags, "rrr:n_epochs=1", "--mask", "each.npy", "--out", "b.pt") == 0
    first, second = (torch.load(name, weights_only=True) for name in ("a.pt", "b.pt"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    told = [json.loads(Path(name).read_text())["after"] for name in ("a.json", "b.json")]
    assert told[0] == told[1]
    capsys.readouterr()
    np.save("few.npy", by_class[:2])
    for mask, shape in (("m.npy", "(12, 12)"), ("few.npy", "(2, 12, 12)")):
        assert leave(*flags, "rrr:mask_scope=class", "--mask", mask, "--out", "c.pt") == 2
        said = f"one map for each class; there is a label 9, and the masks have the shape {shape}"
        assert said in capsys.readouterr().err


def test_an_interrupted_training_goes_on(
    leave: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("mitigate", *DATA, "--mask", "m.npy", "--quiet", "--mitigator")
    assert leave(*flags, "rrr:n_epochs=3,lr=0.01", "--out", "whole.pt") == 0
    fit = RRR.fit

    def stopped_after_one(self: RRR, *arguments: object, **options: object) -> object:
        history = fit(self.set_kwargs(n_epochs=1), *arguments, **options)
        return type(history)(history.epochs, "interrupted")

    monkeypatch.setattr(RRR, "fit", stopped_after_one)
    assert leave(*flags, "rrr:n_epochs=3,lr=0.01", "--out", "parts.pt") == 130
    assert "the same command goes on from parts.checkpoint.pt" in capsys.readouterr().err
    assert Path("parts.checkpoint.pt").exists()
    assert not Path("parts.pt").exists()
    monkeypatch.setattr(RRR, "fit", fit)
    np.savez("other.npz", x=1 - np.load("d.npz")["x"], y=np.load("d.npz")["y"])  # as many samples
    other = ("mitigate", "--data", "other.npz", *flags[3:])
    assert leave(*other, "rrr:n_epochs=3,lr=0.01", "--out", "parts.pt") == 2
    assert "is of a training on other data (content differ)" in capsys.readouterr().err
    assert leave(*flags, "rrr:n_epochs=3,lr=0.01", "--out", "parts.pt") == 0
    assert not Path("parts.checkpoint.pt").exists()
    whole, parts = (torch.load(f"{name}.pt", weights_only=True) for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--mask", "none.png"], "there is no mask file none.png"),
        ([], "counterexamples needs --mask"),
        (["--mask", "w.pt"], "masks are read from .npy"),
        (["--mask", "m.npy", "--mitigator", "rr"], "unknown mitigator 'rr'; did you mean 'rrr'"),
        (["--mask", "m.npy", "--mitigator", "rrr:lambda=1"], "did you mean 'lambda_rrr'"),
        (["--mask", "m.npy", "--mitigator", "rrr:explainer=captum.feature_ablation"], "so it cannot be penalised"),
        (["--mask", "m.npy", "--out", "mended.bin"], "--out must end in .pt, got 'mended.bin'"),
        (["--mask", "m.npy", "--assessment", "a.txt"], "--assessment must end in .json, got 'a.txt'"),
        (["--mask", "m.npy", "--explainer", "gradiant"], "did you mean 'gradient'"),
        (["--mask", "three.npy"], "it takes one map for all samples, or one for each of 20"),
        (["--mask", "each.npy", "--test", "test.npz"], "those of --test have none"),
        (["--mask", "m.npy", "--test", "x.npy"], "--test has no labels"),
        (["--mask", "m.npy", "--test", "none.npz"], "no such file: none.npz"),
    ],
)
def test_a_wrong_call_of_mitigate(
    leave: Callable[..., int], arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.load("d.npz")["x"]
    np.save("x.npy", x)
    np.save("three.npy", np.ones((3, 12, 12), np.float32))
    np.save("each.npy", np.ones((20, 12, 12), np.float32))
    np.savez("test.npz", x=x[:4], y=np.arange(4))
    assert leave("mitigate", *DATA, "--quiet", *arguments) == 2
    assert words in capsys.readouterr().err
    assert not Path("mended.pt").exists()


def test_a_factor_is_measured_and_may_fail_the_call(
    leave: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The names of a table's columns reach the factor, and what is exchanged is what is measured."""
    (tmp_path / "small_table_net.py").write_text(
        "import torch\ndef make():\n net = torch.nn.Linear(2, 2)\n with torch.no_grad():\n"
        "  net.weight.copy_(torch.tensor([[0., -9.], [0., 9.]])); net.bias.zero_()\n return net\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    rows = [f"{i % 2 + 0.01 * i},{2 * (i % 2) - 1},{i % 2}" for i in range(40)]
    Path("t.csv").write_text("\n".join(["age,site,out", *rows]) + "\n")
    table = ("mitigate", "--data", "t.csv", "--labels", "out", "--model", "small_table_net:make", "--quiet", "--json")
    fill = "counterexamples:n_epochs=1,lr=1e-9,fill=column:names="
    assert leave(*table, "--mitigator", f"{fill}site", "--fail-if-relies") == 3
    after = json.loads(capsys.readouterr().out)["after"]
    assert after["accuracy"]["flipped"] == 0
    assert leave(*table[:-1], "--mitigator", f"{fill}site") == 0
    assert "the model still relies on it; xaikit mend tries several" in capsys.readouterr().out
    assert leave(*table, "--mitigator", f"{fill}age", "--fail-if-relies") == 0
    capsys.readouterr()
    assert leave(*table, "--mask-names", "site") == 0  # a table has a rate of its own by default, pictures another
    assert "lr=0.003" in json.loads(capsys.readouterr().out)["mitigator"]
    assert leave("mitigate", *DATA, "--mask", "m.npy", "--quiet", "--json") == 0
    assert "lr=0.001" in json.loads(capsys.readouterr().out)["mitigator"]
    assert leave(*table, "--mitigator", "jtt:n_epochs=1", "--fail-if-relies") == 2
    assert "name it with --mask or --mask-names" in capsys.readouterr().err
    assert leave(*table, "--mask-names", "site", "--channel-axis", "1") == 2
    assert "--channel-axis is about a factor" in capsys.readouterr().err
