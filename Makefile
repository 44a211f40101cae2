# Every target builds what it needs: a fresh clone wants Python 3.11 or newer, make and a C++ compiler.

VENV := .venv
BIN := $(VENV)/bin
# DeepSpeed compiles its CPU kernels with ninja, which is installed into the environment.
export PATH := $(CURDIR)/$(BIN):$(PATH)

PYTHON ?= $(shell for python in python3.11 python3; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { command -v $$python; break; }; done)
PIP_INSTALL := $(BIN)/python -m pip install --disable-pip-version-check --quiet -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup setup-dev demo test test-all lint types imports format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "%-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## build .venv with the pinned runtime

setup-dev: $(VENV)/.installed-dev ## the same with what tests and linters need

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or newer found: install one, or run make PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): some minutes the first time"
	$(PIP_INSTALL) -e .
	@touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into $(VENV): some minutes the first time"
	$(PIP_INSTALL) -e '.[dev]'
	@touch $@ $(VENV)/.installed

demo: setup ## the whole story on real handwritten digits, without a GPU
	$(BIN)/gammaray run digits

test: setup-dev ## everything but the slow tests and those that need a GPU
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-all: setup-dev ## every test this machine can run
	$(BIN)/python -m pytest

lint: setup-dev ## style, format, types and the import rule
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(MAKE) --no-print-directory types imports

types: setup-dev ## mypy, strict
	$(BIN)/mypy

imports: setup-dev ## which package may import which
	$(BIN)/lint-imports

format: setup-dev ## rewrite the code in the house format
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

clean: ## remove caches and build output; keep .venv
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache *.egg-info
