"""A mask that a dict gives for one of several inputs is over that input, and over no other of the same shape."""

import pytest
import torch
from torch import nn

from xaikit.core.errors import InvalidInputError
from xaikit.core.mask_supply import mask_count
from xaikit.mitigation import Counterexamples, PGDEx, assess, mend
from xaikit.shortcuts import scan


class TwoTables(nn.Module):
    """The class follows column 2 of the second input alone."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(12, 2, bias=False)
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.weight[:, 8] = torch.tensor([-1.0, 1.0])

    def forward(self, a, b):
        return self.linear(torch.cat([a, b], 1))


COLUMN = torch.tensor([0.0, 0, 1, 0, 0, 0])


@pytest.fixture
def samples():
    y = torch.arange(40) % 2
    a, b = torch.randn(2, 40, 6, generator=torch.Generator().manual_seed(0))
    b[:, 2] = y * 2.0 - 1
    return {"a": a, "b": b}, y


@pytest.mark.parametrize("explainers", [(), ("gradient",)])
def test_assess_exchanges_the_input_that_the_dict_names(samples, explainers):
    settings = {"explainers": explainers, "progress": False}
    assert assess(TwoTables(), samples, shortcut_masks={"b": COLUMN}, **settings).accuracy["flipped"] == 0
    assert assess(TwoTables(), samples, shortcut_masks={"a": COLUMN}, **settings).accuracy["flipped"] == 1


def test_relevance_is_that_of_the_input_that_the_dict_names(samples):
    for name, share in (("a", 0.0), ("b", 1.0)):
        result = assess(TwoTables(), samples, shortcut_masks={name: COLUMN}, progress=False)
        assert result.mass["gradient"] == share


@pytest.mark.parametrize(("mitigator", "call"), [(Counterexamples(), "_changed_logits"), (PGDEx(), "_worst")])
def test_mitigators_change_the_input_that_the_dict_names(samples, mitigator, call):
    x, y = samples
    mask = COLUMN.expand(40, 6)
    model = TwoTables()
    changed = getattr(mitigator, call)(model, x, y, {"b": mask}, 0)
    unchanged = getattr(mitigator, call)(model, x, y, {"a": mask}, 0)
    if call == "_worst":
        changed, unchanged = model(**changed), model(**unchanged)
    assert torch.equal(unchanged, model(**x))
    assert not torch.equal(changed, model(**x))


def test_mend_and_scan_refuse_masks_of_another_input(samples):
    with pytest.raises(InvalidInputError, match="the first; got masks of others"):
        mend(TwoTables(), samples, {"b": COLUMN}, progress=False)
    with pytest.raises(InvalidInputError, match="the first; got masks of others"):
        scan(TwoTables(), samples, shortcut_masks={"b": COLUMN}, progress=False)


def test_masks_are_counted_by_the_input_that_they_are_over():
    inputs = {"table": torch.zeros(4, 6), "image": torch.zeros(4, 3, 8, 8)}
    assert mask_count({"image": torch.zeros(8, 8)}, inputs) is None
    assert mask_count({"image": torch.zeros(9, 8, 8)}, inputs) == 9
    assert mask_count({"table": torch.zeros(9, 6)}, dict(reversed(inputs.items()))) == 9


@pytest.mark.parametrize("run", [assess, mend])
def test_masks_that_mark_in_part_exchange_in_part_and_say_so(samples, run):
    (_, x), y = samples[0].values(), samples[1]
    model = nn.Linear(6, 2, bias=False)
    with torch.no_grad():
        model.weight.zero_()
        model.weight[:, 2] = torch.tensor([-1.0, 1.0])
    settings = {"shortcut_masks" if run is assess else "shortcut": 0.4 * COLUMN, "progress": False}
    with pytest.warns(UserWarning, match=r"reach 0\.4 at most, so it is exchanged in part only, .* pass masks > 0"):
        run(model, (x, y), **settings)
    assert assess(model, (x, y), shortcut_masks=COLUMN, progress=False).accuracy["flipped"] == 0  # no warning
