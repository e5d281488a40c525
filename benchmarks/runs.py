"""Data sets of any size: time over the bare passes, memory against the size, kills at random, two processes.

python -m benchmarks.runs            # all of it; the kills and the processes use the wall clock
python -m benchmarks.runs time       # one of: time, memory, kills, processes
"""

from __future__ import annotations

import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time as clock
from pathlib import Path

import torch
from torch.utils.data import Dataset

from benchmarks.measure import best_batch, frozen, gradient_pass, lenet, seconds, table
from xaikit import Gradient, VarGrad, explain_dataset, load_run

COPIES = 20


class Digits(Dataset):
    """As many 28 x 28 images as wanted, each made when it is read."""

    def __init__(self, n: int) -> None:
        self.n = n

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.rand(1, 28, 28, generator=torch.Generator().manual_seed(index))


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return lenet()


def time(n: int = 10_000) -> None:
    """Explaining all samples, over forward and input-only backward of n * COPIES rows in the best batch."""
    model = net()
    rows = best_batch(model, torch.rand(1, 1, 28, 28))
    x = torch.randn(rows, 1, 28, 28)

    def limit() -> None:
        with frozen(model):
            for _ in range(500 // rows * COPIES):
                gradient_pass(model, x)

    ratios = []
    limit()
    with tempfile.TemporaryDirectory() as folder:
        for part in range(n // 500):
            before = seconds(limit)
            own = seconds(
                lambda k=part: explain_dataset(
                    VarGrad(model, n_iter=COPIES), Digits(500), out=f"{folder}/{k}", batch_size=64, progress=False
                )
            )
            passes = (before + seconds(limit)) / 2 * 500 / (500 // rows * rows)
            ratios.append(own / passes)
    print(f"\nVarGrad(n_iter={COPIES}) of {n} digits in runs of 500, over the bare passes at batch {rows}: ", end="")
    print(f"{statistics.median(ratios):.3f} (quartiles {statistics.quantiles(ratios, n=4)})", flush=True)


MEMORY = """
import resource, sys, torch
from benchmarks.runs import Digits, net
from xaikit import VarGrad, explain_dataset
explain_dataset(VarGrad(net(), n_iter=2), Digits(int(sys.argv[1])), out=sys.argv[2], progress=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def memory() -> None:
    """Peak resident memory of a process that explains 1,000 and 10,000 images."""
    peaks = {}
    for n in (1_000, 10_000):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [sys.executable, "-c", MEMORY, str(n), folder + "/run"], check=True, capture_output=True, text=True
            )
        peaks[n] = float(done.stdout)
    table(
        "Peak memory",
        ["images", "MiB", "over 1,000"],
        [[n, round(p), round(p / peaks[1_000], 3)] for n, p in peaks.items()],
    )


WORK = """
import sys, time
from benchmarks.runs import Digits, net
from xaikit import VarGrad, explain_dataset
n, copies = int(sys.argv[2]), int(sys.argv[3])
print("begun", flush=True)
begun = time.process_time()
explain_dataset(VarGrad(net(), n_iter=copies), Digits(n), out=sys.argv[1], shard_size=32, progress=False)
print(time.process_time() - begun, flush=True)
"""


def _shards(out: Path) -> int:
    return len(list((out / "shards").glob("*.safetensors")))


def kills(times: int = 20, n: int = 4_000) -> None:
    """Kill the job `times` times at random moments, each time after it wrote a shard; then let it end."""
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as folder:
        out, done = Path(folder) / "run", []
        command = [sys.executable, "-c", WORK, str(out), str(n), "20"]
        for _ in range(times):
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
            process.stdout.readline()  # type: ignore[union-attr]
            before = _shards(out)
            while process.poll() is None and _shards(out) == before:  # every process gets something done first
                clock.sleep(0.01)
            clock.sleep(chance.uniform(0, 1))
            process.send_signal(signal.SIGKILL)
            process.wait()
            done.append(len(load_run(out)) if (out / "manifest.json").exists() else 0)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        run = load_run(out)
        seen = [sample.index for sample in run]
        whole = explain_dataset(Gradient(net()), Digits(n), out=Path(folder) / "other", progress=False)
        print(f"\nkilled {times} times (samples there after each: {done}); lost {len(run.missing)}, ", end="")
        print(f"doubled {len(seen) - len(set(seen))} of {len(whole)}", flush=True)


def processes(n: int = 1_000, rounds: int = 3) -> None:
    """One process against two that share the run, start-up left out.

    By the clock, which tells the truth on free cores only; and by processor time, the longer of the two processes'
    counting: what the clock would show if each had a core of its own.
    """

    def run(of: int, folder: str) -> tuple[float, float]:
        started = [
            subprocess.Popen(
                [sys.executable, "-c", WORK, folder, str(n), "20"],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "RANK": str(rank), "WORLD_SIZE": str(of)},
            )
            for rank in range(of)
        ]
        for process in started:
            process.stdout.readline()  # type: ignore[union-attr]
        begun = clock.perf_counter()
        own = [float(process.communicate()[0]) for process in started]
        assert not load_run(folder).missing
        return clock.perf_counter() - begun, max(own)

    rows: list[list[object]] = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            one, two = run(1, folder + "/one"), run(2, folder + "/two")
        rows.append([one[0], two[0], one[0] / two[0], one[1], two[1], one[1] / two[1]])
    head = ["one process, clock", "two", "ratio", "one process, processor", "the longer of two", "ratio"]
    table(f"{n} digits, seconds", head, rows)


if __name__ == "__main__":
    chosen = sys.argv[1:] or ["time", "memory", "kills", "processes"]
    for name in chosen:
        {"time": time, "memory": memory, "kills": kills, "processes": processes}[name]()
