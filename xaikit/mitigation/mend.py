"""Mending: the mitigators that suit a shortcut tried one after the other, and the best chosen on held-out samples."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import nn

from xaikit.core.params import Float, Int
from xaikit.factors.facts import known_facts
from xaikit.mitigation.assess import assess
from xaikit.mitigation.assessment import Assessment
from xaikit.mitigation.budget import read_budget
from xaikit.mitigation.checks import check_model
from xaikit.mitigation.mend_beside import followed_beside, with_beside
from xaikit.mitigation.mend_data import CONCEPT, FACTOR, GROUPS, REGION, MendData, read_data, read_shortcut
from xaikit.mitigation.mend_methods import can_be_drawn_anew, read_methods, with_training
from xaikit.mitigation.mend_result import MendResult
from xaikit.mitigation.mend_search import Attempt, MendSearch, SearchOptions
from xaikit.mitigation.mend_store import TryStore, fingerprint
from xaikit.mitigation.reliance import RELIES

ASSESSED = 2000  # held-out samples at most; with so many a share is known to about a hundredth


@torch.inference_mode(False)
@torch.enable_grad()
def mend(  # noqa: PLR0913
    model: nn.Module,
    data: Any,
    shortcut: Any,
    *,
    validation: Any = None,
    groups: Any = None,
    validation_groups: Any = None,
    from_scratch: Any = False,
    methods: Any = None,
    budget: Any = None,
    max_loss: float = 0.02,
    n_epochs: int | None = None,
    facts: Any = None,
    folder: Any = None,
    head: str | int = "logits",
    seed: int = 0,
    progress: bool = True,
) -> MendResult:
    """A copy of the model that does not rely on a shortcut any more, and what came of it.

    The mitigators that suit the kind of shortcut are tried one after the other, from the cheapest. Each is measured on
    held-out samples: with the shortcut as it is, and with that of a sample of another class. The search ends where one
    has the same accuracy in both, to `max_loss`: it does not rely on the shortcut. Chosen is the highest accuracy on
    exchanged samples among those that lose no more than `max_loss` with the shortcut kept, against the best that does
    not rely on it. A model that does not rely on the shortcut is not trained. The user's model stays as it is.

    The learning rate of each is found by beginning its training with several; the best one goes on. A method whose
    `lr` or optimizer was set keeps it. Where the first method fails from the weights given, it is tried from weights
    halfway to fresh ones (unless `methods` are named, or a module has no `reset_parameters`). Of the held-out samples
    at most 2000 are assessed.

    Args:
        model: returns logits (N, C), or holds them under `head`; trained, or untrained with `from_scratch`.
        data: samples to train on, in any form that `Mitigator.fit` takes. They are held in memory.
        shortcut: what must not matter: a mask in any form that `fit` takes, a factor ("hue",
            "words:names=[text,video]", an object; several in a list are exchanged together), or a `Concept`.
            ``"region"`` takes the masks of the data. Factors that often change with the named one (contrast with
            brightness) are measured, too, and those that the model relies on are exchanged with it.
        validation: samples to choose by, as for `data`; None holds back a fifth of the data.
        groups: where they are known, (N,) names or numbers of the samples' groups (the class together with the
            shortcut), or a function (x, y) -> (N,). Then `DFR`, `GroupBalanced` and `GroupDRO` are tried as well, and
            the accuracy in the worst group is what a try is chosen by, with the shortcut exchanged. `shortcut` may be
            None then: without an exchange all goes by the groups.
        validation_groups: of the validation samples, in the same forms.
        from_scratch: draw the weights that train anew instead of going on with those of the model (frozen ones stay);
            or a function that makes an untrained model.
        methods: mitigators to try instead: names, spec strings or objects, in their order.
        budget: a number of trainings, such as 2, or a time, such as "10 min"; None tries all.
        max_loss: of accuracy that may be lost, a fraction.
        n_epochs: of each training at most; None goes by the number of samples. A training ends early where the held-out
            accuracy does not rise during half of them.
        facts: what a factor must know beside the samples, such as ``{"vocabulary": tokenizer}``; see `DataFacts`.
        folder: where each try is kept; the same call goes on from there.
        head: which output holds the logits.
        seed: of what is random.
        progress: show progress bars.

    Returns:
        A `MendResult` with the model, the method as a spec string, all tries, the assessments before and after, and the
        verdict.

    Raises:
        InvalidInputError, InvalidTypeError: for data, a shortcut, methods or a budget that cannot be right; a shortcut
            that no sample shows; a budget that is too small for one training; a group that is empty.
        TrainingError: where every method fails.

    >>> import torch
    >>> x, y = torch.randn(400, 4, generator=torch.Generator().manual_seed(0)), torch.arange(400) % 2
    >>> x[:, 1] += 2.0 * y - 1  # the honest signal
    >>> x[:, 0] = 6.0 * y - 3  # the shortcut
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Linear(4, 2)
    >>> result = mend(model, (x, y), torch.tensor([1.0, 0, 0, 0]), from_scratch=True, n_epochs=20, progress=False)
    >>> result.relies, result.chosen.accuracy_exchanged > 0.7
    (False, True)
    """
    check_model(model)
    Float(ge=0, le=1).check(max_loss, "max_loss")
    seed, n_epochs = Int(ge=0).check(seed, "seed"), Int(ge=1, optional=True).check(n_epochs, "n_epochs")
    allowed = read_budget(budget)
    by_groups = {"groups": groups, "validation_groups": validation_groups}
    facts = known_facts(facts, data, model)
    data = read_data(model, data, read_shortcut(shortcut, groups), validation, facts, seed, **by_groups)
    options = SearchOptions(from_scratch, max_loss, head, seed, progress)
    before = _assessed(model, data, head, seed)
    companions = followed_beside(model, data, head, seed) if _knows(before, data) else []
    if companions:
        data = with_beside(data, companions)
        before = _assessed(model, data, head, seed)
    search = MendSearch(model, data, options)
    if options.anew or methods is not None or search.needs_mending or (before is not None and before.relies):
        settings = {"from_scratch": options.anew, "head": head, "seed": seed, "groups": data.groups}
        search.store = TryStore(folder, fingerprint(model, data, **settings))
        training: dict[str, Any] = {"n_epochs": n_epochs, "seed": seed}
        mitigators = [m.set_kwargs(head=head) for m in read_methods(methods, data, from_scratch=options.anew)]
        # Weights halfway to fresh ones cost what has been learnt slowly, so they are tried only where those given fail.
        attempts = [Attempt(with_training(m, data.training.size, **training)) for m in mitigators]
        if methods is None and data.shortcut.kind == FACTOR:
            attempts[1] = attempts[1]._replace(weaker=True)
        if methods is None and not options.anew and data.shortcut.kind in (FACTOR, REGION) and can_be_drawn_anew(model):
            attempts.insert(1, attempts[0]._replace(halfway=True))
        search.run(attempts, allowed)
    number = search.best()
    mended = search.model_of(number)
    after = before if number == 0 else _assessed(mended, data, head, seed)
    added, remaining = ([f.title for f in fs] for fs in (companions, followed_beside(mended, data, head, seed)))
    title, stopped, tries = data.shortcut.title, search.stopped, search.tries
    result = MendResult(title, tries[number].method, tries, before, after, max_loss, stopped, seed, model=mended)
    return dataclasses.replace(result, added=added, remaining=remaining, from_scratch=options.anew)


def _knows(before: Assessment | None, data: MendData) -> bool:
    """Whether the model is better than always saying the commonest class, by a tenth; one untrained follows nothing."""
    commonest = float(torch.bincount(data.held_out.labels).max()) / data.held_out.size
    return before is not None and before.accuracy["kept"] > commonest + RELIES


def _assessed(model: nn.Module, data: MendData, head: str | int, seed: int) -> Assessment | None:
    """The model on the held-out samples; None for a concept or groups, which are no part of the samples."""
    if data.shortcut.kind in (CONCEPT, GROUPS):
        return None
    is_region = data.shortcut.kind == REGION
    options: dict[str, Any] = {} if is_region else {"factor": data.shortcut.factor, "facts": data.facts}
    batch = data.judged(ASSESSED, seed)[: 3 if is_region else 2]
    return assess(model, batch, explainers=(), head=head, seed=seed, progress=False, **options)
