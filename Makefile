# From a fresh clone with nothing but Python >= 3.10 and make. PYTHON=python3.12 chooses the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check
# The tests wait for processes and clocks a part of their time.
WORKERS ?= 3
SLOW_WORKERS ?= 3

.PHONY: help demo test lint types quick test-slow tools containers bench clean

help:
	@echo "make demo       the main job: a real loop, serial and then with BatchExecutor"
	@echo "make test       lint, types and the quick tests"
	@echo "make test-slow  the long tests, and a smoke test in every other Python found"
	@echo "make bench      what a chunk, a map and a cold start cost, beside the standard library"
	@echo "make clean      remove the virtual environments and caches"

demo: $(VENV)/.installed-demo
	$(BIN)/batchexec demo

test: lint types quick

lint: $(VENV)/.installed-test
	$(BIN)/ruff check .

types: $(VENV)/.installed-test
	$(BIN)/mypy

quick: $(VENV)/.installed-test
	$(BIN)/pytest -n $(WORKERS) --dist loadfile -m "not slow"

test-slow: $(VENV)/.installed-test
	$(MAKE) --jobs=4 tools
	$(BIN)/pytest -n $(SLOW_WORKERS) --dist loadgroup --no-loadscope-reorder -m slow --durations=15
	$(BIN)/python tests/smoke_pythons.py

bench: $(VENV)/.installed-test
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .venvs .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("batchexec needs Python 3.10 or newer, this is " + sys.version.split()[0] + ": make PYTHON=python3.12 ..." if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed-demo: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[demo]'
	@touch $@

# What the slow tests run batchexec's services against: clients that are not ours, each in an environment of its own.
tools: .venvs/az/.installed .venvs/legacy/.installed .venvs/uv/.installed .venvs/azurite/.installed containers

# podman and images for it, by root on Debian. Elsewhere these tests are skipped, or fail where CI is set.
containers: $(VENV)/.installed-test
	BIN=$(BIN) tests/containers/install.sh

.venvs/az/.installed: PACKAGES = azure-cli==2.91.0
.venvs/legacy/.installed: PACKAGES = azure-batch==14.2.0 azure-storage-blob
.venvs/uv/.installed: PACKAGES = uv==0.13.9
.venvs/az/.installed .venvs/legacy/.installed .venvs/uv/.installed: | $(BIN)/python
	rm -rf $(@D)
	$(BIN)/python -m venv $(@D)
	$(@D)/bin/python -m pip -qq --disable-pip-version-check install $(PACKAGES)
	@touch $@

# Azurite, the other implementation of Blob storage. Without npm its tests are skipped, or fail where CI is set.
.venvs/azurite/.installed:
	@if command -v npm >/dev/null; then \
		set -ex; rm -rf $(@D); mkdir -p $(@D); \
		npm install --prefix $(@D) --loglevel=error --no-audit --no-fund --no-update-notifier azurite@3.35.0; touch $@; \
	else echo "no npm here: no tests on Azurite"; fi

# The tests' extra holds the demo's.
$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	$(PIP) install --editable '.[test]'
	@touch $@ $(VENV)/.installed-demo
