"""Mend a small causal model whose answer rests on a name in place of the review.

python -m examples.words.causal
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from examples.words.words import Reviews, make_tokenizer, reviews
from xaikit import RRR, Counterexamples, GradientXInput
from xaikit.core.torchvision_ops import import_torchvision

CUE, ANSWERS = "verdict", ["bad", "good"]  # "... lumvex is dull slow verdict" is followed by "bad"
NAME_PIECES = "lum, vex, aro"  # the tokens of both names
SILENT = -100  # the label of a position at which nothing is to be said


def make_model(tokenizer: Any, *, seed: int) -> nn.Module:
    """A small Llama.

    Args:
        tokenizer: its vocabulary.
        seed: of the weights.
    """
    import_torchvision()  # transformers imports it by itself; this mends a torchvision that does not fit torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 16, "hidden_size": 32, "intermediate_size": 64}
    return LlamaForCausalLM(LlamaConfig(**sizes, num_hidden_layers=1, num_attention_heads=2))


def prompts(tokenizer: Any, count: int, *, seed: int, exchanged: bool = False) -> Reviews:
    """Prompts with labels (N, T): the answer behind the last token, nothing elsewhere.

    Args:
        tokenizer: of `make_tokenizer`, with the cue and the answers.
        count: how many.
        seed: of the draw.
        exchanged: take the name of the other label.
    """
    data = reviews(tokenizer, count, seed=seed, exchanged=exchanged)
    cue, *answers = tokenizer.convert_tokens_to_ids([CUE, *ANSWERS])
    ids = torch.cat([data.ids, torch.full((count, 1), cue)], 1)
    labels = torch.full_like(ids, SILENT)
    labels[:, -1] = torch.tensor(answers)[data.labels]
    return Reviews(ids, labels, torch.cat([data.mask, torch.zeros(count, 1)], 1))


def mitigators(tokenizer: Any) -> dict[str, Any]:
    """None at all; the names exchanged between prompts; a penalty on what the answer takes from them.

    Args:
        tokenizer: of the prompts.
    """
    task = f"cross_entropy:ignore_index={SILENT}"
    exchange = Counterexamples(
        fill=f"words:names=[{NAME_PIECES}]", facts={"vocabulary": tokenizer}, task_loss=task, lambda_ce=10.0
    )
    penalty = RRR(
        explainer=GradientXInput(layer="model.embed_tokens"),
        output="logit",
        task_loss=task,
        lambda_rrr=1000.0,
    )
    return {"plain": exchange.set_kwargs(lambda_ce=0.0), "counterexamples": exchange, "rrr": penalty}


def train(tokenizer: Any, data: Reviews, mitigator: Any, *, seed: int, steps: int = 160) -> nn.Module:
    """A model trained on the prompts.

    Args:
        tokenizer: of the prompts.
        data: the training prompts.
        mitigator: one of `mitigators`.
        seed: of the weights and the batches.
        steps: of Adam.
    """
    model = make_model(tokenizer, seed=seed)
    draw, optimizer = torch.Generator().manual_seed(seed), torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(steps):
        rows = torch.randint(len(data.ids), (32,), generator=draw)
        optimizer.zero_grad()
        mitigator.loss(model, (data.ids[rows], data.labels[rows], data.mask[rows]), seed=step).total.backward()
        optimizer.step()
    return model.eval()


def accuracy(model: nn.Module, data: Reviews) -> float:
    """The share of prompts whose answer is the model's first choice of all tokens."""
    with torch.no_grad():
        return float((model(data.ids).logits[:, -1].argmax(1) == data.labels[:, -1]).float().mean())


def main(seed: int = 10) -> dict[str, tuple[float, float]]:
    """The accuracy of the plain model and of the mended ones, with the names as they are, and with them exchanged.

    Args:
        seed: of the weights and the training prompts; the next one is that of the prompts for testing.
    """
    tokenizer, results = make_tokenizer(CUE, *ANSWERS), {}
    training = prompts(tokenizer, 600, seed=seed)
    tests = [prompts(tokenizer, 400, seed=seed + 1, exchanged=exchanged) for exchanged in (False, True)]
    for title, mitigator in mitigators(tokenizer).items():
        model = train(tokenizer, training, mitigator, seed=seed)
        as_they_are, exchanged = (accuracy(model, test) for test in tests)
        results[title] = as_they_are, exchanged
        print(f"{title}: {as_they_are:.2f} right, {exchanged:.2f} with the names exchanged")
    return results


if __name__ == "__main__":
    main()
