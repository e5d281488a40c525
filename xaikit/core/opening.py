"""Opening a call: the inputs are checked, the model is copied, and unknown facts about it are found out."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from xaikit.core import checkpointing, forward, model_state, structure, torch_private
from xaikit.core import targets as target_rules
from xaikit.core.call import Call
from xaikit.core.channel_axes import inputs_of
from xaikit.core.errors import InvalidTypeError, XaikitError
from xaikit.core.forward import Forward
from xaikit.core.image_forms import CHANNELS, BatchedImages
from xaikit.core.inputs import complex_inputs_error
from xaikit.core.kernels import FunctionLog
from xaikit.core.layer_gradients import check_batch_first, row_order
from xaikit.core.layers import check_activation, check_parallel, check_runs, find_point, read, substituted
from xaikit.core.model_facts import ModelFacts, facts_of
from xaikit.core.model_state import RunningModel
from xaikit.core.model_view import ModelView
from xaikit.core.model_writes import WrittenObjects, WrittenWeights, refuse_new_weights, written_names
from xaikit.core.modes import is_training
from xaikit.core.rows import RememberedRule, RowRule, find_row_rule, rows_per_pass, warn_of_dependent_rows, weights_age
from xaikit.core.structure import Tensors
from xaikit.core.token_inputs import token_layers

Rebuild = Callable[[Tensors], Any]
NO_GRAPH = "does not require grad and does not have a grad_fn"  # how autograd says that a pass has no gradients


@dataclasses.dataclass(frozen=True)
class Request:
    """The arguments of one call; see `Explainer.run_call`."""

    inputs: Any
    targets: Any = None
    create_graph: bool = False
    seed: int = 0
    keep_mode: bool = False
    keep_writes: bool = False
    on_output: Callable[[Tensor], None] | None = None


@dataclasses.dataclass(frozen=True)
class Needs:
    """The requirements of a method.

    Attributes:
        gradient: the gradient of the score by what is explained.
        several_rows: passes on several versions of the batch, or on a part of it.
        max_rows: most rows in one pass; None lets the size of a sample decide.
        global_random: torch's or numpy's global random numbers.
    """

    gradient: bool
    several_rows: bool
    global_random: bool
    max_rows: int | None = None


class _StartAgainError(XaikitError, RuntimeError):
    """The first pass told how the model has to run: itself, or with a state that is put back before each pass."""

    def __init__(self, *, in_place: bool = False) -> None:
        super().__init__()
        self.in_place = in_place


@contextlib.contextmanager
def opened(view: ModelView, request: Request, needs: Needs) -> Iterator[tuple[Call, Rebuild]]:
    """The call on checked inputs, while the model runs as it should; and what rebuilds the structure of the inputs.

    Raises:
        InvalidInputError, InvalidTypeError, UnboundError: as for `Explainer.attribute`.
    """
    model = view._bound()
    forward.refuse_inside(model)
    explained, extras = view._arguments(request.inputs)
    tensors, rebuild = structure.flatten(explained)
    n = structure.check_batch(tensors)
    modules = model_state.modules_of(model)
    facts = facts_of(model, modules)
    if needs.gradient:
        check_differentiable(
            model, tensors, at_layer=view.layer is not None, layers=lambda: embedding_layers(view, request.inputs)
        )
    tensors = tuple(t.clone() if t.is_inference() else torch_private.plain_tensor(t) for t in tensors)
    head = None if target_rules.looks_at_all_heads(request.targets) else view.head
    checkpointing.install(forward.is_running)
    device = tensors[0].device
    options = {"freeze": not request.create_graph, "keep_mode": request.keep_mode}
    make = functools.partial(
        model_state.running_model, model, device, request.seed, profile=(modules, facts), random=needs.global_random,
        **options,
    )  # fmt: skip
    in_place = False
    while True:
        running = make(in_place=in_place)
        run = Forward(running.model, rebuild, extras, n, explained, head, restart=running.restart)
        run.as_one, run.differentiates = facts.one_argument.get(run.structure(), False), facts.differentiates
        try:
            with running.open(), torch.set_grad_enabled(request.create_graph):
                find_out(run, running, tensors, facts, needs, request.seed)
            break
        except _StartAgainError as reason:
            in_place |= reason.in_place
    if request.keep_writes:  # only now: the trial passes before must leave no trace
        running = make(in_place=in_place, keep_writes=True)
        run.model, run.restart = running.model, running.restart
    form = run.form(tensors)
    if form not in facts.batched and not facts.operations.isdisjoint(CHANNELS):
        run.guard = functools.partial(BatchedImages, tensors)

    def output_axes() -> int:
        with running.open(), torch.no_grad():
            return run.output(tensors, None, RowRule()).ndim

    target = target_rules.normalise(request.targets, n, device, output_axes=output_axes)
    call = Call(
        model=running.model,
        inputs=tensors,
        target=target,
        create_graph=request.create_graph,
        seed=request.seed,
        forward=run,
        head=run.head,
        n_classes=view.n_classes,
        rule=run.rule,
        batch=tensors,
        facts=facts,
        modules=running.modules,
        on_output=request.on_output,
        input_names=tuple(explained) if isinstance(explained, Mapping) else (),
        extras=extras,
        recompute_context=running.open,
        form=form,
    )
    with running.open(), inputs_of(model, tensors), torch.set_grad_enabled(request.create_graph):
        yield call, rebuild
    facts.remember_batched(form)
    if request.keep_writes and running.replica is not None:
        with model_state.EXCLUSIVE:  # a pass of the model itself in another thread must not read half of it
            running.replica.write_back()
    if not run.rule.independent and not request.keep_mode:  # in training mode BatchNorm's rows always see each other
        warn_of_dependent_rows(type(model).__name__)


def with_recompute_context(call: Call, model_context: Callable[[Call], contextlib.AbstractContextManager[Any]]) -> Call:
    """The call with a context for passes that are repeated after it, so that they run as they did inside it."""
    plain_call = call  # without `again`: a call that refers to itself keeps its tensors until a garbage collection

    @contextlib.contextmanager
    def again() -> Iterator[None]:
        with plain_call.recompute_context(), model_context(plain_call):
            yield

    return dataclasses.replace(plain_call, recompute_context=again)


# ---------------------------------------------------------------------- what is not known yet


def find_out(  # noqa: PLR0913, PLR0917
    run: Forward, running: RunningModel, inputs: Tensors, facts: ModelFacts, needs: Needs, seed: int
) -> None:
    """Learn about a model what the first calls have to: one plain pass, and a few more for methods that stack rows.

    Raises:
        _StartAgainError: when the model has to run in another way than it does.
    """
    limit = rows_per_pass(inputs, needs.max_rows)
    new_structure = run.structure() is not None and run.structure() not in facts.one_argument
    if facts.replicable is None or facts.draws is None or new_structure:
        _first_pass(run, running, inputs, facts, limit if needs.several_rows else len(inputs[0]))
    if not needs.several_rows:
        return
    form, age = run.form(inputs), weights_age(running.replica.copies if running.replica else running.modules)
    remembered = facts.rows.get(form)
    if remembered is None or remembered.is_stale(age):
        with torch.no_grad():
            device = inputs[0].device

            def outputs(rows: Tensors, samples: Tensor | None, rule: RowRule) -> Tensor:
                if facts.draws or is_training(run.model):
                    model_state.reseed(device, seed)
                return run.output(rows, samples, rule)

            rule = find_row_rule(outputs, inputs, run.ambiguous(), limit)
        remembered = RememberedRule(rule, age if remembered is None else remembered.first, age)
        if rule.certain:
            facts.remember_rows(form, remembered)
    run.rule = remembered.rule


def _first_pass(run: Forward, running: RunningModel, inputs: Tensors, facts: ModelFacts, limit: int) -> None:
    """Run the model once, and note what it calls and writes, whether it draws random numbers, whether a copy is whole.

    Raises:
        _StartAgainError: when the model has to run in another way than it does.
    """
    replica = running.replica
    originals = set() if replica is None else set(replica.copies)
    thread, strays = threading.get_ident(), []

    def note(module: nn.Module, _args: Any) -> None:
        if threading.get_ident() == thread and module in originals:
            strays.append(module)

    objects, weights = WrittenObjects(replica.holders if replica is not None else ()), WrittenWeights()
    handle = register_module_forward_pre_hook(note) if replica is not None else None
    before = model_state.random_states()
    loaded = torch_private.compiler_is_loaded()
    try:
        with torch.no_grad(), FunctionLog(facts), weights:
            _run_in_some_form(run, inputs, limit)
        facts.remember_argument(run.structure(), run.as_one)
    except Exception as error:
        if not run.differentiates and NO_GRAPH in str(error):
            facts.differentiates = True
            raise _StartAgainError(in_place=replica is None) from None
        if torch_private.compiler_is_loaded() is not loaded:
            raise _StartAgainError(in_place=replica is None) from None
        if replica is not None:
            raise _StartAgainError(in_place=True) from None  # it may fail because it is a copy: try the model itself
        raise
    finally:
        if handle is not None:
            handle.remove()
        private_classes, written_weights = objects.put_back(), weights.put_back(replica, running.modules)
    if torch_private.compiler_is_loaded() is not loaded:  # what was compiled in this pass was not watched
        raise _StartAgainError(in_place=replica is None)
    facts.draws = before != model_state.random_states()
    if strays or (replica is not None and replica.is_reached_past()):
        raise _StartAgainError(in_place=True)
    if private_classes:
        facts.private_classes |= private_classes
        raise _StartAgainError
    facts.replicable = replica is not None
    if replica is not None:
        refuse_new_weights(replica, running.modules)
        facts.written_weights |= written_weights
        facts.written = facts.written_weights | written_names(replica, running.modules)
        if facts.written:
            raise _StartAgainError


def _run_in_some_form(run: Forward, inputs: Tensors, limit: int) -> None:
    """Run the model on a dict or a list item by item, or as one argument if that fails; on few rows if it can."""
    if len(inputs[0]) > limit:
        few = torch.arange(limit, device=inputs[0].device)
        with contextlib.suppress(Exception):  # the model may need the whole batch
            run(tuple(x[:limit] for x in inputs), few)
            return
    try:
        run(inputs, None)
    except Exception as item_by_item:
        if not run.takes_one_argument():
            raise
        run.as_one = True
        try:
            run(inputs, None)
        except Exception as as_one:
            if isinstance(item_by_item, InvalidTypeError) and not isinstance(as_one, TypeError):
                raise  # the model takes no single items, so the second error is the right one
            raise item_by_item from as_one


def check_differentiable(
    model: nn.Module, tensors: Tensors, *, at_layer: bool, layers: Callable[[], Sequence[str]]
) -> None:
    """Refuse inputs and models that have no gradient.

    Args:
        model: the user's.
        tensors: its inputs.
        at_layer: whether a layer is explained.
        layers: gives the names of the embeddings that read the inputs.

    Raises:
        InvalidTypeError: for whole numbers, unless a layer is explained; for complex numbers; for quantised models.
    """
    quantised = torch_private.quantised_kind(model)
    if quantised is not None:
        raise InvalidTypeError(
            f"a quantised model ({quantised}) has no gradient; explain the floating-point model before quantisation, "
            "or use a method that needs none, such as captum.feature_ablation"
        )
    for tensor in tensors:
        if tensor.is_complex():
            raise complex_inputs_error(tensor.dtype)
        if tensor.is_floating_point() or at_layer:
            continue
        names = tuple(layers())
        remedy = "a float tensor (inputs.float())"
        if names:
            remedy = (
                f"layer={names[0]!r}, the model's embedding"
                if len(names) == 1
                else f"layer={names!r}, the model's embeddings"
            )
        raise InvalidTypeError(
            f"inputs of {tensor.dtype} have no gradient; pass {remedy}, or use a method that needs none, such as "
            "captum.feature_ablation"
        )


def embedding_layers(view: ModelView, inputs: Any) -> list[str]:
    """The names of the embeddings that read a model's tokens; its first embedding, where the model does not run.

    Args:
        view: the model, and how it takes inputs.
        inputs: as for `Explainer.attribute`.
    """
    model = view._bound()
    explained, extras = view._arguments(inputs)
    tensors, rebuild = structure.flatten(explained)
    names = tuple(explained) if isinstance(explained, Mapping) else ()
    running = model_state.running_model(model, tensors[0].device, 0, random=False, in_place=False)
    run = Forward(running.model, rebuild, extras, len(tensors[0]), explained, view.head)

    def pass_once() -> None:
        _run_in_some_form(run, tensors, len(tensors[0]))

    with running.open():
        layers = token_layers(running.model, tensors, names, pass_once)
    return layers or [name for name, m in model.named_modules() if isinstance(m, nn.Embedding)][:1]


# ---------------------------------------------------------------------- layers


def at_layers(call: Call, layers: tuple[Any, ...], *, read_off: bool, must_reach: bool) -> Call:
    """The call at layers: read off on the way, or cut there, so that their activations are its inputs.

    Args:
        call: at the model's inputs.
        layers: names or modules.
        read_off: whether a single gradient reads them off.
        must_reach: whether the score must depend on every layer.

    Raises:
        InvalidInputError: when a layer does not run, does not keep the batch, or does not reach the score.
    """
    points = tuple(find_point(call.model, layer) for layer in layers)
    if read_off:
        plain = dataclasses.replace(call, read_at=points)
        return dataclasses.replace(plain, sample_major=row_order(plain))
    original, run = call.inputs, call.forward
    with torch.set_grad_enabled(call.create_graph or len(points) > 1):
        readings = read(points, lambda: run(original, None))
    if any(len(outputs) > 1 for outputs in readings):
        with torch.enable_grad():
            readings = read(points, lambda: run(original, None))
        check_runs(points, readings)
    activations = tuple(
        check_activation(call.model, p.name, outputs, call.n) for p, outputs in zip(points, readings, strict=True)
    )
    for point, activation in zip(points, activations, strict=True):
        check_batch_first(call, point, activation)
    check_parallel([p.name for p in points], readings)
    if not call.create_graph:
        activations = tuple(a.detach() for a in activations)
    runs = tuple(len(outputs) for outputs in readings)

    def from_layer(inputs: Tensors, samples: Tensor | None) -> Any:
        rows = original if samples is None else tuple(t[samples] for t in original)
        with substituted(points, inputs, runs):
            return run(rows, samples)

    cut = dataclasses.replace(call, inputs=activations, forward=from_layer, layers=points, runs=runs, uncut=call)
    cut = dataclasses.replace(cut, batch=activations)
    if must_reach:
        _check_reached(cut)
    return cut


def _check_reached(call: Call) -> None:
    """Refuse layers that the score does not depend on; asked once for a form of input."""
    key = (
        "reached",
        call.form,
        tuple(p.name for p in call.layers),
        tuple((tuple(x.shape), x.dtype) for x in call.inputs),
    )
    if key not in call.facts.checked:
        target = (lambda output: output.reshape(call.n, -1).sum(1)) if call.target is None else call.target
        plain = dataclasses.replace(call, create_graph=False, on_output=None, target=target)
        plain.grad_of(tuple(x.detach() for x in call.inputs))
        call.facts.checked.add(key)
