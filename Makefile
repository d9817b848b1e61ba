# Requires Python 3.11 or newer; `make install` sets up everything else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Processes that run tests; each takes 2 GB.
WORKERS ?= 2

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format bench docs torture fuzz gpu evidence dist docker clean

help: ## Show this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

install: $(READY) ## Create .venv with clipdre and its development tools

$(READY): pyproject.toml
	@echo "clipdre: setting up $(VENV); torch and its dependencies take several GB and a few minutes"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

demo: $(READY) ## Score and filter two pools with known truth (writes ./demo)
	@echo "clipdre: drawing, scoring and filtering two pools in ./demo, in about two minutes"
	@rm -rf demo
	@$(BIN)/clipdre demo demo
	@echo "clipdre: measuring every scorer on the noisy pool"
	@OMP_NUM_THREADS=1 $(BIN)/python scripts/bench_scorers.py demo

test: $(READY) ## Run the tests
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

lint: $(READY) ## Check style, types, imports and generated documents
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python scripts/make_docs.py --check

format: $(READY) ## Format the code and fix lint errors
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

bench: $(READY) ## Measure speed against baselines in the same run
	@for script in scripts/bench_*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

evidence: $(READY) ## Train small models on what rules keep, and compare them (writes build/evidence)
	@$(BIN)/python -m evidence

torture: $(READY) ## Kill score, filter and emit hundreds of times, and 100 Ray nodes; compare with unbroken runs
	@$(BIN)/python scripts/torture.py --kills 200 --nodes 100

fuzz: $(READY) ## Fuzz the tar reader and the caption path for five minutes
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check atheris
	@PYTHONPATH=. $(BIN)/python scripts/fuzz_shards.py -max_total_time=300

dist: $(READY) ## Build the wheel and sdist in dist/, and run the demo from the wheel
	@$(BIN)/python scripts/check_dist.py --out dist

gpu: $(READY) ## Check on a GPU what was written for one, in nine minutes (writes ./gpu.json)
	@$(BIN)/python scripts/check_gpu.py run

docker: ## Build an image (BASE=... for another base, such as one with CUDA)
	docker build -t clipdre $(if $(BASE),--build-arg BASE=$(BASE)) .

docs: $(READY) ## Generate documents and tables from the code, and build the site in build/site
	@$(BIN)/python scripts/make_docs.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

clean: ## Remove .venv and ./demo
	rm -rf $(VENV) demo
