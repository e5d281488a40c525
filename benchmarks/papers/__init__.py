"""The papers' benchmarks, one command each: `python -m benchmarks.papers.decoy_mnist`; README.md holds the tables."""
