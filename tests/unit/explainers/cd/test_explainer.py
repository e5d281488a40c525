"""The explainer: what it takes, what it gives, what it refuses; the model left as it was."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from xaikit.core.errors import InvalidInputError, InvalidTypeError, UnsupportedOperationError
from xaikit.explainers import ContextualDecomposition
from xaikit.explainers.cd import Decomposed, cd_rule
from xaikit.explainers.cd.registry import RULES
from xaikit.mitigation import CDEP

MASK = torch.tensor([[1.0, 0, 0, 1, 0]])


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.enter, self.norm, self.head = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.block = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5))

    def forward(self, x):
        return self.head(self.norm(F.gelu(self.block(torch.relu(self.enter(x))))))


class Text(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.head = nn.Embedding(20, 6), nn.Linear(6, 3)

    def forward(self, ids):
        return self.head(torch.tanh(self.embed(ids.clamp(min=0)).mean(1)))


@pytest.fixture
def net():
    return Net().double()


@pytest.fixture
def x():
    return torch.randn(4, 5, dtype=torch.float64)


def test_the_parts_of_a_linear_model(x):
    model = nn.Linear(5, 3, bias=False).double()
    found = ContextualDecomposition(model).decompose(x, MASK)
    assert torch.allclose(found.relevant[0], model(x * MASK))
    assert torch.allclose(found.irrelevant[0], model(x * (1 - MASK)))


def test_masks_for_all_samples_or_one_each(net, x):
    explainer = ContextualDecomposition(net)
    shared = explainer.decompose(x, MASK)
    each = explainer.decompose(x, MASK.expand(1, 4, 5))
    assert shared.relevant.shape == (1, 4, 3)
    assert torch.equal(shared.relevant, each.relevant)
    many = explainer.decompose(x, torch.eye(5))
    one = explainer.decompose(x, torch.eye(5)[3:4])
    assert torch.allclose(many.relevant[3], one.relevant[0], atol=1e-12)
    limited = explainer.set_kwargs(max_rows=3).decompose(x, torch.eye(5))
    assert torch.allclose(many.relevant, limited.relevant, atol=1e-12)
    boolean = explainer.decompose(x, MASK.bool())
    assert torch.equal(boolean.relevant, shared.relevant)


def test_an_additive_split(net, x):
    explainer = ContextualDecomposition(net)
    by_mask = explainer.set_kwargs(floor=0.0).decompose(x, MASK)
    by_part = explainer.set_kwargs(floor=0.0).decompose(x, relevant=x * MASK)
    assert torch.allclose(by_part.relevant, by_mask.relevant, atol=1e-10)
    trend = explainer.decompose(x, relevant=x.mean(1, keepdim=True).expand_as(x))
    net.eval()
    assert trend.gap(net(x)).max() < 1e-12


def test_tokens():
    model = Text()
    ids = torch.randint(0, 20, (3, 4))
    found = ContextualDecomposition(model).decompose(ids, torch.eye(4))
    assert torch.allclose(found.total, model(ids).expand(4, -1, -1), atol=1e-6)
    values = ContextualDecomposition(model).attribute(ids, 1)
    assert torch.allclose(values, found.relevant[:, :, 1].T)


def test_several_inputs(x):
    class Two(nn.Module):
        def forward(self, a, b):
            return torch.stack([(a * b).sum(1), a.sum(1)], 1)

    masks = (torch.ones(1, 5), torch.zeros(1, 5))
    found = ContextualDecomposition(Two()).decompose((x, 2 * x), masks)
    assert torch.allclose(found.relevant[0, :, 1], x.sum(1))
    assert torch.allclose(found.relevant[0, :, 0], x.square().sum(1))  # half of the product of the two
    constant = ContextualDecomposition(Two()).decompose((x, 2 * x), (MASK, None))
    assert torch.allclose(constant.relevant[0, :, 0], (2 * x.square() * MASK).sum(1))


def test_the_score_of_a_group_is_spread_over_it():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)).double()
    image = torch.rand(2, 3, 8, 8, dtype=torch.float64)
    explainer = ContextualDecomposition(model, feature_mask="grid:n_patches=4")
    values = explainer.attribute(image, torch.tensor([0, 2]))
    mask = torch.zeros(1, 8, 8)
    mask[0, 2:4, 4:6] = 1
    found = explainer.decompose(image, mask).relevant[0]
    assert torch.allclose(values[:, :, 2:4, 4:6].sum((1, 2, 3)), found[[0, 1], [0, 2]])
    assert torch.allclose(values[0, 0, 2, 4], found[0, 0] / 12)


def test_explain_reports_the_gap(net, x):
    attribution = ContextualDecomposition(net).explain(x, 1)
    assert attribution.gap.max() < 1e-12
    assert attribution.scores.shape == (4,)


def test_the_model_is_left_as_it_was(net, x):
    net.train()
    net.block.eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    result = ContextualDecomposition(net).decompose(x, MASK, create_graph=True)
    (result.relevant.sum() + net(x).sum()).backward()
    assert net.training
    assert not net.block.training
    ContextualDecomposition(net).decompose(x, MASK)
    assert net.norm.num_batches_tracked == 1  # from the plain step
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items() if "norm" not in name)


def test_autocast(net, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = ContextualDecomposition(net.float()).decompose(x.float(), MASK)
        expected = net.eval()(x.float())
        live = ContextualDecomposition(net).decompose(x.float(), MASK, create_graph=True)
        scores = ContextualDecomposition(net).attribute(x.float(), 0)
    assert expected.dtype == torch.bfloat16
    assert found.relevant.dtype == found.irrelevant.dtype == scores.dtype == torch.float32
    assert torch.allclose(found.total[0], expected.float(), atol=0.05)
    live.relevant.sum().backward()
    assert all(p.grad.dtype == torch.float32 for p in net.parameters() if p.grad is not None)


def test_wrapped_models(net, x):
    expected = ContextualDecomposition(net).decompose(x, MASK).relevant
    for wrapped in (nn.DataParallel(net), torch.compile(net)):
        assert torch.equal(ContextualDecomposition(wrapped).decompose(x, MASK).relevant, expected)
    net.block.compile()
    assert torch.equal(ContextualDecomposition(net).decompose(x, MASK).relevant, expected)


@pytest.mark.filterwarnings("ignore")
def test_distributed_models(net, x, tmp_path):
    dist = torch.distributed
    if not dist.is_available() or not dist.is_gloo_available():
        pytest.skip("torch was built without gloo")
    net.eval()  # no dropout, which would draw twice
    expected = ContextualDecomposition(net).decompose(x, MASK).relevant
    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    try:
        wrapped = nn.parallel.DistributedDataParallel(net)
        assert torch.equal(ContextualDecomposition(wrapped).decompose(x, MASK).relevant, expected)
        data = (x, torch.tensor([0, 1, 2, 0]), MASK[0])
        CDEP().loss(wrapped, data).total.backward()
        found = [p.grad.clone() for p in net.parameters()]
        net.zero_grad()
        CDEP(mode="eval").loss(net, data).total.backward()
        assert all(torch.allclose(a, p.grad) for a, p in zip(found, net.parameters(), strict=True))
    finally:
        dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
def test_scripted_models_are_refused():
    scripted = torch.jit.script(nn.Linear(5, 3))
    inner = nn.Sequential(nn.ReLU(), torch.jit.script(nn.Linear(5, 3)))
    for model in (scripted, inner):
        with pytest.raises(UnsupportedOperationError, match="before torch.jit"):
            ContextualDecomposition(model).decompose(torch.randn(2, 5), MASK)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (torch.ones(1, 4), r"must have shape \(M, \.\.\.\) broadcasting to \(5,\), or \(M, 4, \.\.\.\)"),
        (torch.ones(1, 3, 5), "with one for each sample"),
        (torch.full((1, 5), 1.5), r"masks must hold values in \[0, 1\]"),
        (torch.full((1, 5), torch.nan), r"masks must hold values in \[0, 1\]"),
        (torch.ones(0, 5), "must have shape"),
    ],
)
def test_bad_masks(net, x, masks, message):
    with pytest.raises(InvalidInputError, match=message):
        ContextualDecomposition(net).decompose(x, masks)


def test_masks_of_another_kind_of_model(x):
    numbers, tokens = nn.Sequential(nn.Flatten(), nn.Linear(12, 3)), Text()
    series, ids = torch.randn(2, 4, 3), torch.randint(0, 9, (2, 5))
    for masks in (torch.ones(1, 4), torch.ones(1, 2, 4)):
        with pytest.raises(InvalidInputError, match="looks like a token mask.*4 positions of 3 values"):
            ContextualDecomposition(numbers).decompose(series, masks)
    for masks in (torch.ones(1, 5, 6), torch.ones(1, 2, 5, 6)):
        with pytest.raises(InvalidInputError, match="looks like a mask of embeddings"):
            ContextualDecomposition(tokens).decompose(ids, masks)
    with pytest.raises(InvalidTypeError, match=r"reached `linear` in Linear '1' .* inputs\.float\(\)"):
        ContextualDecomposition(numbers).decompose(torch.ones(2, 4, 3, dtype=torch.int64), torch.ones(1, 4, 3))
    with pytest.raises(InvalidTypeError, match="takes whole token ids"):
        ContextualDecomposition(tokens).decompose(ids.float(), torch.ones(1, 5))


def test_one_mask_of_an_image_is_not_taken_for_masks_of_its_columns():
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), torch.randn(2, 3, 4, 4)
    with pytest.raises(InvalidInputError, match=r"got \(4, 4\); of a single mask pass mask\[None\]"):
        ContextualDecomposition(model).decompose(images, torch.ones(4, 4))
    with pytest.raises(InvalidInputError, match=r"single mask pass mask\[None\]"):
        ContextualDecomposition(model[1]).decompose(torch.randn(2, 48), torch.ones(48))


def test_masks_go_by_the_names_of_the_inputs():
    class Two(nn.Module):
        def forward(self, a, b):
            return 2 * a + 3 * b

    inputs = {"a": torch.randn(2, 3), "b": torch.randn(2, 3)}
    only_b = {"b": torch.ones(1, 3), "a": torch.zeros(1, 3)}
    assert torch.allclose(ContextualDecomposition(Two()).decompose(inputs, only_b).relevant[0], 3 * inputs["b"])
    with pytest.raises(InvalidInputError, match=r"the names of the inputs, \['a', 'b'\], got \['a', 'c'\]"):
        ContextualDecomposition(Two()).decompose(inputs, {"a": torch.ones(1, 3), "c": torch.ones(1, 3)})


def test_step_masks(net, x):
    class Steps(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.LSTM(3, 4, batch_first=True)

        def forward(self, x):
            return self.net(x)[0][:, -1]

    with pytest.raises(InvalidInputError, match=r"step_masks must be a tensor \(1, steps\)"):
        ContextualDecomposition(Steps()).decompose(
            torch.randn(2, 5, 3), torch.ones(1, 5, 1), step_masks=torch.ones(2, 5)
        )
    with pytest.raises(InvalidInputError, match="for the steps of an LSTM, and this .* has none"):
        ContextualDecomposition(net).decompose(x, MASK, step_masks=torch.ones(1, 5))


def test_arrays_and_lists_are_read_like_tensors(net, x):
    explainer, mask = ContextualDecomposition(net), torch.tensor([[1.0, 0, 0, 1, 0]])
    truth = explainer.decompose(x, mask)
    for inputs in (x, x.numpy(), x.tolist()):
        for masks in (mask, mask.bool(), mask.numpy(), mask.bool().numpy(), mask.int().tolist(), (mask.numpy(),)):
            assert torch.equal(explainer.decompose(inputs, masks).relevant, truth.relevant)
    part = explainer.decompose(x, relevant=(mask * x).tolist())
    assert torch.allclose(part.relevant, explainer.decompose(x, relevant=mask * x).relevant)


def test_bad_inputs(net, x):
    explainer = ContextualDecomposition(net)
    with pytest.raises(InvalidInputError, match="empty batch"):
        explainer.decompose(x[:0], MASK)
    with pytest.raises(InvalidInputError, match="exactly one"):
        explainer.decompose(x)
    with pytest.raises(InvalidTypeError, match="masks must hold numbers, got strings"):
        explainer.decompose(x, [["a", "b", "c", "d", "e"]])
    with pytest.raises(InvalidInputError, match="shape of the input"):
        explainer.decompose(x, relevant=x[:, :3])
    with pytest.raises(InvalidInputError, match="need a mask each"):
        explainer.decompose(x, (MASK, MASK))
    with pytest.raises(InvalidTypeError, match="embedding"):
        ContextualDecomposition(nn.Sequential(_Float(), nn.Linear(5, 3))).decompose(torch.randint(0, 9, (2, 5)), MASK)
    with pytest.raises(InvalidInputError, match="must have shape"):
        ContextualDecomposition(Text()).decompose(torch.randint(0, 9, (2, 5)), torch.ones(1, 5, 6))
    with pytest.raises(InvalidTypeError, match="tokens take masks"):
        ContextualDecomposition(Text()).decompose(torch.randint(0, 9, (2, 5)), relevant=torch.ones(2, 5))


class _Float(nn.Module):
    def forward(self, ids):
        return ids.float()


class Odd(nn.Module):
    def forward(self, x):
        return torch.logcumsumexp(x, 1)


def test_an_op_without_a_rule_names_itself_its_place_and_the_ways_out(x):
    model = nn.Sequential(nn.Linear(5, 5), nn.Sequential(nn.ReLU(), Odd())).double()
    with pytest.raises(UnsupportedOperationError, match=r"logcumsumexp.*Odd '1\.1'.*cd_rule.*on_missing"):
        ContextualDecomposition(model).decompose(x, MASK)
    found = ContextualDecomposition(model, on_missing="proportional").decompose(x, MASK)
    assert torch.allclose(found.total[0], model(x))
    (approximation,) = found.approximations
    assert approximation.operation == "logcumsumexp"
    assert approximation.where == "Odd '1.1'"


def test_a_rule_of_ones_own(x):
    model = nn.Sequential(nn.Linear(5, 5), Odd()).double()

    @cd_rule(torch.logcumsumexp)
    def running(function, value, dim):
        total = function(value.sums, dim + 1)
        return value.like(torch.stack([total, torch.zeros_like(total)]))

    try:
        found = ContextualDecomposition(model).decompose(x, MASK)
        assert torch.allclose(found.relevant[0], model(x))
        assert not found.irrelevant.any()
    finally:
        del RULES["logcumsumexp"]


def test_what_the_model_sees_looks_like_a_tensor(x):
    seen = {}

    class Curious(nn.Module):
        def forward(self, x):
            assert isinstance(x, torch.Tensor)
            if isinstance(x, Decomposed):  # and not a look at the plain model
                seen.update(shape=tuple(x.shape), dtype=x.dtype, length=len(x), size=x.size(1), device=x.device)
            return x * (1 if bool((x > 100).any()) else 2)

    ContextualDecomposition(Curious()).decompose(x, MASK)
    assert seen == {"shape": (4, 5), "dtype": torch.float64, "length": 4, "size": 5, "device": torch.device("cpu")}


def test_threads_do_not_meet(x):
    model, results = Net().double().eval(), {}

    def work(rules):
        explainer = ContextualDecomposition(model, rules=rules)
        results[rules] = [explainer.decompose(x, MASK).relevant for _ in range(5)]

    both = {rules: ContextualDecomposition(model, rules=rules) for rules in ("symmetric", "cdep")}
    alone = {rules: explainer.decompose(x, MASK).relevant for rules, explainer in both.items()}
    threads = [threading.Thread(target=work, args=(rules,)) for rules in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(result, alone[rules]) for rules in alone for result in results[rules])
