"""`xaikit list` says what the registries say."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from xaikit import core
from xaikit.cli.main import app

KINDS = [
    "explainers",
    "metrics",
    "mitigators",
    "factors",
    "baselines",
    "feature_masks",
    "poolings",
    "normalizations",
    "modalities",
]


def listed(*arguments: str) -> Any:
    return json.loads(CliRunner().invoke(app, ["list", *arguments, "--json"], catch_exceptions=False).stdout)


def test_everything_registered_is_there() -> None:
    found = listed()
    assert list(found) == KINDS
    for kind in KINDS:
        registry = getattr(core, kind.upper())
        assert [item["name"] for item in found[kind]] == list(registry)
        for item in found[kind]:
            cls = registry.get(item["name"])
            assert set(item["settings"]) == set(cls.SETTINGS)
            assert {n for n, s in item["settings"].items() if s["tunable"]} == set(cls.TUNABLES)
            assert item.get("differentiable") == getattr(cls, "DIFFERENTIABLE", None)


def test_ranges_and_sources() -> None:
    ((item,),) = listed("smoothgrad").values()
    assert item["settings"]["noise_level"] == {
        "default": 0.1,
        "required": False,
        "tunable": True,
        "choices": None,
        "range": [0.05, 0.95],
        "meaning": "noise std as a fraction of each sample's range",
    }
    assert item["settings"]["noise"]["choices"] == ["gaussian", "antithetic", "sobol"]
    assert item["source"] == "Smilkov et al. 2017, arXiv:1706.03825"
    assert "2017" not in item["summary"]


@pytest.mark.parametrize("kind", KINDS)
def test_one_kind(kind: str) -> None:
    assert list(listed(kind)) == [kind]


def test_text_names_shared_settings_once() -> None:
    text = CliRunner().invoke(app, ["list", "explainers"], catch_exceptions=False).stdout
    assert "token (required): the token's id" in CliRunner().invoke(app, ["list", "baselines"]).stdout
    assert text.count("forward_arg_extractor=None: picks the explained") == 1
    assert "* noise_level=0.1 (0.05 .. 0.95): noise std" in text
    assert "gradient  [differentiable; Simonyan et al. 2014, arXiv:1312.6034]" in text
