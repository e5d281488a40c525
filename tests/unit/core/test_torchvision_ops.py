"""The import of torchvision beside a torch that its operators were not built for."""

from __future__ import annotations

import subprocess
import sys

import pytest

from xaikit.core import torchvision_ops
from xaikit.core.errors import MissingDependencyError


@pytest.mark.nightly
def test_a_fresh_interpreter_gets_models_and_zennit() -> None:
    code = (
        "from xaikit.core.torchvision_ops import import_torchvision as load; tv = load(); assert load() is tv;"
        "import torch; print(tuple(tv.models.resnet18().eval()(torch.zeros(1, 3, 32, 32)).shape));"
        "import zennit.torchvision"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(1, 1000)", done.stderr


def test_another_failure_is_told_with_its_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(torchvision_ops.importlib, "import_module", fail)
    with pytest.raises(MissingDependencyError, match="needs torchvision.*No module named 'torchvision'"):
        torchvision_ops.import_torchvision()
