"""tune_mitigator: the weight that a validation measure asks for, and the model that came with it."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from xaikit.core import EXPLAINERS
from xaikit.core.errors import InvalidInputError, InvalidTypeError, TuningError, UnknownNameError
from xaikit.mitigation import CDEP, HINT, RRR, Counterexamples
from xaikit.tuning import TuneResult, tune, tune_mitigator


def shortcut(n=120, seed=0):
    """Feature 0 is a strong signal of the label, feature 1 a weak one. In the validation half feature 0 is random."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    x = torch.randn(n, 4, generator=generator) * 0.3
    x[:, 1] += y - 0.5
    x[:, 0] = 2.0 * y - 1
    coin = torch.randint(0, 2, (n,), generator=generator)
    other = x.clone()
    other[:, 0] = 2.0 * coin - 1
    return (x, y, torch.tensor([1.0, 0, 0, 0])), (other, y, (coin == y).long())


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))


def search(model, measure="worst_group_accuracy", *, n_epochs=1, **options):
    data, validation = shortcut()
    options = {"validation": validation, "n_trials": 6, "progress": False, **options}
    return tune_mitigator(
        RRR(n_epochs=n_epochs, lr=0.05, batch_size=40, lambda_rrr=0.01), model, data, measure, **options
    )


def test_it_finds_a_weight_that_takes_the_shortcut_away(model):
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = search(model, n_trials=8, n_epochs=4)
    assert found.default_value < 0.2
    assert found.value > 0.6
    assert found.best.lambda_rrr > 0.1
    # The model belongs to the number.
    x, y, group = shortcut()[1]
    with torch.no_grad():
        right = (found.model(x).argmax(1) == y).double()
    assert min(right[group == g].mean().item() for g in (0, 1)) == found.value
    # Training again with what was found gives the same model; the given one stays as it was.
    again = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    again.load_state_dict(before)
    found.best.fit(again, *shortcut()[0], progress=False)
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), found.model.parameters(), strict=True))
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in before.items())


@pytest.mark.nightly
def test_weight_explanation_and_its_settings_at_once(model):
    found = search(model, explainers=["gradient", "smoothgrad:n_iter=2"], space=None, n_trials=6)
    names = {name for row in found.trials for name in row["settings"]}
    assert names == {"lambda_rrr", "target", "output", "explainer", "explainer.noise_level", "explainer.n_iter"}
    assert {row["settings"]["explainer"] for row in found.trials} == {"gradient", "smoothgrad"}
    own = tune_mitigator(
        RRR(explainer="smoothgrad:n_iter=2", n_epochs=1),
        model,
        shortcut()[0],
        lambda net: 0.0,
        n_trials=2,
        progress=False,
    )
    assert set(own.trials[0]["settings"]) == {
        "lambda_rrr", "target", "output", "explainer.noise_level", "explainer.n_iter",
    }  # fmt: skip
    more = search(model, space=["lr"], explainers=["gradient", "integrated_gradients:n_steps=3"], n_trials=3)
    assert set(more.trials[0]["settings"]) == {"lr", "explainer"}


@pytest.mark.parametrize(
    ("mitigator", "names"),
    [
        (RRR(), {"lambda_rrr", "target", "output"}),
        (CDEP(), {"lambda_cdep", "form", "part", "target"}),
        (CDEP(explainer="gradient_x_input"), {"lambda_cdep", "form", "target"}),  # its parts are sums, whatever `part`
        (HINT(), {"lambda_hint", "form", "target", "output"}),
        (Counterexamples(explainer="smoothgrad"), {"lambda_ce"}),  # it uses no explanation
    ],
)
def test_what_decides_is_searched_and_what_has_no_effect_is_not(model, mitigator, names):
    mitigator = mitigator.set_kwargs(n_epochs=1, batch_size=40)
    region = "relevant_region" if mitigator.MASK_NAME == "relevant_region" else "shortcut_masks"
    x, y = shortcut()[0][:2]
    masks = {region: torch.tensor([1.0, 0, 0, 0])}
    found = tune_mitigator(mitigator, model, (x, y), lambda net: 0.0, n_trials=2, progress=False, **masks)
    searched = {name for name in found.trials[1]["settings"] if not name.startswith("explainer.")}
    assert searched == names


def test_a_measure_of_the_users_own(model):
    seen = []

    def size(net):
        seen.append((net.training, torch.is_grad_enabled()))
        return net[0].weight.abs().sum()

    found = search(model.train(), size, direction="minimize", n_trials=4)
    assert found.value == min(row["value"] for row in found.trials)
    assert found.goals[0].name == "size"
    assert seen == [(False, False)] * 4


