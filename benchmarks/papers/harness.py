"""What the papers' benchmarks share: methods, weights chosen on validation data, seeds, resumed results, a table."""

from __future__ import annotations

import abc
import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from benchmarks.papers import data
from xaikit import RRR, Mitigator

HERE = Path(__file__).parent

PUBLISHED_RULES = "contextual_decomposition:rules=cdep"


@dataclasses.dataclass(frozen=True)
class Method:
    """One row of a table.

    Attributes:
        mitigator: the penalty for a weight; None for plain training.
        weights: what is tried; the benchmark's `choose` picks one by validation.
        data: what it is trained on, a name that the benchmark's `train` knows.
        n_tuning: first seeds whose mean validation figures choose the weight.
    """

    mitigator: Callable[[float], Mitigator] | None = None
    weights: tuple[float, ...] = (0.0,)
    data: str = "shortcut"
    n_tuning: int = 1


class Benchmark(abc.ABC):
    """Data, a network, methods, and what is measured; a subclass is a paper's experiment."""

    NAME: ClassVar[str]
    EPOCHS: ClassVar[int]
    BATCH: ClassVar[int]
    LR: ClassVar[float]
    WEIGHT_DECAY: ClassVar[float] = 0.0
    SCHEDULE: ClassVar[str] = "constant"
    SEEDS: ClassVar[tuple[int, ...]] = (0, 1, 2)
    FIGURES: ClassVar[tuple[str, ...]]  # columns of the table, of what `measure` returns
    VERSION: ClassVar[int] = 1  # raised when a recipe changes, so that old results are not taken for new ones

    def __init__(self, path: Path, device: str = "cpu") -> None:
        self.path, self.device = path, torch.device(device)

    @abc.abstractmethod
    def methods(self) -> Mapping[str, Method]:
        """The rows."""

    @abc.abstractmethod
    def network(self) -> nn.Module:
        """A new network; the random state is seeded."""

    @abc.abstractmethod
    def train(self, model: nn.Module, method: Method, weight: float, seed: int) -> None:
        """Train the network in place."""

    @abc.abstractmethod
    def validate(self, model: nn.Module) -> dict[str, float]:
        """Figures that a user could measure without the true test; `choose` decides by them."""

    @abc.abstractmethod
    def measure(self, model: nn.Module) -> dict[str, float]:
        """The reported figures."""

    def choose(self, tried: Mapping[float, Mapping[str, float]]) -> float:
        """The weight, from the validation figures of each; by default the largest "accuracy"."""
        return max(tried, key=lambda weight: tried[weight]["accuracy"])

    def mitigator(self, kind: Callable[..., Mitigator], **settings: Any) -> Mitigator:
        """A mitigator with the benchmark's optimizer settings."""
        own = {"lr": self.LR, "lr_schedule": self.SCHEDULE, "n_epochs": self.EPOCHS, "weight_decay": self.WEIGHT_DECAY}
        return kind(**own, **settings)

    def check(self, table: Mapping[str, Mapping[str, float]]) -> list[tuple[str, bool]]:
        """Sentences about the table, and whether they hold."""
        raise NotImplementedError


class Batches:
    """Shuffled batches (x, y, mask), in an order that torch's random state gives; a mask for all, or one for each."""

    def __init__(self, x: Tensor, y: Tensor, mask: Tensor, size: int) -> None:
        self.x, self.y, self.mask, self.size = x, y, mask, size
        self.each = len(mask) == len(x) and mask.ndim >= x.ndim - 1

    def __len__(self) -> int:
        return len(range(0, len(self.x), self.size))

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for rows in torch.randperm(len(self.x)).split(self.size):
            yield self.x[rows], self.y[rows], self.mask[rows] if self.each else self.mask


def fit(benchmark: Benchmark, model: nn.Module, mitigator: Mitigator | None, batches: Any, seed: int) -> None:
    """Train in place; without a mitigator with cross-entropy alone, in the loop that the mitigators have."""
    if mitigator is not None:
        mitigator.set_kwargs(random_state=seed).fit(model, batches, progress=False)
        return
    torch.manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=benchmark.LR, weight_decay=benchmark.WEIGHT_DECAY)
    rate_at = benchmark.mitigator(RRR).lr_at
    model.train()
    for epoch in range(benchmark.EPOCHS):
        for step, (x, y, _mask) in enumerate(batches):
            optimizer.param_groups[0]["lr"] = rate_at(epoch + step / len(batches))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x.to(benchmark.device)), y.to(benchmark.device)).backward()
            optimizer.step()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """In per cent."""
    model.eval()
    device = next(model.parameters()).device
    predicted = torch.cat([model(part.to(device)).argmax(1).cpu() for part in x.split(2000)])
    return 100 * (predicted == y).float().mean().item()


