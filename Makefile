# make demo | test | check, on any machine with Python 3.11+, pip and make. Everything is installed into .venv.
PYTHON ?= python3
BIN := .venv/bin
SOURCES := src tests benchmarks docs

.PHONY: demo test check format bench clean

demo: .venv/installed
	$(BIN)/mnemoscope demo

test: .venv/ready
	$(BIN)/python -m pytest

check: .venv/ready
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(MAKE) test

format: .venv/ready
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix $(SOURCES)

bench: .venv/ready
	$(BIN)/python benchmarks/scoring.py

clean:
	rm -rf .venv

.venv/ready: .venv/installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Mnemoscope needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[view]'
	touch $@
