"""Quantus as a peer, where it is installed."""

from __future__ import annotations

import warnings

import pytest

from xaikit.core.torchvision_ops import import_torchvision


@pytest.fixture(scope="session")
def quantus():
    import_torchvision()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("quantus")


@pytest.fixture
def by_quantus(quantus):
    """Evaluate one of Quantus' metrics on tensors, attributions as they are."""

    def run(name, model, x, y, a, call=None, **options):
        settings = {"disable_warnings": True, "display_progressbar": False, "normalise": False, "abs": False}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            metric = getattr(quantus, name)(**{**settings, **options})
            arrays = {"x_batch": x.numpy(), "y_batch": y.numpy(), "a_batch": None if a is None else a.numpy()}
            return metric(model=model.eval(), **arrays, **{"softmax": False, "device": "cpu", **(call or {})})

    return run
