"""AttnLRP beside LXT, its authors' own implementation, on whole Hugging Face models: relative difference, float64.

    python -m benchmarks.lrp_attention

LXT patches the classes of transformers for good, so ours runs first. It has no stabilizers on this way (gradient times
input), ours are 1e-14. LXT 2.1 does not run with transformers 5: its package imports names that are gone, so the files
for Llama and GPT-2 are loaded past it; and it puts a plain dict in place of the table of attention functions, so its
rule for attention is put around the eager function, which the model is told to use.
"""

from __future__ import annotations

import importlib
import sys
import types
import warnings
from pathlib import Path

import torch

from xaikit.core.torchvision_ops import import_torchvision
from xaikit.explainers.lrp import AttnLRP

NETS = {"Llama": ("hf:llama", "llama"), "GPT-2": ("hf:gpt2", "gpt2")}


def lxt(name):
    """The patches of LXT for one family of models."""
    root = Path(importlib.import_module("lxt").__file__).parent
    for package, folder in (("lxt.efficient", root / "efficient"), ("lxt.efficient.models", root / "efficient/models")):
        if package not in sys.modules:
            sys.modules[package] = types.ModuleType(package)
            sys.modules[package].__path__ = [str(folder)]
    return importlib.import_module(f"lxt.efficient.models.{name}").attnLRP


def main():
    torch.set_num_threads(1)
    import_torchvision()
    from tests import zoo

    print("| net | relative difference |\n|---|---|")
    for title, (key, family) in NETS.items():
        entry, model, tokens = zoo.get(key, dtype=torch.float64)
        embedding, targets, outputs = entry.embedding(model), torch.tensor([1, 2]), []
        explainer = AttnLRP(model, layer=embedding, epsilon=1e-14, stabilizer=1e-14)
        ours = explainer.attribute(tokens, targets)
        for target, patch in lxt(family).items():
            if isinstance(target, types.ModuleType):
                wrap = importlib.import_module("lxt.efficient.patches").wrap_attention_forward
                target.eager_attention_forward = wrap(target.eager_attention_forward)
            else:
                patch(target)
        model.m.set_attn_implementation("eager")

        def keep(_module, _inputs, output, outputs=outputs):
            outputs.append(output.detach().requires_grad_())
            return outputs[-1]

        handle = embedding.register_forward_hook(keep)
        score = model(tokens).gather(1, targets[:, None]).sum()
        handle.remove()
        (gradient,) = torch.autograd.grad(score, outputs)
        theirs = gradient * outputs[0].detach()
        print(f"| {title} | {float((ours - theirs).abs().max() / theirs.abs().max()):.0e} |", flush=True)


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        main()
