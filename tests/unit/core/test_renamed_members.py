"""Old names of the core raise an error that says the new name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import xaikit.core
from xaikit import Explainer, Gradient
from xaikit.core.errors import InvalidTypeError
from xaikit.mitigation.attributed import AttributionMitigator

NAMES = {
    "FAMILY": "IS_GENERIC",
    "GIVES_OUTPUT": "SHARES_TASK_FORWARD",
    "ONE_GRADIENT": "SINGLE_BACKWARD",
    "_apply": "run_call",
    "_provenance": "describe",
    "_portable": "serialised_settings",
}


@pytest.mark.parametrize(("old", "new"), NAMES.items())
def test_a_plugin_that_defines_an_old_name_reads_the_new_one(old, new):
    with pytest.raises(InvalidTypeError, match=f"Plugin defines {old}, which is called {new} now"):
        type("Plugin", (Gradient,), {old: True})
    assert hasattr(Explainer, new)


def test_a_mitigator_of_attributions_that_defines_an_old_name():
    with pytest.raises(InvalidTypeError, match="Plugin defines _of, which is called _attribution_penalty now"):
        type("Plugin", (AttributionMitigator,), {"_of": lambda self, attributions, masks: None})
    assert hasattr(AttributionMitigator, "_attribution_penalty")


@pytest.mark.parametrize(
    ("old", "new"),
    [("grad", "grad_of"), ("gradient", "grad_at_layers"), ("record", "on_output"), ("watched", "traced")],
)
def test_a_call_says_its_new_names(old, new):
    class Old(Explainer):
        def _attribute(self, call):
            assert hasattr(call, new)
            return getattr(call, old)(call.inputs)

    with pytest.raises(AttributeError, match=f"Call has no '{old}' any more; it is called '{new}' now"):
        Old(nn.Linear(2, 2)).attribute(torch.rand(1, 2), 0)


def test_a_module_that_was_parted(monkeypatch):
    for name, home in (("seeded", "model_state"), ("find_layer", "layers")):
        with pytest.raises(ImportError, match=f"import {name} from xaikit.core.{home}$"):
            exec(f"from xaikit.core.isolation import {name}")  # noqa: S102
    with pytest.raises(ImportError, match="neither has 'nothing' any more"):
        exec("from xaikit.core.isolation import nothing")  # noqa: S102
    monkeypatch.delattr(xaikit.core, "isolation")  # which the imports set
    with pytest.raises(AttributeError, match="has no 'isolation' any more; it is called 'model_state"):
        xaikit.core.isolation  # noqa: B018
    with pytest.raises(AttributeError, match="has no attribute 'Registri'.*Registry"):
        xaikit.core.Registri  # noqa: B018
