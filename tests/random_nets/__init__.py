"""Random nets: a seed gives a model, inputs and targets, and a set of checks that every explainer must pass on them.

`python -m tests.random_nets --seeds 1000:2000` checks many seeds and prints a line for each violation.
"""
