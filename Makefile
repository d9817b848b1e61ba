# Needs Python 3.11 or newer and make; everything else is set up here.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format bench docs torture fuzz clean

help: ## Show what there is to make
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

install: $(READY) ## Set up the environment (.venv) with clipdre and its tools

$(READY): pyproject.toml
	@echo "clipdre: setting up $(VENV); torch and its kin are several GB, this takes minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(READY) ## Score and filter pools whose truth is known (writes ./demo)
	@echo "clipdre: drawing, scoring and filtering two pools into ./demo, under two minutes"
	@rm -rf demo
	@$(BIN)/clipdre demo demo

test: $(READY) ## Run the tests
	@$(BIN)/python -m pytest

lint: $(READY) ## Check style, types, floors and the generated documents
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python scripts/make_docs.py --check

format: $(READY) ## Put the code into the house's format
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY) ## Measure speed against baselines in the same run
	@for script in scripts/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

torture: $(READY) ## Kill score, filter and emit hundreds of times and compare with unbroken runs
	@$(BIN)/python scripts/torture.py --kills 200

fuzz: $(READY) ## Feed the tar reader and the caption path what a fuzzer thinks of, for minutes
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	@PYTHONPATH=. $(BIN)/python scripts/fuzz_shards.py -max_total_time=300

docs: $(READY) ## Write the generated documents
	@$(BIN)/python scripts/make_docs.py

clean: ## Remove the environment and what the demo wrote
	rm -rf $(VENV) demo
