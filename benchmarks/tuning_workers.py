"""One worker against two of `xaikit tune`: trials per minute, none of them a repetition, once the workers run.

Run as ``python -m benchmarks.tuning_workers`` on a machine with two idle cores; it is the clock that counts here.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.measure import table
from xaikit.tuning.study import disconnect, open_storage

TRIALS, ROUNDS = 50, 3
MODEL = "xaikit.cli.demo_digits:make_network"


def trials_per_minute(workers: int, storage: str, folder: Path) -> float:
    """From the second trial on, so that starting the processes does not count."""
    import optuna

    name = f"{workers}"
    command = [sys.executable, "-m", "xaikit", "tune", str(folder / "x.npy"), "--model", MODEL, "--target", "3"]
    command += ["--explainer", "lrp_epsilon_plus", "--vary", "epsilon", "--sampler", "random"]
    command += ["--trials", str(TRIALS), "--workers", str(workers), "--storage", storage, "--study", name]
    command += ["--no-figure", "--quiet", "--out", str(folder / "out.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    opened = open_storage(storage)
    done = [t for t in optuna.load_study(study_name=name, storage=opened).trials if t.state.is_finished()]
    disconnect(opened)
    ends = sorted(t.datetime_complete for t in done)[2 * workers :]
    return 60 * (len(ends) - 1) / (ends[-1] - ends[0]).total_seconds()


def main() -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    rows = []
    for kind in ("journal", "sqlite"):
        speeds: dict[int, list[float]] = {1: [], 2: []}
        for _ in range(ROUNDS):
            for workers in (1, 2):
                with tempfile.TemporaryDirectory() as name:
                    folder = Path(name)
                    np.save(folder / "x.npy", np.random.default_rng(0).random((512, 1, 12, 12), np.float32))
                    storage = f"sqlite:///{folder}/s.db" if kind == "sqlite" else f"{folder}/s.journal"
                    speeds[workers].append(trials_per_minute(workers, storage, folder))
        one, two = (statistics.median(speeds[w]) for w in (1, 2))
        ratio = statistics.median(b / a for a, b in zip(speeds[1], speeds[2], strict=True))
        rows.append([kind, one, two, ratio])
    table("Trials per minute", ["storage", "one worker", "two workers", "ratio"], rows)


if __name__ == "__main__":
    main()
