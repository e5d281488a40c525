"""Every entry reads inputs, labels and masks alike: the same forms are right, one sentence refuses a wrong one."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import xaikit
from xaikit import MITIGATORS, RRR, ContextualDecomposition, Gradient, SmoothGrad
from xaikit.cli import main
from xaikit.mitigation import Concept

N = 6
X = torch.rand(N, 1, 12, 12, generator=torch.Generator().manual_seed(0))
Y = torch.tensor([0, 1] * 3)
MASK = torch.zeros(12, 12)
MASK[:3, :3] = 1
QUIET = {"progress": False}


def net():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2)
    return nn.Sequential(*layers).eval()


def fit(mitigator, *data, **options):
    model = net()
    mitigator.set_kwargs(n_epochs=1, batch_size=3, random_state=0).fit(model, *data, **options, **QUIET)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def evaluated(x, y, m):
    table = xaikit.evaluate(["gradient"], ["relevance_mass"], (x, y, m), model=net(), **QUIET)
    if table.rows[0].error:
        raise ValueError(table.rows[0].error)
    return torch.tensor(table.rows[0].values)


def relevance_mass(x, y, m):
    return xaikit.METRICS.create("relevance_mass").evaluate(Gradient(net()), x, y, relevant_region=m)


def assessed(x, y, m):
    return torch.tensor(list(xaikit.assess(net(), (x, y), shortcut_masks=m, **QUIET).row().values()))


def tuned(x, y, m):
    return torch.tensor(xaikit.tune(SmoothGrad(net()), "relevance_mass", (x, y, m), n_trials=1, **QUIET).value)


def tuned_mitigator(x, y, m):
    options = {"validation": (x, y), "n_trials": 1, **QUIET}
    return torch.tensor(xaikit.tune_mitigator(RRR(n_epochs=1), net(), (x, y, m), "accuracy", **options).value)


def recommended(x, y, m):  # noqa: ARG001
    return torch.tensor(xaikit.recommend(net(), "image", (x, y), explainers=["gradient"]).candidates[0].value)


ENTRIES = {
    "attribute": lambda x, y, m: Gradient(net()).attribute(x, y),  # noqa: ARG005
    "explain": lambda x, y, m: Gradient(net()).explain(x, y).values,  # noqa: ARG005
    "evaluate": evaluated,
    "metric": relevance_mass,
    "assess": assessed,
    "tune": tuned,
    "tune_mitigator": tuned_mitigator,
    "fit": lambda x, y, m: fit(RRR(), x, y, m),
    "fit by keyword": lambda x, y, m: fit(RRR(), x, y, shortcut_masks=m),
    "fit a region": lambda x, y, m: fit(xaikit.HINT(), x, y, relevant_region=m),
    "fit a batch": lambda x, y, m: fit(RRR(), (x, y, m)),
    "fit batches": lambda x, y, m: fit(RRR(), [(x, y, m)]),
    **{
        f"loss of {name}": lambda x, y, m, name=name: MITIGATORS.create(name).loss(net(), (x, y, m), seed=0).total
        for name in ("rrr", "cdep", "hint", "counterexamples", "attribution_prior")
    },
    "Concept.fit": lambda x, y, m: Concept.fit(net(), x, y, layer="0").direction,  # noqa: ARG005
    "mask_overlap": lambda x, y, m: xaikit.mask_overlap(Gradient(net()).attribute(x, y), m).share,
    "recommend": recommended,
}
WITHOUT_MASKS = {"attribute", "explain", "Concept.fit", "recommend"}
WITH_MASKS = [name for name in ENTRIES if name not in WITHOUT_MASKS]


def keyword_of(name):
    """The keyword that takes an entry's masks."""
    if name in ("evaluate", "metric", "tune", "fit a region", "loss of hint", "loss of attribution_prior"):
        return "relevant_region"
    return "masks" if name == "mask_overlap" else "shortcut_masks"


def same(got, wanted):
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-6, check_dtype=False)


@pytest.fixture(scope="module")
def truths():
    values = {}

    def truth(name):
        if name not in values:
            values[name] = ENTRIES[name](X, Y, MASK)
        return values[name]

    return truth


