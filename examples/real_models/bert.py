"""A Hugging Face BERT of two layers that reads film reviews, and two words that give their mood away.

python examples/real_models/bert.py DATA --out bert-out
"""

from __future__ import annotations

from pathlib import Path

import torch
from common import main, mended, strongest
from text_data import MOODS, reviews
from torch import nn

READ = "--text sentence --labels mood --length 40 --model hf:bert"
STEPS = f"""
xaikit explain --data reviews.csv {READ} --explainer attn_lrp --out run
xaikit shortcuts run --mask-names video,text --out found
xaikit evaluate --data reviews.csv {READ} \
  --explainer attn_lrp --explainer gradient --metric abpc --metric relevance_mass --mask-names video,text --limit 20
xaikit tune --data reviews.csv {READ} --explainer smoothgrad --trials 4 --limit 8
xaikit recommend --data reviews.csv {READ} --seconds 20 --out recommended.json
xaikit mitigate --data train.csv --test tests.csv {READ} --mask-names video,text \
  --mitigator counterexamples:lambda_ce=10,n_epochs=2,lr=5e-4,batch_size=64 --explainer gradient_x_input --out mended.pt
xaikit report run --evaluation table.json --tuning tuned.json --profile recommended.json --assessment mended.json \
  --title BERT
"""


def make(data: Path, out: Path) -> None:
    """Train on reviews with the words in them; write model and tokenizer to bert/, tables of reviews beside them."""
    ids, words, moods = reviews(data, out, "bert")
    from transformers import BertConfig, BertForSequenceClassification

    config = BertConfig(
        vocab_size=3600, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128,
        id2label=dict(enumerate(MOODS)), label2id={mood: i for i, mood in enumerate(MOODS)},
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-4)
    for rows in torch.randperm(len(ids)).split(64):
        output = model(ids[rows], attention_mask=words[rows])
        optimizer.zero_grad()
        nn.functional.cross_entropy(output.logits, moods[rows]).backward()
        optimizer.step()
    model.eval().save_pretrained(out / "bert")


def found(out: Path) -> dict[str, float]:
    """How often one of the two words is the most relevant one, and what they do before and after training."""
    return {"reviews in which a planted word is the strongest": strongest(out, ("video", "text")), **mended(out)}


if __name__ == "__main__":
    main(make, STEPS, found)
