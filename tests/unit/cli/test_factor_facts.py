"""Every verb that exchanges a factor knows the same of the data: a normalised hue is that of the pictures."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from xaikit.cli.assess import Assess
from xaikit.cli.factor_facts import factor_facts
from xaikit.cli.mend import Mend
from xaikit.cli.scan import FactorScan
from xaikit.core import FACTORS
from xaikit.factors import DataFacts

MEAN, STD = (0.48, 0.46, 0.41), (0.23, 0.22, 0.22)
PHOTOS = SimpleNamespace(pictures=SimpleNamespace(preparation=SimpleNamespace(mean=MEAN, std=STD)))


@pytest.mark.parametrize("verb", [FactorScan, Assess, Mend])
@pytest.mark.parametrize("name", ["hue", "saturation", "brightness", "contrast", "sharpness"])
def test_a_factor_of_normalised_pictures_is_that_of_the_pictures(verb, name):
    mean, std = (torch.tensor(v)[:, None, None] for v in (MEAN, STD))
    x, donors = torch.rand(2, 4, 3, 8, 8).double().unbind()
    facts = factor_facts(verb(model="a:b", data="photos"), PHOTOS)
    factor = FACTORS.create(name)
    known = DataFacts.of(torch.cat([x, donors]), low=torch.zeros(3), high=torch.ones(3))
    normalised = DataFacts.of((torch.cat([x, donors]) - mean) / std, **facts)
    exchanged = factor.exchange((x - mean) / std, (donors - mean) / std, facts=normalised)
    torch.testing.assert_close(exchanged * std + mean, factor.exchange(x, donors, facts=known), atol=1e-5, rtol=1e-5)


def test_columns_are_told_by_their_names():
    job = Assess(model="a:b", data="people.csv")
    assert factor_facts(job, SimpleNamespace(features=["age", "race"])) == {"columns": ("age", "race")}
    assert factor_facts(job, SimpleNamespace()) == {}