def test_a_training_that_fails_is_a_failed_trial(model):
    def sometimes(net):
        if sometimes.count == 1:
            sometimes.count += 1
            raise ZeroDivisionError("not today")
        sometimes.count += 1
        return float(sometimes.count)

    sometimes.count = 0
    found = search(model, sometimes, n_trials=4)
    assert [row["state"] for row in found.trials] == ["complete", "failed", "complete", "complete"]
    assert found.trials[1]["error"] == "ZeroDivisionError: not today"
    with pytest.raises(TuningError, match="2 failed and 0 gave NaN; trial 0 failed with KeyError"):
        search(model, lambda net: {}["none"], n_trials=2)


def test_it_goes_on_in_its_storage(model, tmp_path):
    storage = f"{tmp_path}/a.journal"
    first = search(model, storage=storage, study_name="a", n_trials=3)
    again = search(model, storage=storage, study_name="a", n_trials=2, resume=True)
    assert again.trials[:3] == first.trials
    assert again.model is not None
    back = TuneResult.from_dict(json.loads(json.dumps(again.to_dict())))
    assert back.best == again.best
    assert back.model is None


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"measure": "acuracy"}, UnknownNameError, "unknown measure 'acuracy'; did you mean 'accuracy'"),
        ({"measure": 3}, InvalidTypeError, "measure must be a function of the model or one of"),
        ({"validation": None}, InvalidInputError, r"needs validation=\(inputs, labels, groups\)"),
        (
            {"measure": "accuracy", "validation": torch.rand(3)},
            InvalidInputError,
            r"needs validation=\(inputs, labels\)",
        ),
        (
            {"validation": (torch.rand(4, 4), [0, 1, 0, 1], [0, 1])},
            InvalidInputError,
            "groups must name one for each of the 4 samples, got 2",
        ),
        ({"direction": "up"}, InvalidInputError, "direction must be 'maximize' or 'minimize'"),
        ({"space": ["lamda_rrr"]}, UnknownNameError, "RRR cannot tune 'lamda_rrr'; did you mean 'lambda_rrr'"),
        ({"explainers": ["gradient"], "space": ["explainer"]}, InvalidInputError, "leave one out"),
        ({"measure": lambda net: "good"}, InvalidTypeError, "the measure must give a number, got 'good'"),
        ({"model": "net"}, InvalidTypeError, "takes a torch.nn.Module second, got str"),
    ],
)
def test_bad_input(model, options, error, words):
    options = dict(options)
    with pytest.raises(error, match=words):
        search(options.pop("model", model), options.pop("measure", "worst_group_accuracy"), **options)


def test_a_mitigator_with_patience_stops_by_the_same_validation_data(model):
    data, validation = shortcut()
    mitigator = RRR(n_epochs=30, patience=1, lr=0.05, batch_size=40, lambda_rrr=3.0, random_state=0)
    found = tune_mitigator(
        mitigator, model, data, "worst_group_accuracy", validation=validation, n_trials=2, progress=False
    )
    again, (x, y, groups) = copy.deepcopy(model), validation
    history = found.best.fit(again, *data, validation=(x, y), groups=groups, progress=False)
    assert history.stopped == "early_stopping"
    assert found.value == max(history["validation_worst_group"])
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), found.model.parameters(), strict=True))


def test_tune_says_who_searches_mitigators(model):
    data, _ = shortcut()
    with pytest.raises(InvalidTypeError, match=r"for a RRR call tune_mitigator\(mitigator, model, data, measure\)"):
        tune(RRR(), "abpc", data[:2])


def test_the_choice_of_all_explanations_is_of_those_that_a_loss_can_take(model):
    found = search(model, space=["lambda_rrr", "explainer"], n_trials=2, sampler="random")
    named = {label.partition(":")[0] for label in found.to_dict()["space"]["explainer"]["choices"]}
    assert {"gradient", "smoothgrad", "lrp_epsilon_plus"} <= named
    assert all(EXPLAINERS.get(name).DIFFERENTIABLE for name in named)
    with pytest.raises(InvalidInputError, match="stand in explainers= and in space"):
        search(model, space="all", explainers=["gradient", "smoothgrad"])


def test_arrays_lists_and_masks_by_keyword_are_read_as_in_fit(model):
    (x, y, mask), (held_out, labels, groups) = shortcut()
    options = {"n_trials": 2, "n_epochs": 2, "measure": "accuracy"}
    truth = search(model, **options, validation=(held_out, labels))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(held_out, labels), batch_size=32)
    for data, masks in (
        ((x.numpy(), y.numpy()), mask.numpy() > 0.5),
        ((x.tolist(), y.tolist()), mask.tolist()),
        ((x, y), mask.bool()),
    ):
        for validation in ((held_out.numpy(), labels.numpy(), groups.numpy()), (held_out, labels.tolist()), loader):
            mitigator = RRR(n_epochs=2, lr=0.05, batch_size=40, lambda_rrr=0.01)
            found = tune_mitigator(
                mitigator,
                model,
                data,
                "accuracy",
                validation=validation,
                shortcut_masks=masks,
                n_trials=2,
                progress=False,
            )
            assert (found.value, found.best) == (truth.value, truth.best)
