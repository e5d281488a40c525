"""A tabular MLP that predicts the COMPAS score of a person, and how much of it is race.

python examples/real_models/mlp.py DATA --out mlp-out
"""

from __future__ import annotations

from pathlib import Path

import networks
import torch
from common import compas, main, mended, share, train, write_csv

RACES = "race_African-American,race_Caucasian,race_Hispanic,race_Other"
READ = "--labels score --classes low,high"
MODEL = "--model networks:offender --weights mlp.pt"
STEPS = f"""
xaikit explain --data people.csv {READ} {MODEL} --explainer integrated_gradients --out run
xaikit shortcuts run --of-class 1 --mask-names {RACES} --out found
xaikit evaluate --data people.csv {READ} {MODEL} --explainer integrated_gradients --explainer gradient \
  --metric abpc --metric relevance_mass --mask-names {RACES} --limit 100
xaikit tune --data people.csv {READ} {MODEL} --explainer smoothgrad --trials 6 --limit 40
xaikit recommend --data people.csv {READ} {MODEL} --seconds 10 --out recommended.json
xaikit mitigate --data train.csv --test people.csv {READ} {MODEL} --mask-names {RACES} --out mended.pt \
  --explainer integrated_gradients --mitigator \
  rrr:lambda_rrr=10,n_epochs=4,lr=2e-3,batch_size=64,output=logit,target=random,reduction=mean
xaikit report run --evaluation table.json --tuning tuned.json --profile recommended.json --assessment mended.json \
  --title COMPAS
"""


def make(data: Path, out: Path) -> None:
    """Train on standardised columns; write weights and tables of people."""
    header, x, high = compas(data)
    x = (x - x.mean(0)) / x.std(0)
    model = train(networks.offender(), x[:4800], high[:4800], epochs=8, lr=3e-3)
    torch.save(model.state_dict(), out / "mlp.pt")
    for name, rows in {"train": slice(0, 2000), "people": slice(4800, 5100)}.items():
        table = zip(x[rows].tolist(), high[rows].tolist(), strict=True)
        write_csv(
            out / f"{name}.csv",
            [*header, "score"],
            [[*(f"{value:.4f}" for value in row), ("low", "high")[k]] for row, k in table],
        )


def found(out: Path) -> dict[str, float]:
    """How much relevance the four columns of race have, and what is left after training."""
    return {"relevance in race": share(out, lambda v: v[-4:].sum() / v.sum()), **mended(out)}


if __name__ == "__main__":
    main(make, STEPS, found)
