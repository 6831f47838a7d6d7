# make help lists the targets. `make <study> ARGS="trainer.epochs=5"` passes overrides on.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STUDIES := $(filter-out shared,$(sort $(patsubst pipelines/%/study.py,%,$(wildcard pipelines/*/study.py))))
# Without this albumentations asks a server for updates when it is imported.
export NO_ALBUMENTATIONS_UPDATE := 1

.PHONY: help env networks compare publish croissant test types suite quick smoke fuzz bench lint clean $(STUDIES)
.DEFAULT_GOAL := help

help:  ## this list
	@echo "Studies, each on its phantom unless ARGS says otherwise (ARGS=\"data=... data.root=...\"):"
	@for s in $(STUDIES); do echo "  make $$s"; done
	@echo "With a finished run: ARGS=\"mode=... run=<run folder>\"; ARGS=--help lists the modes"
	@echo "Targets:"
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1	/' | expand -t 18

env: $(VENV)/.ready  ## create .venv and install everything, tested versions

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "Python 3.11 to 3.13 is needed; found: $$($(PYTHON) --version). Give another: make env PYTHON=python3.12"; exit 1; }
	@echo "Installing into $(VENV), about 7 GB: some three minutes, longer where line or disk are slow; silent until done."
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "Installed. Next: make retinopathy"

$(STUDIES): env
	@$(PY) -m pipelines.$@ $(ARGS)

networks: env  ## what networks cost on this machine (ARGS="vgg16 resnet50 --size 128")
	@$(PY) -m pipelines.networks $(ARGS)

compare: env  ## finished runs or sweeps side by side (ARGS="outputs/ecg/a outputs/ecg/b")
	@$(PY) -m pipelines.compare $(ARGS)

publish: env  ## a finished run as others may use it (ARGS="outputs/skin/a --name ham10000")
	@$(PY) -m pipelines.publish $(ARGS)

croissant: env  ## data cards as Croissant JSON-LD, beside them
	@$(PY) -m pipelines.publish.croissant

test: env  ## ruff, mypy and the whole test suite
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	@$(MAKE) --no-print-directory -k -j2 types suite  # beside each other

types:
	$(PY) -m mypy

suite:
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 $(ARGS)

quick: env  ## the fast part of the suite, two minutes on two cores
	$(PY) -m ruff check .
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 -m "not slow" $(ARGS)

lint: env  ## correct what ruff can correct
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

smoke: env  ## every study for a few steps: is everything connected?
	@set -e; for s in $(STUDIES); do \
	  echo "== $$s"; $(PY) -m pipelines.$$s trainer=smoke $(ARGS); \
	done

fuzz: env  ## damaged files of every format through the readers (ARGS="--count 10000 --formats png,dicom")
	@OMP_NUM_THREADS=1 $(PY) tests/fuzz/fuzz.py $(ARGS)

bench: env  ## speed as ratios against plain loops, a table and JSON
	GOMP_SPINCOUNT=10000 $(PY) tests/bench/bench.py $(ARGS)

clean:  ## remove caches and outputs, not .venv
	rm -rf .cache outputs .pytest_cache .mypy_cache .ruff_cache .hypothesis
