"""`python -m xaikit` is the command `xaikit`."""

from xaikit.cli.main import run

run()
