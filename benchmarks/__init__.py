"""Measurements: `python -m benchmarks NAME` runs one, README.md holds the results."""
