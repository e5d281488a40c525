"""The command: `python -m tests.random_nets --seeds 1000:2000`."""

from tests.random_nets.command import run

if __name__ == "__main__":
    run()
