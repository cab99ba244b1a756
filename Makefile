# Two commands do everything: `make run` and `make test`. Each builds what it needs first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# What needs no Ray and no server is shared by so many processes, beside the check of the image, which mostly installs.
# The rest has the machine for itself: a fault has to strike where it should, and limits of waiting (30 s for a node of
# Ray) are for a machine that does one thing.
TEST_PROCESSES ?= 2
SHARED := $(BIN)/pytest --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder
LIGHT := (unit or manifests) and not (ray or service or fault)

# One thread a process: several on a shared core are many times slower.
export OMP_NUM_THREADS ?= 1

.PHONY: help setup run services test test-all manifests image-check test-unit lint types format faults serve bench bench-serve lock clean

help:
	@echo "make setup   only the environment"
	@echo "make run     environment, sample data, the whole pipeline, report"
	@echo "make test    lint, types and every test but the few that take minutes each; make test-all: those too"
	@echo "make services  real servers for development: object store, database, tracker; until Ctrl-C"
	@echo "make serve   the champion of the latest run over HTTP, until Ctrl-C"
	@echo "make manifests  lint and tests of the Kubernetes manifests"
	@echo "make image-check  what the image would hold, installed into a clean prefix and tried out"
	@echo "make bench   the benchmarks, each against its peer; make bench-serve: those of the service"

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

sample_data/.made: $(STAMP)
	$(BIN)/flts sample-data --out sample_data
	@touch $@

setup: $(STAMP)

run: $(STAMP) sample_data/.made
	$(BIN)/flts run --config kuberay/config/flts.yaml --train sample_data/train --test sample_data/test

services: $(STAMP)
	$(BIN)/python -m tests.services

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

manifests: $(STAMP)
	$(BIN)/python -m kuberay.lint kuberay/overlays/dev kuberay/overlays/prod
	$(BIN)/pytest -m manifests

test-unit: $(STAMP)
	$(SHARED) -m unit

test: lint types
	$(SHARED) -m '$(LIGHT)'
	$(BIN)/pytest -m 'not long and not ($(LIGHT))'

test-all: test
	$(BIN)/pytest -m long

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

faults: $(STAMP)
	FLTS_FAULTS_PAGE=1 $(BIN)/pytest tests/faults

serve: $(STAMP)
	$(BIN)/flts serve

bench: $(STAMP)
	$(BIN)/python -m benchmarks

bench-serve: $(STAMP)
	$(BIN)/python -m benchmarks.serve

lock: $(STAMP)
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' | grep -v '^uv==' > constraints.new
	(echo '# Versions that are tested together. Regenerate with `make lock`.'; cat constraints.new) > constraints.txt
	rm constraints.new
	$(BIN)/python -m pip install --quiet uv
	PATH="$(CURDIR)/$(BIN):$$PATH" kuberay/image/lock.sh

image-check: $(STAMP)
	kuberay/image/check.sh

clean:
	rm -rf $(VENV) sample_data flts_home
