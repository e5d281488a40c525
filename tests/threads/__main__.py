"""The command line: many tries, a line for each wrong result, a summary."""

from __future__ import annotations

import argparse
import collections

from tests.threads.tries import wrong_results
from tests.threads.works import WORKS


def run() -> None:
    """Runs tries; the exit status is 1 where one gives a wrong result."""
    parser = argparse.ArgumentParser(prog="python -m tests.threads", description=__doc__)
    parser.add_argument("--tries", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    faults: collections.Counter[str] = collections.Counter()
    for sentence in wrong_results(arguments.tries, arguments.seed):
        print(sentence, flush=True)
        faults[sentence.rpartition(": ")[0]] += 1
    pairs = sum(len(works) * (len(works) + 1) // 2 for works in WORKS.values())
    print(f"\n{sum(faults.values())} wrong results in {arguments.tries} tries over {pairs} pairs of works")
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    run()