@pytest.mark.parametrize("name", ENTRIES)
def test_the_same_forms_are_right_everywhere(name, truths):
    inputs = [X.double().numpy(), X.tolist(), np.asfortranarray(X.numpy())]
    labels = [Y.numpy().astype(np.int16), Y.tolist(), pd.DataFrame({"class": Y.numpy()}), Y.to(torch.uint8)]
    masks = [MASK.double().numpy(), MASK > 0, MASK.int().tolist(), MASK.expand(N, 12, 12).numpy() > 0, [MASK] * N]
    masks.append(MASK.repeat_interleave(2, 0).repeat_interleave(2, 1))
    calls = [(x, Y, MASK) for x in inputs] + [(X, y, MASK) for y in labels]
    calls += [(X, Y, m) for m in masks] if name in WITH_MASKS else []
    for call in calls:
        same(ENTRIES[name](*call), truths(name))


WRONG_LABELS = {
    "strings": (["a", "b"] * 3, "must hold numbers, got strings such as 'a'; number the classes from 0 on"),
    "one-hot": (torch.eye(2)[Y].long(), "must have shape (6,), one for each sample, got (6, 2); these are one-hot"),
    "a column": (Y[:, None], "must have shape (6,), one for each sample, got (6, 1); of a column pass"),
    "NaN": (Y * torch.nan, "must be finite, got NaN or inf in sample 0"),
    "floats": (
        Y.double().numpy(),
        "must be whole class indices of an integer type, got torch.float64 numbers",
    ),
    "booleans": (Y.bool(), "must be whole class indices, got booleans"),
    "other length": (Y[:4], "must have shape (6,), one for each sample, got (4,)"),
}


@pytest.mark.parametrize("form", WRONG_LABELS)
def test_wrong_labels_have_the_same_sentence_everywhere(form):
    labels, sentence = WRONG_LABELS[form]
    for name, entry in ENTRIES.items():
        if name == "Concept.fit" and form == "booleans":
            continue  # which samples show the concept
        with pytest.raises((ValueError, TypeError), match=re.escape(sentence)) as caught:
            entry(X, labels, MASK)
        assert re.search(r"\b(labels|targets) must", str(caught.value)), name
        assert "\n" not in str(caught.value)


WRONG_MASKS = {
    "strings": ([["a"] * 12] * 12, "{masks} must hold numbers, got strings such as 'a'; pass 1 inside and 0 outside"),
    "NaN": (MASK * torch.nan, "{masks} must hold values in [0, 1], got NaN"),
    "negative": (MASK - 0.5, "{masks} must hold values in [0, 1], got -0.5 to 0.5; scale them"),
    "0/255": (
        (MASK * 255).byte().numpy(),
        "{masks} must hold values in [0, 1], got 0 to 255, as in a picture with",
    ),
    "other length": (MASK.expand(4, 12, 12), "{masks} must have shape (12, 12) for all samples, (6, 12, 12)"),
    "a list of another length": (
        [MASK, None],
        "a list of {masks} must hold one (or None) for each of 6 samples, got 2",
    ),
    "other proportions": (
        torch.ones(5, 9),
        "{masks} can be resized only to the same proportions, and a map of (5, 9) is no",
    ),
    "a column": (torch.ones(N, 1), "{masks} can be resized only to the same proportions, and a map of (6, 1) is no"),
    "boxes": (np.array([[0, 0, 3, 3]] * N), "{masks} must mark pixels, and numbers of shape (6, 4) look like boxes"),
    "a box": ((0, 0, 3, 3), "{masks} must mark pixels, and numbers of shape (4,) look like boxes"),
    "lists of boxes": ([[0, 0, 3, 3], None] * 3, "{masks} must mark pixels, and numbers of shape (4,) look like boxes"),
}


@pytest.mark.parametrize("form", WRONG_MASKS)
def test_wrong_masks_have_the_same_sentence_everywhere(form):
    mask, sentence = WRONG_MASKS[form]
    for name in WITH_MASKS:
        with pytest.raises((ValueError, TypeError), match=re.escape(sentence.format(masks=keyword_of(name)))) as caught:
            ENTRIES[name](X, Y, mask)
        assert "\n" not in str(caught.value)


def explained_labels(x, y, folder):
    run = xaikit.explain_dataset(Gradient(net()), (x, y), out=folder, targets="label", **QUIET)
    return torch.stack([run[i].values for i in range(len(run))])


def test_explain_dataset_reads_inputs_and_labels(tmp_path):
    truth = explained_labels(X, Y, tmp_path / "truth")
    same(truth, Gradient(net()).attribute(X, Y))
    forms = [(X.double().numpy(), Y), (X.tolist(), Y), (X, Y.numpy().astype(np.int16)), (X, Y.tolist())]
    for i, (x, y) in enumerate([*forms, (X, pd.Series(Y.numpy()))]):
        same(explained_labels(x, y, tmp_path / str(i)), truth)
    for form, (labels, sentence) in WRONG_LABELS.items():
        with pytest.raises((ValueError, TypeError), match=re.escape(sentence)):
            explained_labels(X, labels, tmp_path / form)
        assert not (tmp_path / form).exists()


