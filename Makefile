PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: demo test check bench gpu install setup clean
.DEFAULT_GOAL := help

help:
	@echo "make demo   train four arms of a small code model, run what they write, show who won"
	@echo "make test   the test suite"
	@echo "make check  ruff, mypy, and which package imports which"
	@echo "make setup  what tests and checks need, in .venv (make install: what the demo needs)"
	@echo "make bench  benchmarks: loss, step, scorers, checkpoints, processes, sandbox, decoding"
	@echo "make gpu    on a machine with CUDA: tests of the GPU, then benchmarks, in under 8 minutes; QUICK=1 rehearses"

# Every version is pinned, so nothing has to be resolved, but for torch: what it needs differs by machine.
$(BIN)/.installed: pyproject.toml requirements/run.txt
	$(PYTHON) -m venv $(VENV)
	$(PIP) -c constraints.txt torch
	$(PIP) --no-deps -r requirements/run.txt -e .
	@touch $@

$(BIN)/.tests-installed: $(BIN)/.installed requirements/test.txt
	$(PIP) --no-deps -r requirements/test.txt
	@touch $@

install: $(BIN)/.installed

setup: $(BIN)/.tests-installed

demo: install
	$(BIN)/wmtp compare recipes/demo.yaml

test: setup
	$(BIN)/python -m pytest -n 3 --dist worksteal

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
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
