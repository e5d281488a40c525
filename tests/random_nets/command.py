"""The command line of the random nets: many seeds, a line for each violation, a summary."""

from __future__ import annotations

import argparse
import collections
import multiprocessing
import re
from collections.abc import Iterator

import torch

from tests.random_nets.checks import Outcome, check

PLACE = re.compile(r", called in .*|(?<=layer) '[^']*' returns \([^)]*\)")  # what differs from net to net


def run() -> None:
    """Checks a range of seeds; the exit status is 1 where one violates."""
    parser = argparse.ArgumentParser(prog="python -m tests.random_nets", description=__doc__)
    parser.add_argument("--seeds", default="0:100", help="START:STOP, or one seed")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--net", action="store_true", help="print each net that violates")
    arguments = parser.parse_args()
    start, _, stop = arguments.seeds.partition(":")
    seeds = range(int(start), int(stop or int(start) + 1))
    violating: list[int] = []
    methods: collections.Counter[str] = collections.Counter()
    refusals: collections.Counter[str] = collections.Counter()
    for outcome in _outcomes(seeds, arguments.jobs):
        case = outcome.case
        for sentence in outcome.violations:
            print(f"seed {case.seed}: {sentence}\n    {case}", flush=True)
            methods[sentence.split(":")[0]] += 1
        if outcome.violations:
            violating.append(case.seed)
            if arguments.net:
                print(case.net, flush=True)
        for sentence, count in outcome.refusals.items():
            refusals[PLACE.sub("", sentence)] += count
    print(f"\n{len(violating)} of {len(seeds)} seeds violate: {', '.join(map(str, violating)) or 'none'}")
    for name, count in methods.most_common():
        print(f"{count:6d}  {name}")
    print(f"\n{sum(refusals.values())} refusals in xaikit's words")
    for sentence, count in refusals.most_common(30):
        print(f"{count:6d}  {sentence}")
    raise SystemExit(1 if violating else 0)


def _outcomes(seeds: range, jobs: int) -> Iterator[Outcome]:
    if jobs == 1:
        torch.set_num_threads(1)
        yield from map(check, seeds)
        return
    # Nets hold functions without a name, which cannot be sent to another process: only sentences are.
    with multiprocessing.get_context("spawn").Pool(jobs, torch.set_num_threads, (1,)) as pool:
        for outcome in pool.imap(_sentences, seeds, chunksize=5):
            yield Outcome(outcome[0], *outcome[1:])


def _sentences(seed: int) -> tuple:
    outcome = check(seed)
    return _Description(seed, str(outcome.case)), outcome.violations, outcome.refusals


class _Description:
    """The description of a case that was built in another process."""

    def __init__(self, seed: int, text: str) -> None:
        self.seed, self.text, self.net = seed, text, text

    def __str__(self) -> str:
        return self.text
