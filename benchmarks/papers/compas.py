"""COMPAS: recidivism predicted from 17 inputs, six of them the race (Rieger et al. 2020).

Reported are the accuracy and the ratio of the false-positive rates of black and white defendants, on the published
split (80/10/10, torch seed 0), as means over five initialisations. Two things may be what must not matter:

* the race columns: no more can come of it than a model that never saw them, since other inputs know the race;
* the direction from the mean white to the mean black defendant of the training data: along it the model must be flat.

The weight is the one with the best validation accuracy among those whose ratio, on training and validation data, lies
below 1.7 by at least its standard error in a set of the validation's size (about 0.25): a limit that is only just met
there is missed half of the time elsewhere. Where there is none, it is the one with the smallest ratio. All are means
over the five initialisations, for slow explanations those of the first.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from benchmarks.papers.harness import PUBLISHED_RULES, Batches, Benchmark, Method, accuracy, fit, main
from xaikit import CDEP, RRR, Mitigator

CHARGES = {
    "theft": "Theft|Burglary",
    "driving": "Drivers|Driving|License|DUI|Veh",
    "possession": "Poss|Cocaine|Cannabis",
    "violence": "Battery|Assault|Violence|Abuse",
    "no charge": "no charge",
}
RACES = 6
BLACK, WHITE = 0, 2  # columns
LARGEST_RATIO = 1.7
N_PEOPLE = 6172  # of the published table, after the papers' filter


def load(path: Path) -> tuple[Tensor, Tensor]:
    """Inputs (6172, 17), race first, and whether there was another crime within two years."""
    table = pd.read_csv(path / "compas/compas-scores-two-years.csv.gz", keep_default_na=False)
    days = pd.to_numeric(table["days_b_screening_arrest"], errors="coerce")
    kept = table[
        days.between(-30, 30)
        & (table["is_recid"] != -1)
        & (table["c_charge_degree"] != "O")
        & (table["score_text"] != "N/A")
    ]
    if len(kept) != N_PEOPLE:
        sys.exit(f"COMPAS must have {N_PEOPLE} usable rows, as published, but {len(kept)} were found")
    columns = [
        pd.get_dummies(kept["race"]),
        kept["c_charge_degree"] == "M",
        pd.get_dummies(kept["age_cat"]),
        kept["sex"] == "Male",
        kept["priors_count"],
        *(kept["c_charge_desc"].str.contains(words) for words in CHARGES.values()),
    ]
    x = torch.tensor(pd.concat(columns, axis=1).to_numpy(dtype="float32"))
    return x, torch.tensor(kept["two_year_recid"].to_numpy())


class Compas(Benchmark):
    """COMPAS with the published network 17-5-5-2."""

    NAME = "compas"
    SEEDS = (0, 1, 2, 3, 4)
    VERSION = 2
    FIGURES = ("accuracy", "ratio", "black", "white")
    EPOCHS, BATCH, LR = 30, 256, 1e-2

    def __init__(self, path: Path, device: str = "cpu") -> None:
        super().__init__(path, device)
        raw, y = load(path)
        n = len(raw)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
        self.rows = dict(
            zip(("train", "validation", "test"), order.tensor_split([int(0.8 * n), int(0.9 * n)]), strict=True)
        )
        train = raw[self.rows["train"]]
        self.x, self.y = (raw - train.mean(0)) / train.std(0), y
        self.black, self.white = raw[:, BLACK] == 1, raw[:, WHITE] == 1
        inside = torch.zeros(n, dtype=torch.bool)
        inside[self.rows["train"]] = True
        self.direction = self.x[inside & self.black].mean(0) - self.x[inside & self.white].mean(0)
        self.race = torch.zeros(raw.shape[1])
        self.race[:RACES] = 1

    def network(self) -> nn.Module:
        return nn.Sequential(
            nn.Linear(17, 5), nn.ReLU(), nn.Dropout(0.1), nn.Linear(5, 5), nn.ReLU(), nn.Dropout(0.1), nn.Linear(5, 2)
        )

    def methods(self) -> Mapping[str, Method]:
        weights = (1e-1, 1e0, 1e1)
        finer = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)

        def columns(explainer: str, n_tuning: int = 5) -> Method:
            return Method(lambda w: self._rrr(w, explainer=explainer), weights, n_tuning=n_tuning)

        def direction(explainer: str, n_tuning: int = 5) -> Method:
            what = {"name": "direction", "settings": {"vector": self.direction.tolist()}}
            return Method(lambda w: self._rrr(w, explainer=explainer, what=what), finer, "everything", n_tuning)

        return {
            "vanilla": Method(),
            "race hidden": Method(data="hidden"),
            "counterexamples": Method(data="random"),
            "RRR": columns("gradient"),
            "CDEP, as published": Method(
                lambda w: self.mitigator(CDEP.published, lambda_cdep=w),
                (1.0,),
                data="published",
            ),
            "CDEP, irrelevant part": Method(
                lambda w: self.mitigator(CDEP, explainer=PUBLISHED_RULES, lambda_cdep=w), weights
            ),
            "integrated gradients": columns("integrated_gradients:n_steps=4", 1),
            "LRP epsilon": columns("lrp_uniform_epsilon:epsilon=0.1"),
            "gradient x input": columns("gradient_x_input"),
            "SmoothGrad": columns("smoothgrad:n_iter=4", 1),
            "gradient, direction": direction("gradient"),
            "SmoothGrad, direction": direction("smoothgrad:n_iter=4", 1),
        }

    def _rrr(self, weight: float, **settings: object) -> Mitigator:
        form = {"output": "logit", "target": "random", "reduction": "mean"}
        return self.mitigator(RRR, lambda_rrr=weight, **form, **settings)

    def train(self, model: nn.Module, method: Method, weight: float, seed: int) -> None:
        rows = self.rows["train"]
        x, y = self.x[rows], self.y[rows]
        if method.data == "hidden":
            x = x * (1 - self.race)
        elif method.data == "random":
            other = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(1000 + seed))]
            x = torch.where(self.race > 0, other, x)
        # The published code masks the columns that are not the race.
        mask = {"published": 1 - self.race, "everything": torch.ones_like(self.race)}.get(method.data, self.race)
        self.hidden = method.data == "hidden"
        mitigator = None if method.mitigator is None else method.mitigator(weight)
        fit(self, model, mitigator, Batches(x, y, mask, self.BATCH), seed)

    def validate(self, model: nn.Module) -> dict[str, float]:
        known = torch.cat([self.rows["train"], self.rows["validation"]])
        return self._figures(model, self.rows["validation"]) | {"ratio": self._figures(model, known)["ratio"]}

    def choose(self, tried: Mapping[float, Mapping[str, float]]) -> float:
        fair = {w: f for w, f in tried.items() if f["ratio"] + self.error(f) <= LARGEST_RATIO}
        if not fair:
            return min(tried, key=lambda w: tried[w]["ratio"])
        return max(fair, key=lambda w: fair[w]["accuracy"])

    def error(self, figures: Mapping[str, float]) -> float:
        """The standard error of the ratio in the validation set, to first order: two binomial rates."""
        rows = self.rows["validation"]
        innocent = self.y[rows] == 0
        relative = 0.0
        for rate, who in ((figures["black"] / 100, self.black), (figures["white"] / 100, self.white)):
            relative += (1 - rate) / (max(rate, 1e-3) * int((innocent & who[rows]).sum()))
        return figures["ratio"] * relative**0.5

    def measure(self, model: nn.Module) -> dict[str, float]:
        return self._figures(model, self.rows["test"])

    @torch.no_grad()
    def _figures(self, model: nn.Module, rows: Tensor) -> dict[str, float]:
        x = self.x[rows] * (1 - self.race) if self.hidden else self.x[rows]
        positive = model.eval()(x.to(self.device)).argmax(1).cpu() == 1
        innocent = self.y[rows] == 0
        black, white = (100 * positive[innocent & who[rows]].float().mean().item() for who in (self.black, self.white))
        return {
            "accuracy": accuracy(model, x, self.y[rows]),
            "ratio": black / max(white, 1e-9),
            "black": black,
            "white": white,
        }

    def check(self, table: Mapping[str, Mapping[str, float]]) -> list[tuple[str, bool]]:
        assert table["vanilla"]["ratio"] > 1.9, "the plain model is fair, so nothing is shown"
        return [
            (
                f"{name}: accuracy {row['accuracy']:.1f} >= 68.8 and ratio {row['ratio']:.2f} <= {LARGEST_RATIO}",
                row["accuracy"] >= 68.8 and row["ratio"] <= LARGEST_RATIO,
            )
            for name, row in table.items()
            if "direction" in name
        ]


if __name__ == "__main__":
    main(Compas)
