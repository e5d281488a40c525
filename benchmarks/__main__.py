"""`python -m benchmarks [NAME ...]`: run some of the measurements, or all of them (more than an hour)."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

NAMES = sorted(p.stem for p in Path(__file__).parent.glob("*.py") if p.stem not in ("__init__", "__main__", "measure"))

if __name__ == "__main__":
    chosen = sys.argv[1:] or NAMES
    unknown = [name for name in chosen if name not in NAMES]
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; there are {', '.join(NAMES)}")
    sys.argv = sys.argv[:1]
    for name in chosen:
        print(f"\n# {name}", flush=True)
        runpy.run_module(f"benchmarks.{name}", run_name="__main__")
