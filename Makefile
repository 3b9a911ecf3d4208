PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench gpu setup clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   train four arms of a small code model, run what they write, show who won"
	@echo "make test   the test suite"
	@echo "make check  ruff and mypy"
	@echo "make bench  benchmarks: loss, step, scorers, checkpoints, processes, sandbox, decoding"
	@echo "make gpu    on a machine with CUDA: tests of the GPU, then benchmarks, in under 8 minutes; QUICK=1 rehearses"

setup: $(BIN)/.installed

$(BIN)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,mlflow]'
	@touch $@

demo: setup
	$(BIN)/wmtp compare recipes/demo.yaml

test: setup
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/loss.py
	$(BIN)/python benchmarks/step.py
	$(BIN)/python benchmarks/scorers.py
	$(BIN)/python benchmarks/checkpoint.py
	$(BIN)/python benchmarks/distributed.py
	$(BIN)/python benchmarks/sandbox.py
	$(BIN)/python benchmarks/decode.py

gpu:
	$(or $(wildcard $(BIN)/python),$(PYTHON)) benchmarks/gpu.py $(if $(QUICK),--quick) \
	  $(if $(WHEELS),--wheels "$(WHEELS)") $(if $(OUT),--out "$(OUT)")

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
