# `make demo` and `make test` each set up all that they need on a fresh machine with Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test test-fast test-all lint check bench docs clean

demo: $(READY)
	$(BIN)/xaikit demo --out xaikit-demo

test: $(READY)
	$(BIN)/python -m pytest -q -n 2 -m "not zoo"

test-fast: $(READY)
	$(BIN)/python -m pytest -q -n 2 -m "not slow and not zoo"

test-all: $(READY)
	$(BIN)/python -m pytest -q -n 2

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check: lint test

bench: $(READY)
	$(BIN)/python -m benchmarks

# The site in site/, with every link checked; the tests run what its pages show. The variable silences an announcement.
docs: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

clean:
	rm -rf $(VENV) xaikit-demo build dist site

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "xaikit needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)