MAPS = torch.rand(8, 1, 6, 6, generator=torch.Generator().manual_seed(5))
OF_MAPS = {
    "SpRAy": lambda maps: xaikit.SpRAy(n_clusters=2, picture="spectral")(maps).eigenvalues,
    "make_masks": xaikit.make_masks,
    "make_masks of a cluster": lambda maps: xaikit.make_masks(maps, [0, 1]),
}


@pytest.mark.parametrize("name", OF_MAPS)
def test_entries_that_take_explanations_read_them_alike(name):
    truth = torch.as_tensor(OF_MAPS[name](MAPS))
    for maps in (MAPS.double(), MAPS.numpy(), MAPS.double().numpy(), np.asfortranarray(MAPS.numpy()), MAPS.tolist()):
        same(torch.as_tensor(OF_MAPS[name](maps)), truth)
    for maps, sentence in (
        (MAPS * torch.nan, "attributions must be finite, got NaN or inf"),
        ([["a"] * 6] * 6, "attributions must hold numbers, got strings such as 'a'"),
        (MAPS[:0], "attributions must have shape (N, ...) with N > 0, got (0, 1, 6, 6)"),
    ):
        with pytest.raises((ValueError, TypeError), match=re.escape(sentence)):
            OF_MAPS[name](maps)


def shell(folder, *words):
    """The exit code of the command line; what it wrote to standard error stays for capsys."""
    model = ("--model", "xaikit.cli.demo_digits:make_network", "--data", str(folder / "d.npz"), "--quiet")
    with pytest.raises(SystemExit) as end:
        main.run([words[0], *model, *words[1:]])
    return int(end.value.code or 0)


SHELL = {
    "mitigate": ("--mitigator", "rrr:n_epochs=1", "--mask", "m.npy", "--out", "mended.pt"),
    "evaluate": ("--explainer", "gradient", "--metric", "relevance_mass", "--mask", "m.npy", "--out", "e.json"),
    "tune": ("--explainer", "vargrad:n_iter=2", "--metric", "relevance_mass", "--trials", "1", "--mask", "m.npy")
    + ("--no-figure", "--out", "t.json"),
}