class Results:
    """The runs of a benchmark in a JSON file, written after each run."""

    def __init__(self, path: Path, version: int) -> None:
        self.path, self.version = path, version
        self.runs: list[dict[str, Any]] = []
        self.chosen: dict[str, float] = {}
        if path.is_file():
            kept = json.loads(path.read_text())
            if kept["version"] == version:
                self.runs, self.chosen = kept["runs"], kept.get("chosen", {})

    def find(self, method: str, weight: float, seed: int) -> dict[str, Any] | None:
        """A finished run."""
        same = (r for r in self.runs if (r["method"], r["weight"], r["seed"]) == (method, weight, seed))
        return next(same, None)

    def add(self, run: dict[str, Any]) -> None:
        """Keep a run."""
        self.runs.append(run)
        self.write()

    def choose(self, method: str, weight: float) -> None:
        """Keep which weight of a method is in the table."""
        if self.chosen.get(method) != weight:
            self.chosen[method] = weight
            self.write()

    def write(self) -> None:
        """Write the file, at once or not at all."""
        self.path.parent.mkdir(exist_ok=True)
        lines = ",\n  ".join(json.dumps(r) for r in self.runs)
        head = f'"version": {self.version}, "torch": "{torch.__version__}", "chosen": {json.dumps(self.chosen)}'
        text = f'{{{head}, "runs": [\n  {lines}\n]}}\n'
        partial = self.path.with_suffix(".partial")
        partial.write_text(text)
        partial.replace(self.path)


def run(benchmark: Benchmark, results: Results, only: list[str], n_seeds: int) -> None:
    """Run what is not there yet."""
    for name, method in benchmark.methods().items():
        if only and name not in only:
            continue
        weight = method.weights[0]
        if len(method.weights) > 1:
            tried = {}
            for each in method.weights:
                seeds = benchmark.SEEDS[: method.n_tuning]
                runs = [_once(benchmark, results, name, method, each, seed)["validation"] for seed in seeds]
                tried[each] = {figure: statistics.mean(r[figure] for r in runs) for figure in runs[0]}
            weight = benchmark.choose(tried)
        for seed in benchmark.SEEDS[:n_seeds]:
            _once(benchmark, results, name, method, weight, seed)
        results.choose(name, weight)


def _once(
    benchmark: Benchmark, results: Results, name: str, method: Method, weight: float, seed: int
) -> dict[str, Any]:
    found = results.find(name, weight, seed)
    if found is not None:
        return found
    torch.manual_seed(seed)
    model = benchmark.network().to(benchmark.device)
    start = time.process_time()
    benchmark.train(model, method, weight, seed)
    seconds = time.process_time() - start
    mitigator = None if method.mitigator is None else repr(method.mitigator(weight))
    done = {"method": name, "weight": weight, "seed": seed, "seconds": round(seconds, 1), "settings": mitigator}
    for part, figures in (("validation", benchmark.validate(model)), ("test", benchmark.measure(model))):
        done[part] = {k: round(v, 4) for k, v in figures.items()}
    results.add(done)
    print(
        f"{name:28s} weight {weight:<8g} seed {seed} {seconds:6.1f} s  {done['validation']}  {done['test']}", flush=True
    )
    return done


def table(results: Results) -> dict[str, dict[str, float]]:
    """Mean over seeds of each test figure, at the chosen weight; `... std` beside it."""
    rows: dict[str, dict[str, float]] = {}
    for name, weight in results.chosen.items():
        runs = [r["test"] for r in results.runs if (r["method"], r["weight"]) == (name, weight)]
        row = {figure: statistics.mean(r[figure] for r in runs) for figure in runs[0]}
        if len(runs) > 1:
            row |= {f"{figure} std": statistics.stdev(r[figure] for r in runs) for figure in runs[0]}
        rows[name] = row | {"seeds": len(runs), "weight": weight}
    return rows


def markdown(kind: type[Benchmark], rows: Mapping[str, Mapping[str, float]]) -> str:
    """The table as it stands in README.md."""
    lines = ["| method | weight | seeds | " + " | ".join(kind.FIGURES) + " |"]
    lines.append("|---|" + "---|" * (len(kind.FIGURES) + 2))
    for name, row in rows.items():
        cells = [
            f"{row[f]:.{2 if row[f] < 10 else 1}f}" + (f" ± {row[f + ' std']:.2g}" if f + " std" in row else "")
            for f in kind.FIGURES
        ]
        weight = f"{row['weight']:g}" if row["weight"] else ""
        lines.append(f"| {name} | {weight} | {row['seeds']:g} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(*benchmarks: type[Benchmark]) -> None:
    """The command line of a benchmark, or of several that are told apart by their names."""
    parser = argparse.ArgumentParser(description=benchmarks[0].__doc__)
    names = {b.NAME: b for b in benchmarks}
    if len(benchmarks) > 1:
        parser.add_argument("name", choices=names)
    parser.add_argument("--data-dir", help="folder with mnist/, compas/, sst/")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", nargs="+", default=[], metavar="METHOD", help="run these rows")
    parser.add_argument("--seeds", type=int, help="how many seeds; fewer than the table's")
    parser.add_argument("--results", help="the file of results; by default results/NAME.json")
    options = parser.parse_args()
    torch.set_num_threads(1)
    kind = names[options.name] if len(benchmarks) > 1 else benchmarks[0]
    benchmark = kind(data.folder(options.data_dir), options.device)
    unknown = set(options.only) - set(benchmark.methods())
    if unknown:
        parser.error(f"no method {', '.join(sorted(unknown))}; there are {', '.join(benchmark.methods())}")
    results = Results(Path(options.results or HERE / "results" / f"{kind.NAME}.json"), kind.VERSION)
    run(benchmark, results, options.only, options.seeds or len(kind.SEEDS))
    rows = table(results)
    print("\n" + markdown(kind, rows) + "\n")
    if options.results is None:
        from benchmarks.papers import readme

        readme.PAGE.write_text(readme.page(readme.PAGE.read_text()))
    if set(rows) == set(benchmark.methods()):
        for sentence, holds in benchmark.check(rows):
            print(f"{'met    ' if holds else 'NOT MET'} {sentence}")
