# `make demo` and `make test` each set up all that they need on a fresh machine with Python >= 3.11.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := -q -n 2 --dist worksteal
FAST := not slow and not zoo and not nightly
OLD := -W default::DeprecationWarning -W default::PendingDeprecationWarning -W default::FutureWarning

# Compiled files are kept: each process that a test starts would compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test test-fast test-all test-oldest test-newest coverage lint check bench docs clean

demo: $(READY)
	$(BIN)/xaikit demo --out xaikit-demo

# CONTRIBUTING.md says which tests each of these runs, and when to run which.
test: $(READY)
	$(BIN)/python -m pytest $(PYTEST) -m "not zoo and not nightly"

test-fast: $(READY)
	$(BIN)/python -m pytest $(PYTEST) -m "$(FAST)"

test-all: $(READY)
	$(BIN)/python -m pytest $(PYTEST)

# An environment each: the declared lower bounds, and the newest releases that pip finds. Old releases warn about new
# neighbours, so deprecations are shown there and fail nothing.
test-oldest:
	$(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet -c constraints-oldest.txt -e '.[test]'
	$(VENV)-oldest/bin/python -m pytest $(PYTEST) -m "$(FAST)" $(OLD)

test-newest:
	$(PYTHON) -m venv $(VENV)-newest
	$(VENV)-newest/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -e '.[test]'
	$(VENV)-newest/bin/python -m pytest $(PYTEST) -m "$(FAST)" $(OLD)

# Line coverage of xaikit/ under `make test`, worker processes and commands in processes of their own included.
coverage: $(READY)
	$(BIN)/python -m pytest $(PYTEST) -m "not zoo and not nightly" --cov --cov-report=term-missing:skip-covered

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
	rm -rf $(VENV) $(VENV)-oldest $(VENV)-newest xaikit-demo build dist site

# pip compiles on one core, and the libraries' own tests too: two minutes. What fails to compile here is never imported.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "xaikit needs Python 3.11 or newer; name one: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/python -W ignore -m compileall -qq -j 0 -x '/tests/' $(VENV)/lib || true
	touch $(READY)