@pytest.mark.parametrize("verb", SHELL)
def test_the_command_line_reads_the_same_forms(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    labels = {"int16": Y.numpy().astype(np.int16), "uint8": Y.numpy().astype(np.uint8), "int64": Y.numpy()}
    masks = [MASK.numpy(), MASK.numpy() > 0, MASK.double().numpy(), MASK.expand(N, 12, 12).numpy().astype(np.uint8)]
    masks.append(MASK.repeat_interleave(2, 0).repeat_interleave(2, 1).numpy())
    for y, m in [*((y, MASK.numpy()) for y in labels.values()), *((labels["int64"], m) for m in masks)]:
        np.savez("d.npz", x=X.double().numpy(), y=y)
        np.save("m.npy", m)
        assert shell(tmp_path, verb, *SHELL[verb]) == 0, capsys.readouterr().err
    capsys.readouterr()
    np.save("m.npy", MASK.numpy())
    for form in ("strings", "one-hot", "a column", "NaN", "other length"):
        np.savez("d.npz", x=X.numpy(), y=np.asarray(WRONG_LABELS[form][0]))
        assert shell(tmp_path, verb, *SHELL[verb]) == 2, form
        error = capsys.readouterr().err
        assert re.match(r"xaikit: .*d.npz.* (labels|numbers|sizes|one)", error), (form, error)
        assert error.count("\n") == 1
    np.savez("d.npz", x=X.numpy(), y=Y.numpy())
    for form in ("NaN", "negative", "other length", "other proportions", "boxes", "strings"):
        np.save("m.npy", np.asarray(WRONG_MASKS[form][0]))
        assert shell(tmp_path, verb, *SHELL[verb]) == 2, form
        error = capsys.readouterr().err
        assert re.match(r"xaikit: .*(m\.npy|mask)", error), (form, error)
        assert error.count("\n") == 1


def test_compare_takes_assessments_only():
    assessment = xaikit.assess(net(), (X, Y), shortcut_masks=MASK, **QUIET)
    assert len(xaikit.compare({"plain": [assessment]}).rows["plain"]) == 1
    with pytest.raises(TypeError, match="compare takes what assess\\(\\) returns, got a dict"):
        xaikit.compare({"plain": [assessment.row()]})


def test_decompose_has_a_leading_axis_for_its_masks():
    truth = ContextualDecomposition(net()).decompose(X, MASK[None]).relevant
    for mask in (MASK[None].bool(), MASK[None].double().numpy(), MASK[None].int().tolist()):
        same(ContextualDecomposition(net()).decompose(X.numpy(), mask).relevant, truth)
    for form in ("strings", "NaN", "negative", "0/255", "boxes"):
        mask, sentence = WRONG_MASKS[form]
        with pytest.raises((ValueError, TypeError), match=re.escape(sentence.format(masks="masks"))):
            ContextualDecomposition(net()).decompose(X, mask)


def batches_of(x, y, shuffle):
    generator = torch.Generator().manual_seed(3)
    return DataLoader(TensorDataset(x, y), batch_size=2, shuffle=shuffle, generator=generator)


def test_masks_beside_a_loader_belong_to_the_samples_in_whatever_order():
    masks = torch.rand(N, 12, 12, generator=torch.Generator().manual_seed(1))
    inside = TensorDataset(X, Y, masks)
    for shuffle in (False, True):
        loader = DataLoader(inside, batch_size=2, shuffle=shuffle, generator=torch.Generator().manual_seed(3))
        truth = fit(RRR(lambda_rrr=100.0), loader)
        for beside in (masks, masks.numpy(), list(masks), masks[:, None]):
            same(fit(RRR(lambda_rrr=100.0), batches_of(X, Y, shuffle), shortcut_masks=beside), truth)
    truth = fit(RRR(), [(X[:4], Y[:4], masks[:4]), (X[4:], Y[4:], masks[4:])])
    same(fit(RRR(), [(X[:4], Y[:4]), (X[4:].numpy(), Y[4:].tolist())], shortcut_masks=masks), truth)
    with pytest.raises(ValueError, match="masks must hold one for each of the 6 samples of the data, got 5"):
        fit(RRR(), batches_of(X, Y, True), shortcut_masks=masks[:5])


def test_a_data_set_trains_in_an_order_of_its_own_and_may_hold_none():
    samples = [(X[i], int(Y[i]), MASK if i % 2 else None) for i in range(N)]

    class Samples(torch.utils.data.Dataset):
        def __len__(self):
            return N

        def __getitem__(self, i):
            return samples[i]

    assert not torch.equal(fit(RRR(lambda_rrr=10.0), Samples()), fit(RRR(lambda_rrr=0.0), Samples()))
    assert torch.isfinite(fit(RRR(), TensorDataset(X, Y), shortcut_masks=MASK)).all()
    assert xaikit.assess(net(), Samples(), **QUIET).samples == N


@pytest.mark.filterwarnings("ignore:a prior shapes the explanation")
@pytest.mark.parametrize("every", [1, 2, 6, 100])
@pytest.mark.parametrize("name", ["rrr", "cdep", "hint", "counterexamples", "attribution_prior"])
def test_partly_annotated_samples(name, every):
    masks = [MASK if i % every == 0 else None for i in range(N)]
    zeros = torch.stack([MASK * (i % every == 0) for i in range(N)])
    mitigator = MITIGATORS.create(name)
    same(mitigator.loss(net(), (X, Y, masks), seed=0).total, mitigator.loss(net(), (X, Y, zeros), seed=0).total)
    same(fit(mitigator, X, Y, masks), fit(mitigator, X, Y, zeros))


def test_a_mask_is_named_by_what_it_means():
    for call, sentence in (
        (lambda: fit(RRR(), X, Y, masks=MASK), "'masks' any more; it is called 'shortcut_masks' now"),
        (lambda: xaikit.assess(net(), (X, Y), masks=MASK), "'masks' any more; it is called 'shortcut_masks' now"),
        (lambda: RRR(where="class"), "the setting 'where' of RRR is called 'mask_scope' now"),
        (lambda: fit(RRR(), X, Y, relevant_region=MASK), "RRR takes shortcut_masks=, 1 where the explanation must not"),
        (lambda: fit(xaikit.HINT(), X, Y, shortcut_masks=MASK), "HINT takes relevant_region=, 1 where the explanation"),
        (
            lambda: fit(RRR(), X, Y, MASK, shortcut_masks=MASK),
            "got them by position and as shortcut_masks=",
        ),
        (
            lambda: fit(RRR(), X, Y, MASK, MASK),
            "labels and masks by position, got 5 arguments",
        ),
    ):
        with pytest.raises(TypeError, match=re.escape(sentence)):
            call()
