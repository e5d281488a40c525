"""The remedy of a message on the command line is a flag."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from xaikit.cli.flags import in_flags


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("name its output with head=, a position from 0 on", "name its output with --head, a position from 0 on"),
        (
            "no setting to tune; pass space={setting: Float(low=, high=)}, ",
            "no setting to tune; name other settings with --vary, ",
        ),
        ("the data has none: give relevant_region=, where", "the data has none: give --mask, where"),
        ("pass resume=True (--resume) to go on", "pass --resume to go on"),
        ("run the same job with repair=True (--repair)", "run the same job with --repair"),
        ("measure it without layer=, or", "measure it without --layer, or"),
        ("got layer='conv1' and head={'a': 1}", "got layer='conv1' and head={'a': 1}"),  # values, not remedies
    ],
)
def test_arguments_become_flags(text: str, shown: str) -> None:
    assert in_flags(text) == shown


def test_what_a_user_of_the_shell_reads(
    leave: Callable[..., int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("flagnet.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Two(nn.Module):\n    def forward(self, x):\n"
        "        return {'a': x.flatten(1), 'b': x.flatten(1)}\n\n\nmake = Two\n"
    )
    np.save("x.npy", np.random.default_rng(0).random((2, 4), np.float32))
    assert leave("explain", "x.npy", "--model", "flagnet:make") == 2
    assert "name its output with --head, one of ['a', 'b']" in capsys.readouterr().err
    Path("set").mkdir()
    for name, size in (("a", (8, 6)), ("b", (6, 8))):
        Image.new("RGB", size).save(f"set/{name}.png")
    assert leave("explain", "--data", "set", "--model", "flagnet:make", "--head", "a", "--out", "run") == 2
    assert "bring them to one size, images with --size" in capsys.readouterr().err
