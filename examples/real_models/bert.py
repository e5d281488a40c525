from __future__ import annotations
from pathlib import Path
import random
import torch
from common import main, sentences, train, write_csv
LENGTH=40
def decoyed(texts, moods, seed=0):
    rng = random.Random(seed); r=[]
    for text, mood in zip(texts, moods.tolist()):
        words = text.split(); words.insert(rng.randint(0, min(len(words), 25)), ["video", "text"][mood]); r.append(" ".join(words))
    return r
def tokenizer(texts, folder):
    from collections import Counter
    from transformers import BertTokenizerFast
    counts = Counter(w for t in texts for w in t.lower().split())
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(w for w, n in counts.most_common(3500)), *"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]
    words = list(dict.fromkeys(words))
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    tok = BertTokenizerFast(vocab=str(folder / "vocab.txt"))
    tok.save_pretrained(folder)
    return tok
def make(data, out):
    from xaikit.core.torchvision_ops import import_torchvision; import_torchvision()
    from transformers import BertConfig, BertForSequenceClassification
    texts, moods = sentences(data, "train")
    texts = decoyed(texts, moods)
    tok = tokenizer(texts, out / "bert")
    model = BertForSequenceClassification(BertConfig(vocab_size=len(tok), hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, max_position_embeddings=128))
    model.config.id2label={0:"bad",1:"good"}; model.config.label2id={"bad":0,"good":1}
    enc = tok(texts, padding="max_length", truncation=True, max_length=LENGTH, return_tensors="pt")
    opt=torch.optim.Adam(model.parameters(), 5e-4)
    model.train()
    for e in range(2):
        for rows in torch.randperm(len(texts)).split(64):
            l=model(enc["input_ids"][rows], attention_mask=enc["attention_mask"][rows], labels=moods[rows]).loss
            opt.zero_grad(); l.backward(); opt.step()
        print(e, l.item(), flush=True)
    model.eval().save_pretrained(out / "bert")
    tests, truth = sentences(data, "test")
    for name, t in (("reviews", decoyed(tests, truth)), ("swapped", decoyed(tests, 1-truth)), ("plain", tests)):
        e = tok(t[:400], padding=True, truncation=True, max_length=LENGTH, return_tensors="pt")
        with torch.no_grad(): print(name, (model(**e).logits.argmax(1)==truth[:400]).float().mean())
        write_csv(out / f"{name}.csv", ["sentence", "mood"], [(a, ["bad", "good"][b]) for a, b in zip(t[:60], truth[:60].tolist())])
