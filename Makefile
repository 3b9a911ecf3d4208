PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench setup clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   train four arms of a small code model, run what they write, show who won"
	@echo "make test   the test suite"
	@echo "make check  ruff and mypy"
	@echo "make bench  benchmarks: loss, step, scorers, checkpoints, processes, sandbox, decoding"

setup: $(BIN)/.installed

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,mlflow]'
	@touch $@

demo: setup
	$(BIN)/wmtp compare recipes/demo.yaml

test: setup
	$(BIN)/python -m pytest -n 3 --dist worksteal

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python benchmarks/loss.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/scorers.py
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/distributed.py
	$(BIN)/python benchmarks/sandbox.py
	$(BIN)/python benchmarks/decode.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
