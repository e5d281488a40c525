from __future__ import annotations
from pathlib import Path
import torch
from common import main, sentences, train, write_csv
import networks
from bert import decoyed, tokenizer, LENGTH
def make(data, out):
    texts, moods = sentences(data, "train")
    texts = decoyed(texts, moods)
    tok = tokenizer(texts, out / "tokenizer")
    ids = tok(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")["input_ids"]
    model = networks.reader()
    train(model, ids, moods, epochs=2, lr=3e-3)
    torch.save(model.state_dict(), out / "lstm.pt")
    tests, truth = sentences(data, "test")
    for name, t in (("reviews", decoyed(tests, truth)), ("swapped", decoyed(tests, 1-truth)), ("plain", tests)):
        e = tok(t[:400], padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")["input_ids"]
        with torch.no_grad(): print(name, (model(e).argmax(1)==truth[:400]).float().mean())
        write_csv(out / f"{name}.csv", ["sentence", "mood"], [(a, ["bad", "good"][b]) for a, b in zip(t[:60], truth[:60].tolist())])
        import numpy as np
        np.savez(out / f"{name}.npz", x=e[:60].numpy(), y=truth[:60].numpy())
