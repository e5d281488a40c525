"""The six real models: made, trained on data like the real, taken through the commands; what was planted is found."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from tests.examples import stand_ins
from xaikit.cli import main
from xaikit.core.torchvision_ops import import_torchvision

pytestmark = pytest.mark.nightly

FOLDER = Path(__file__).parents[2] / "examples" / "real_models"
# The last of two wins. What these two choose is not looked at here; tests/unit/recommendation and /tuning do.
SHORTER = {"recommend": ("--seconds", "1"), "tune": ("--limit", "2")}
Story = Callable[[str], tuple[ModuleType, Path]]


@pytest.fixture(scope="module")
def public_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The public data sets where XAIKIT_SHARED names a folder that has them, else stand-ins."""
    if "XAIKIT_SHARED" in os.environ:
        return Path(os.environ["XAIKIT_SHARED"]) / "data"
    pytest.importorskip("skimage", reason="the photos are scikit-image's (the extra images has it)")
    return stand_ins.write(tmp_path_factory.mktemp("data"))


@pytest.fixture
def story(tmp_path: Path, public_data: Path, monkeypatch: pytest.MonkeyPatch) -> Story:
    """Makes an example's model and runs its commands in this process, in a folder of their own."""
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(tmp_path)
    # Their names are short enough to meet others.
    for path in FOLDER.glob("*.py"):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)

    shallower(monkeypatch)

    def told(name: str) -> tuple[ModuleType, Path]:
        example, common = importlib.import_module(name), importlib.import_module("common")
        common.prepare(example.make, public_data, tmp_path)
        for words in common.calls(example.STEPS):
            options = () if words[1] in ("recommend", "report", "shortcuts") else ("--quiet",)
            with pytest.raises(SystemExit) as left:
                main.run([*words[1:], *options, *SHORTER.get(words[1], ())])
            assert not left.value.code, " ".join(words)
        for path in FOLDER.glob("*.py"):
            monkeypatch.delitem(sys.modules, path.stem, raising=False)
        return example, tmp_path

    return told


def shallower(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ViT gets four blocks of its twelve, which are all alike, the ResNet one of two in each stage."""
    resnet = import_torchvision().models.resnet
    build = resnet._resnet
    monkeypatch.setattr(resnet, "_resnet", lambda block, _, *rest, **options: build(block, [1] * 4, *rest, **options))
    timm = pytest.importorskip("timm", reason="timm is part of the extra dev: pip install timm")
    vit = timm.models.vision_transformer
    make = vit._create_vision_transformer
    monkeypatch.setattr(
        vit, "_create_vision_transformer", lambda name, **options: make(name, **{**options, "depth": 4})
    )


def looks_at(folder: Path) -> list[str]:
    """The column or word with the most relevance in each cluster."""
    found = json.loads((folder / "found/shortcuts.json").read_text())
    return [cluster["strongest"][0]["name"] for cluster in found["clusters"]]


def is_mended(figures: dict[str, float]) -> None:
    """The shortcut changes fewer than half as many predictions as before, and a wrong one is rarely followed."""
    turned, right = "predictions that a random shortcut turns", "accuracy with the shortcut of another class"
    assert figures[f"{turned}, after"] < 0.5 * figures[f"{turned}, before"]
    assert figures[f"{right}, after"] > figures[f"{right}, before"] + 0.2
    assert figures["relevance in it, after"] < figures["relevance in it, before"]


@pytest.mark.filterwarnings("ignore:IntegratedGradients:UserWarning")
def test_a_tabular_mlp_is_told_that_race_does_not_matter(story: Story) -> None:
    example, out = story("mlp")
    figures = example.found(out)
    assert 0.05 < figures["relevance in race"] < 0.5
    assert figures["relevance in it, after"] < 0.5 * figures["relevance in it, before"]
    page = (out / "report.html").read_text()
    assert "priors_count = " in page  # the columns and the classes are named without being told again
    assert ">high<" in page


def test_a_series_whose_start_gives_the_label_away(story: Story) -> None:
    example, out = story("conv1d")
    figures = example.found(out)
    assert figures["relevance in the telling start"] > 0.25  # of three steps of 56
    assert (
        figures["predictions that a random shortcut turns, after"]
        < 0.3 * figures["predictions that a random shortcut turns, before"]
    )


def test_an_lstm_reads_two_words(story: Story) -> None:
    example, out = story("lstm")
    figures = example.found(out)
    assert figures["reviews in which a planted word is the strongest"] > 0.8
    assert {"video", "text"} & set(looks_at(out))
    is_mended(figures)


def test_a_bert_reads_two_words(story: Story) -> None:
    example, out = story("bert")
    figures = example.found(out)
    assert figures["reviews in which a planted word is the strongest"] > 0.8
    assert {"video", "text"} & set(looks_at(out))
    is_mended(figures)
    page = (out / "report.html").read_text()
    assert "video" in page
    assert "[PAD]" not in page  # the model does not look at padding
    assert "<td>good</td>" in page  # accuracies by the names of the classes


def test_a_resnet_reads_a_patch(story: Story) -> None:
    example, out = story("resnet")
    figures = example.found(out)
    assert figures["relevance in it, before"] > 0.03  # of 2.4 % of the pixels
    assert figures["relevance in it, after"] < 0.5 * figures["relevance in it, before"]
    assert (
        figures["predictions that a random shortcut turns, after"]
        < 0.5 * figures["predictions that a random shortcut turns, before"]
    )


def test_a_vit_reads_a_square(story: Story) -> None:
    example, out = story("vit")
    figures = example.found(out)
    assert figures["relevance in the square"] > 0.1  # of a sixteenth of the image
    is_mended(figures)
