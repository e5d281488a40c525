"""Models with a sparse constant, as graph networks have: each method gives what it gives with the dense one."""

import warnings

import pytest
import torch
from torch import nn

from xaikit import RRR
from xaikit.core.registries import EXPLAINERS

LEFT_OUT = ("captum", "fullgrad")  # captum needs a class; there is no convolution
NAMES = [n for n in EXPLAINERS if n not in LEFT_OUT and "cam" not in n and "captum.deep_lift" not in n]
FORMS = {
    "torch.sparse.mm": torch.sparse.mm,
    "@": lambda a, x: a @ x,
    "addmm": lambda a, x: torch.sparse.addmm(0.5 * x, a, x),
    "right": lambda a, x: (x.T @ a).T,
}


class Graph(nn.Module):
    def __init__(self, adjacency, product):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.relu, self.last = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)
        self.register_buffer("adjacency", adjacency)
        self.product = product

    def forward(self, x):
        return self.product(self.adjacency, self.last(self.relu(self.product(self.adjacency, self.first(x)))))


def sparse_and_dense(layout, form):
    torch.manual_seed(1)
    adjacency = torch.rand(6, 6) * (torch.rand(6, 6) > 0.5)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support")
        other = adjacency.to_sparse(layout=layout)
    return Graph(other, FORMS[form]).eval(), Graph(adjacency, FORMS[form]).eval()


@pytest.mark.filterwarnings("ignore:the rows of this Graph are not independent")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
@pytest.mark.parametrize("name", NAMES)
def test_as_with_the_dense_matrix(name, layout):
    x = torch.randn(6, 4)
    for form in FORMS if EXPLAINERS.get(name).SHARES_TASK_FORWARD else ("torch.sparse.mm",):
        of_sparse, of_dense = (EXPLAINERS.get(name)(m).attribute(x, 1) for m in sparse_and_dense(layout, form))
        torch.testing.assert_close(of_sparse, of_dense, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:the rows of this Graph are not independent")
@pytest.mark.parametrize("explainer", ["gradient", "lrp_epsilon_plus", "contextual_decomposition"])
def test_in_a_loss(explainer):
    x, y, mask = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2]), torch.tensor([1.0, 0, 0, 0])
    penalties, gradients = [], []
    for model in sparse_and_dense(torch.sparse_coo, "torch.sparse.mm"):
        loss = RRR(explainer=explainer, output="logit").loss(model, (x, y, mask.expand(6, 4)))
        loss.total.backward()
        penalties.append(loss.penalty.detach())
        gradients.append(model.first.weight.grad)
    torch.testing.assert_close(*penalties)
    torch.testing.assert_close(*gradients)
