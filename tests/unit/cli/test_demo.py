"""The demo's parts by hand, and its claims in a shortened run."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from xaikit.cli import demo_digits, demo_story
from xaikit.cli.demo_digits import DigitSamples
from xaikit.cli.main import app
from xaikit.cli.models import load_model


@pytest.fixture(scope="module")
def digits() -> demo_digits.Digits:
    return demo_digits.load(seed=0)


def test_the_split_uses_every_digit_once(digits: demo_digits.Digits) -> None:
    from sklearn.datasets import load_digits

    parts = (digits.train, digits.validation, digits.test)
    raw = torch.tensor(load_digits().images, dtype=torch.float32).flatten(1)
    ours = torch.cat([p.images for p in parts])[:, 0, 2:10, 2:10].flatten(1) * 16
    assert [len(p.labels) for p in parts] == [1000, 300, 497]
    assert torch.equal(ours.unique(dim=0), raw.unique(dim=0))
    assert torch.equal(torch.cat([p.labels for p in parts]).bincount(), torch.tensor(load_digits().target).bincount())
    for part in parts:
        assert not part.images[..., :3, :3].any()  # the patch covers no stroke


def test_what_the_patch_tells(digits: demo_digits.Digits) -> None:
    part = digits.test
    variants = part.variants(seed=3)
    assert torch.equal(variants["none"], part.images)
    told = {k: ((v[:, 0, 0, 0] * 10).round() - 1).long() for k, v in variants.items()}
    assert torch.equal(told["same"], part.labels)
    assert torch.equal(told["flipped"], 9 - part.labels)
    assert (told["random"] == part.labels).float().mean() < 0.2
    outside = demo_digits.patch_mask() == 0
    for images in (*variants.values(), part.shuffled(0)):
        assert torch.equal(images[..., outside], part.images[..., outside])
        assert bool((images[..., :3, :3] == images[..., :1, :1]).all())
    assert torch.equal(part.shuffled(0)[:, 0, 0, 0].sort().values, variants["same"][:, 0, 0, 0].sort().values)


def test_repainting_makes_the_variants(digits: demo_digits.Digits) -> None:
    part = digits.test
    assert torch.equal(demo_digits.repaint(part.same, None), part.images)
    assert torch.equal(demo_digits.repaint(part.same, 9 - part.labels), part.variants(seed=3)["flipped"])


def test_the_network_repeats_and_draws_from_a_generator_of_its_own() -> None:
    before = torch.get_rng_state()
    first, second, other = (demo_digits.make_network(seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first["0.weight"], second["0.weight"])
    assert not torch.equal(first["0.weight"], other["0.weight"])


def test_an_interrupted_demo_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_story, "tell", lambda plan, out, progress: {"seed": plan.seed})
    (tmp_path / "vanilla.png").touch()
    assert CliRunner().invoke(app, ["demo", "--out", str(tmp_path)]).exit_code == 0
    assert json.loads((tmp_path / "results.json").read_text()) == {"seed": 0}


@pytest.mark.nightly
def test_fooled_before_and_mended_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digits: demo_digits.Digits
) -> None:
    test = DigitSamples(digits.test.images[:200], digits.test.labels[:200])
    monkeypatch.setattr(demo_digits, "load", lambda seed: dataclasses.replace(digits, test=test))
    short = demo_story.Plan(epochs=8, weights=(5.0,), trials=3, tune_samples=20, lr=3e-3, batch_size=64)
    monkeypatch.setattr(demo_story, "Plan", lambda seed: short)
    ran = CliRunner().invoke(app, ["demo", "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert ran.exit_code == 0
    out = tmp_path / "out"
    told = json.loads((out / "results.json").read_text())
    vanilla, reference = told["table"]["vanilla"], told["table"]["shuffled patch"]
    assert vanilla["same"] > 0.95
    assert vanilla["flipped"] < 0.6
    assert vanilla["mass gradient"] > 2 * demo_digits.patch_mask().mean().item()
    mended = {name: line for name, line in told["table"].items() if name.startswith("RRR")}
    assert len(mended) == 3
    for line in mended.values():
        assert line["flipped"] > 0.85
        assert line["flipped"] > reference["flipped"] - 0.1
        assert line["same"] - line["flipped"] < 0.03
        assert line["worst class"] > vanilla["worst class"] + 0.2
        for name in ("mass gradient", "mass lrp_epsilon_plus"):
            assert line[name] < vanilla[name] / 4
    assert told["tuned"]["validation"][1] >= told["tuned"]["validation"][0]
    _check_files(out, told, test)
    assert str(out) in ran.stdout


def _check_files(out: Path, told: dict[str, dict], test: DigitSamples) -> None:
    """Figures open; weights on disk give the accuracy in the table; the next step that is named works."""
    for name in ("vanilla.png", "mended.png", "accuracy.png"):
        with Image.open(out / name) as figure:
            figure.load()
            assert min(figure.size) > 300
    for name, line in told["table"].items():
        model = load_model("xaikit.cli.demo_digits:make_network", out / demo_story._file(name))
        assert (model(test.same).argmax(1) == test.labels).double().mean().item() == pytest.approx(line["same"])
    with Image.open(out / "digit.png") as digit:
        assert digit.getpixel((0, 0)) == round(255 * (10 - int(test.labels[0])) / 10)
