"""One logit is a binary classifier for all that judges and mends; a model that squeezes takes one sample, too."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from xaikit import EXPLAINERS
from xaikit.core.errors import InvalidInputError, InvalidTypeError
from xaikit.mitigation import CDEP, JTT, RRR, Counterexamples, GroupDRO, PGDEx, assess, mend
from xaikit.shortcuts import scan

MASK = torch.tensor([1.0, 0, 0, 0])


def rows(n=80):
    x, y = torch.randn(n, 4, generator=torch.Generator().manual_seed(0)), torch.arange(n) % 2
    x[:, 1] += 2.0 * y - 1
    x[:, 0] = 6.0 * y - 3
    return x, y


class Net(nn.Module):
    """Two logits, or their difference in one of the forms in which models return one."""

    def __init__(self, form):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.form = nn.Linear(4, 2), form
        with torch.no_grad():
            self.net.weight.copy_(torch.tensor([[-0.8, -0.3, 0.2, 0.1], [0.8, 0.4, 0.1, 0.0]]))

    def forward(self, x):
        z = self.net(x)
        single = z[:, 1] - z[:, 0]
        return {"two": z, "(N,)": single, "(N, 1)": single[:, None], "squeezed": single[:, None].squeeze()}[self.form]


@pytest.mark.parametrize("form", ["(N,)", "(N, 1)", "squeezed"])
def test_one_logit_is_judged_as_two_logits_are(form):
    x, y = rows(81)  # a batch of 20 leaves one sample over
    loader = DataLoader(TensorDataset(x, y), batch_size=20)
    two, one = (
        assess(Net(f), loader, shortcut_masks=MASK, explainers=["gradient", "lrp_uniform_epsilon"], progress=False)
        for f in ("two", form)
    )
    assert one.accuracy == two.accuracy
    assert one.relies
    assert one.mass.keys() == {"gradient", "lrp_uniform_epsilon"}
    tables = [scan(Net(f), loader, progress=False).to_pandas() for f in ("two", form)]
    assert tables[0].equals(tables[1])
    with pytest.raises(InvalidInputError, match="labels must lie in 0..1"):
        assess(Net(form), (x, y + 1), shortcut_masks=MASK, progress=False)
    with pytest.raises(InvalidTypeError, match=r"pass labels.long\(\)"):
        assess(Net(form), (x, y.float()), shortcut_masks=MASK, progress=False)


@pytest.mark.parametrize("form", ["(N,)", "squeezed"])
def test_one_logit_is_mended(form):
    result = mend(Net(form), rows(), MASK, methods="counterexamples:lr=0.03", n_epochs=10, progress=False)
    assert result.before.relies
    assert not result.relies
    assert result.chosen.accuracy_exchanged > 0.75


class Squeezes(nn.Module):
    """Of one sample it returns (classes,)."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).mean((2, 3), keepdim=True).squeeze())


@pytest.mark.parametrize(
    "name",
    [
        "gradient",
        "lrp_epsilon_plus",
        "contextual_decomposition",
        "gradcam",
        "deep_lift",
        "captum.occlusion",
    ],
)
def test_one_sample_of_a_model_that_squeezes(name):
    x, y = torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 2])
    explainer = EXPLAINERS.get(name)(Squeezes())
    torch.testing.assert_close(
        explainer.attribute(x[1:2], y[1:2], seed=0),
        explainer.attribute(x[:2], y[:2], seed=0)[1:],
        rtol=1e-4,
        atol=1e-6,
    )


@pytest.mark.parametrize("mitigator", [RRR, CDEP, Counterexamples, JTT, PGDEx, GroupDRO])
@pytest.mark.parametrize("model", [Squeezes(), nn.Sequential(nn.Flatten(), nn.Linear(64, 4), Net("squeezed"))])
def test_a_last_batch_of_one_sample(mitigator, model):
    x, y = torch.rand(5, 1, 8, 8), torch.tensor([0, 1, 0, 1, 1])
    groups = {"groups": y} if mitigator is GroupDRO else {}
    model = copy.deepcopy(model)
    history = mitigator(n_epochs=1, batch_size=4).fit(model, x, y, torch.eye(8), progress=False, **groups)
    assert history.epochs[0]["total"] > 0
