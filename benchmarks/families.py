"""One small model of each family of timm and transformers, random weights, as it comes: do the promises hold?

    python -m benchmarks.families [timm | classifiers | generators] [--only WORD]

Each model is explained by a few methods. Told is what does not hold: a sample alone is the sample in its batch, values
are the same with a graph, finite, complete (contextual decomposition), the model is as it was; of a generation, that
its rows are those of one call a token. Errors other than xaikit's own are crashes. Models beyond MAX_PARAMETERS, and
configurations that transformers itself refuses at this size, are left out and counted.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from xaikit import EXPLAINERS
from xaikit.core.errors import XaikitError
from xaikit.core.structure import flatten
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.language import explain_generation

MAX_PARAMETERS, TOLERANCE = 1.2e7, 5e-3  # deep nets with random weights amplify float32's rounding to about 3e-3
METHODS = ("gradient", "lrp_uniform_epsilon", "contextual_decomposition")
SMALL: dict[str, Any] = {
    **dict.fromkeys("hidden_size d_model dim n_embd embed_dim embedding_size emb_dim".split(), 32),  # noqa: SIM905
    **dict.fromkeys("num_hidden_layers n_layer n_layers num_layers encoder_layers decoder_layers".split(), 2),  # noqa: SIM905
    **dict.fromkeys("num_attention_heads n_head n_heads num_heads encoder_attention_heads".split(), 4),  # noqa: SIM905
    **dict.fromkeys("intermediate_size ffn_dim encoder_ffn_dim decoder_ffn_dim d_ff hidden_dim".split(), 64),  # noqa: SIM905
    **dict.fromkeys("num_experts num_local_experts n_routed_experts".split(), 4),  # noqa: SIM905
    **{"decoder_attention_heads": 4, "num_key_value_heads": 2, "num_experts_per_tok": 2, "d_kv": 8, "head_dim": 8},
    **{"vocab_size": 99, "max_position_embeddings": 64, "n_positions": 64, "moe_intermediate_size": 32},
    **{"num_labels": 5, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "attention_window": [4, 4]},
}
Made = tuple[nn.Module, Any, dict[str, Any]]


class TooLargeError(Exception):
    """A model that would take minutes."""


def built(make: Callable[[], nn.Module]) -> nn.Module:
    """The model with weights that are all at work, also those that start at 0."""
    with torch.device("meta"):
        if sum(p.numel() for p in make().parameters()) > MAX_PARAMETERS:
            raise TooLargeError
    torch.manual_seed(0)
    model = make().eval()
    for p in model.parameters():
        if p.is_floating_point() and float(p.detach().abs().max()) < 1e-3:
            nn.init.normal_(p, 0.3 if p.ndim < 2 else 0.0, 0.1 if p.ndim < 2 else 0.02)
    return model


def timm_models() -> Iterator[tuple[str, Callable[[], Made]]]:
    """The smallest model of each module of timm, by its name, at 64 pixels where it takes them."""
    import timm

    small = ("test_", "nano", "pico", "femto", "atto", "xxs", "xs", "tiny", "_t", "s0", "050", "small", "b0")

    def size(name: str) -> tuple[int, int]:
        return next((i for i, word in enumerate(small) if word in name), len(small)), len(name)

    def make(module: str) -> Made:
        for name in sorted(timm.list_models(module=module), key=size)[:8]:
            try:
                model = built(lambda name=name: timm.create_model(name, num_classes=5))
            except TooLargeError:
                continue
            channels, side, _ = model.default_cfg.get("input_size", (3, 224, 224))
            x = torch.randn(2, channels, 64, 64)
            try:
                with torch.no_grad():
                    model(x)
            except (RuntimeError, AssertionError, ValueError):
                x = torch.randn(2, channels, side, side)
            return model, x, {}
        raise TooLargeError

    for module in timm.list_modules():
        if timm.list_models(module=module):
            yield module, lambda module=module: make(module)


def transformers_models(*endings: str) -> Iterator[tuple[str, Callable[[], Made]]]:
    """Each class of transformers whose name ends so, with a small configuration and token ids."""
    import transformers

    def make(kind: Any) -> Made:
        default = kind.config_class()
        config = kind.config_class(**{k: v for k, v in SMALL.items() if hasattr(default, k)}, use_cache=False)
        model: Any = built(lambda: kind(config))
        ids = torch.randint(5, 90, (2, 12), generator=torch.Generator().manual_seed(3))
        ids[:, -1] = 2
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        ran: list[str] = []
        tables = [(n, m) for n, m in model.named_modules() if isinstance(m, nn.Embedding) and "posit" not in n]
        hooks = [m.register_forward_hook(lambda *_, n=n: ran.append(n)) for n, m in tables]
        with torch.no_grad():
            model(**inputs)
        for hook in hooks:
            hook.remove()
        preferred = next((n for n, m in tables if m is model.get_input_embeddings()), None)
        return model, inputs, {"layer": preferred if preferred in ran else ran[0]}

    for name in sorted(dir(transformers)):
        kind = getattr(transformers, name, None) if name.endswith(endings) and not name.startswith("Auto") else None
        if hasattr(kind, "config_class"):
            yield name, lambda kind=kind: make(kind)


def distance(a: Any, b: Any) -> float:
    """The largest difference over the largest value."""
    (x, *_), (y, *_) = flatten(a, "a")[0], flatten(b, "b")[0]
    return float((x.detach() - y.detach()).abs().max() / x.detach().abs().max().clamp_min(1e-30))


def state_of(model: nn.Module) -> list[Tensor]:
    """Copies of all parameters and buffers."""
    return [t.detach().clone() for t in (*model.parameters(), *model.buffers())]


def of_classifier(name: str, model: nn.Module, x: Any, options: dict[str, Any]) -> list[str]:
    """What does not hold of one method on two samples."""
    explainer = EXPLAINERS.create(name, **options).bind(model)
    explained = explainer.explain(x, [1, 0])
    values = next(iter(explained.values.values())) if isinstance(explained.values, dict) else explained.values
    first = {k: v[:1] for k, v in x.items()} if isinstance(x, dict) else x[:1]
    faults = []
    if (apart := distance(values[:1], explainer.attribute(first, [1]))) > TOLERANCE:
        faults.append(f"alone {apart:.0e}")
    if not bool(values.isfinite().all()):
        faults.append("not finite")
    if name == "contextual_decomposition":
        if float((explained.gap / explained.scores.abs()).abs().max()) > TOLERANCE:
            faults.append("incomplete")
    elif (apart := distance(values, explainer.attribute(x, [1, 0], create_graph=True))) > TOLERANCE:
        faults.append(f"with a graph {apart:.0e}")
    return faults


def of_generator(name: str, model: nn.Module, _x: Any, _options: dict[str, Any]) -> list[str]:
    """What does not hold of one method on an answer of three tokens to a prompt of six."""
    prompt, answer = [11, 12, 13, 14, 15, 16], [21, 22, 23]
    tolerance = 1e-6
    try:
        model.double()(input_ids=torch.tensor([prompt]))
    except RuntimeError:  # experts in groups take no float64
        model.float()
        tolerance = TOLERANCE
    explainer = EXPLAINERS.create(name).bind(model)
    rows = explain_generation(explainer, None, prompt, generated=answer).values
    last = explain_generation(explainer, None, [*prompt, *answer[:2]], generated=answer[2:]).values
    apart = distance(rows[2, :8], last[0, :8])
    return [f"one call a token {apart:.0e}"] if apart > tolerance else []


SETS: dict[str, tuple[Callable[[], Iterator[tuple[str, Callable[[], Made]]]], Any, tuple[str, ...]]] = {
    "timm": (timm_models, of_classifier, METHODS),
    "classifiers": (lambda: transformers_models("ForSequenceClassification"), of_classifier, METHODS),
    "generators": (
        lambda: transformers_models("ForCausalLM", "LMHeadModel"),
        of_generator,
        ("gradient_x_input", "attn_lrp", "lrp_uniform_epsilon"),
    ),
}


def run(kind: str, only: str = "") -> None:
    """Print a line for each family, and how many were sound, refused or left out."""
    models, faults_of, methods = SETS[kind]
    counts = {"sound": 0, "refused": 0, "at fault": 0, "left out": 0}
    for family, make in models():
        if only.lower() not in family.lower():
            continue
        start = time.perf_counter()
        try:
            with torch.random.fork_rng():
                model, x, options = make()
        except Exception as reason:  # noqa: BLE001  whatever a library says of a configuration that it does not take
            counts["left out"] += 1
            print(f"{family:48} left out: {type(reason).__name__}", flush=True)
            continue
        state, told, outcome = state_of(model), [], "sound"
        for method in methods:
            try:
                faults = faults_of(method, model, x, options)
                outcome = "at fault" if faults else outcome
            except XaikitError as refusal:
                faults, outcome = [f"refused: {refusal}"], "refused" if outcome == "sound" else outcome
            except Exception as crash:  # noqa: BLE001  that is what is counted
                faults, outcome = [f"crash: {type(crash).__name__}: {crash}"], "at fault"
            told += [f"  {method}: {fault}"[:200] for fault in faults]
        if kind != "generators" and not all(map(torch.equal, state, state_of(model))):
            told, outcome = [*told, "  the model was changed"], "at fault"
        counts[outcome] += 1
        print(f"{family:48} {outcome} ({time.perf_counter() - start:.0f} s)", *told, sep="\n", flush=True)
    print(f"{kind}: " + ", ".join(f"{n} {word}" for word, n in counts.items()))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", choices=[*SETS, []], default=list(SETS))
    parser.add_argument("--only", default="", help="families whose name holds this")
    arguments = parser.parse_args(sys.argv[1:])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    import_torchvision()
    for kind in arguments.kinds:
        run(kind, arguments.only)


if __name__ == "__main__":
    main()
