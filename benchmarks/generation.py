"""Generated text: time and memory of explain_generation and explain_segments against the passes that cannot be avoided.

``python -m benchmarks.generation`` prints the tables of benchmarks/README.md; ``--quick`` takes a smaller model.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn

from benchmarks.measure import frozen, paired, seconds
from xaikit import AttnLRP, GradientXInput, IntegratedGradients
from xaikit.core.torchvision_ops import import_torchvision
from xaikit.language.coalition_scores import CoalitionScorer
from xaikit.language.coalitions import LeavingOut, coalitions_of
from xaikit.language.rows import explain_rows
from xaikit.language.scores import AnswerScore, token_scores
from xaikit.language.teacher import teach
from xaikit.metrics.cost import peak_memory


def llama(layers: int = 4, width: int = 256, window: int = 2048) -> nn.Module:
    """A Llama with random weights."""
    import_torchvision()
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            hidden_size=width, intermediate_size=688, num_hidden_layers=layers, num_attention_heads=8,
            num_key_value_heads=4, vocab_size=2000, max_position_embeddings=window,
        )
    ).eval()  # fmt: skip


def least(model: nn.Module, ids: Tensor, n_answer: int, backwards: int) -> None:
    """One forward pass, and a backward pass to the embeddings for each generated token."""
    embedded = model.get_input_embeddings()(ids[:, :-1]).detach().requires_grad_()
    with frozen(model):
        logits = model(inputs_embeds=embedded, logits_to_keep=n_answer, use_cache=False).logits[0]
        for i, token in enumerate(ids[0, -n_answer:].tolist()[:backwards]):
            torch.autograd.grad(logits[i, token], embedded, retain_graph=True)


def tokens(n_prompt: int, n_answer: int, rounds: int, steps: int) -> None:
    """AttnLRP, gradient x input and integrated gradients of all generated tokens."""
    model = llama()
    ids = torch.randint(0, 2000, (1, n_prompt + n_answer), generator=torch.Generator().manual_seed(0))
    prompt, answer = ids[0, :n_prompt].tolist(), ids[0, n_prompt:].tolist()
    explainers = {
        "attn_lrp": (AttnLRP(model), 1),
        "gradient_x_input": (GradientXInput(model), 1),
        f"integrated_gradients, {steps} steps": (IntegratedGradients(model, n_steps=steps), steps),
    }
    print(f"prompt of {n_prompt} tokens, answer of {n_answer}\n\n| method | time ratio | memory ratio |\n|---|---|---|")
    memory = peak_memory(lambda: least(model, ids, n_answer, 1))
    for name, (explainer, scale) in explainers.items():

        def run(explainer=explainer):
            teacher = teach(explainer, prompt, answer, {})
            scores = token_scores(AnswerScore(), teacher.first, answer, [])
            explain_rows(teacher.explainer(explainer), teacher, scores)

        times = 1 if scale > 1 else rounds
        ratio = paired({name: run}, lambda: least(model, ids, n_answer, n_answer), rounds=times, scale=scale)[name]
        print(f"| {name} | {ratio:.2f} | {peak_memory(run) / memory:.2f} |", flush=True)


def documents(n_documents: int, length: int, n_answer: int, n_coalitions: int) -> None:
    """Shapley values over documents: our tree of caches against batches of whole prompts with a cached first part."""
    model = llama(window=4096)
    draw = torch.Generator().manual_seed(0)
    ids = [torch.randint(0, 2000, (length,), generator=draw).tolist() for _ in range(n_documents)]
    first, answer = list(range(20)), list(range(n_answer))
    coalitions = coalitions_of(LeavingOut("shapley", n_coalitions=n_coalitions), n_documents, 0)
    pieces = [(first, None), *[(part, i) for i, part in enumerate(ids)], ([5, 6], None)]

    def ours() -> None:
        scorer = CoalitionScorer(
            model, pieces=pieces, replacements=[], answer=answer, score=lambda logits: logits[:, 0], device="cpu"
        )
        scorer.scores(coalitions)

    def plain(coalition) -> None:
        rest = [token for part, is_there in zip(ids, coalition, strict=True) if is_there for token in part]
        with torch.no_grad():
            model(torch.tensor([[*rest, 5, 6, *answer[:-1]]]), logits_to_keep=n_answer, use_cache=False)

    ours()
    best = sum(seconds(lambda c=c: plain(c)) for c in coalitions)  # as if the first part were free
    print(f"\n{n_documents} documents of {length} tokens, answer of {n_answer}, {len(coalitions)} coalitions")
    print(f"time over passes on whole prompts whose first part is free: {seconds(ours) / best:.2f}")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short texts, one round")
    parser.add_argument("--steps", type=int, default=20, help="of integrated gradients")
    parser.add_argument("--rounds", type=int, default=3, help="of which the median counts")
    parser.add_argument("--part", choices=["tokens", "documents"], help="only this table")
    arguments = parser.parse_args()
    quick = arguments.quick
    if arguments.part != "documents":
        tokens(64 if quick else 256, 8 if quick else 64, 1 if quick else arguments.rounds, arguments.steps)
    if arguments.part != "tokens":
        documents(4 if quick else 8, 50 if quick else 200, 20, 16 if quick else 128)


if __name__ == "__main__":
    main()
