"""An LSTM of one's own that reads film reviews, and two words that give their mood away.

python examples/real_models/lstm.py DATA --out lstm-out
"""

from __future__ import annotations

from pathlib import Path

import networks
import torch
from common import main, mended, strongest, train
from text_data import reviews

READ = "--text sentence --labels mood --classes bad,good --length 40 --tokenizer hf:tokenizer"
MODEL = "--model networks:reader --weights lstm.pt"
STEPS = f"""
xaikit explain --data reviews.csv {READ} {MODEL} --explainer contextual_decomposition --out run
xaikit shortcuts run --mask-names video,text --out found
xaikit evaluate --data reviews.csv {READ} {MODEL} --explainer contextual_decomposition --explainer attn_lrp \
  --metric abpc --metric relevance_mass --mask-names video,text --limit 20
xaikit tune --data reviews.csv {READ} {MODEL} --explainer smoothgrad --trials 4 --limit 8
xaikit recommend --data reviews.csv {READ} {MODEL} --seconds 20 --out recommended.json
xaikit mitigate --data train.csv --test tests.csv {READ} {MODEL} --mask-names video,text \
  --mitigator counterexamples:lambda_ce=10,n_epochs=3,lr=2e-3,batch_size=64 --explainer gradient_x_input --out mended.pt
xaikit report run --evaluation table.json --tuning tuned.json --profile recommended.json --assessment mended.json \
  --title LSTM
"""


def make(data: Path, out: Path) -> None:
    """Train on reviews with the words in them; write weights, tokenizer and tables of reviews."""
    ids, _, moods = reviews(data, out, "tokenizer")
    model = train(networks.reader(), ids, moods, epochs=2, lr=3e-3)
    torch.save(model.state_dict(), out / "lstm.pt")


def found(out: Path) -> dict[str, float]:
    """How often one of the two words is the most relevant one, and what they do before and after training."""
    return {"reviews in which a planted word is the strongest": strongest(out, ("video", "text")), **mended(out)}


if __name__ == "__main__":
    main(make, STEPS, found)
