"""Lime tells how well its linear model fits: against scikit-learn's own score of the same fit, and by closed forms."""

from __future__ import annotations

import warnings

import pytest
import sklearn.linear_model
import torch
from torch import nn

from xaikit import explain_dataset
from xaikit.core import EXPLAINERS


class Parity(nn.Module):
    """Whether an even number of features is there: no linear model of them explains anything."""

    def forward(self, x):
        return torch.cos(torch.pi * (x != 0).double().sum(1, keepdim=True)) + 0 * x.sum(1, keepdim=True)


def lime(model, **settings):
    return EXPLAINERS.create("captum.lime", **settings).bind(model)


def test_the_fidelity_is_that_of_the_fit(monkeypatch):
    fits = []
    plain = sklearn.linear_model.Lasso.fit

    def fit(self, x, y, sample_weight=None):
        result = plain(self, x, y, sample_weight=sample_weight)
        fits.append(self.score(x, y, sample_weight=sample_weight))
        return result

    monkeypatch.setattr(sklearn.linear_model.Lasso, "fit", fit)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    explainer, x = lime(model, n_samples=80, alpha=1e-3), 2 * torch.randn(4, 6)
    values, fidelity = explainer.estimate(x, 1, seed=3)
    assert fidelity.tolist() == pytest.approx(fits, abs=1e-4)
    assert len(set(fits)) == 4
    assert torch.equal(values, explainer.attribute(x, 1, seed=3))
    assert "_fidelities" not in vars(explainer)


def test_a_linear_model_is_explained_and_parity_is_not():
    linear = nn.Linear(6, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lime(linear).explain(torch.ones(3, 6), 0)
    assert (lime(linear).estimate(torch.ones(3, 6), 0).fidelity > 0.98).all()
    x = torch.ones(2, 6).double()
    assert (lime(Parity()).estimate(x).fidelity < 0.2).all()
    message = r"explains less than 50 % of the scores' variance for 2 of 2 samples \(sample \d: R² = .* kernel_shapley"
    with pytest.warns(UserWarning, match=message):
        lime(Parity()).explain(x)


@pytest.mark.filterwarnings("ignore:Objective did not converge")  # scikit-learn 1.4 says so of a constant
def test_scores_that_do_not_vary_have_no_fidelity():
    class Constant(nn.Module):
        def forward(self, x):
            return 0 * x.sum(1, keepdim=True) + 1

    explainer = lime(Constant())
    assert explainer.estimate(torch.ones(1, 4)).fidelity.isnan().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "Objective did not converge")  # scikit-learn 1.4, of a constant
        explainer.explain(torch.ones(1, 4))


def test_a_run_warns_too(tmp_path):
    with pytest.warns(UserWarning, match="explains less than 50 %"):
        explain_dataset(lime(Parity(), n_samples=40), torch.ones(3, 5).double(), out=tmp_path / "run", progress=False)
