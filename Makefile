# Everything a newcomer needs: `make demo`, `make test`. Both make .venv first, from nothing but Python ≥ 3.11.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: help install demo test quick parity faults format check build golden reference docs clean

help: ## List the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "mcse needs Python 3.11 or newer"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

install: $(VENV)/.installed ## Make .venv and install the package with its test tools

demo: install ## Train SimCSE, MCSE and MCSE on shuffled images on the embedded picture world; writes runs/demo/report.html
	$(BIN)/mcse demo

test: install ## Run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile

quick: install ## Run the tests that are not slow
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m 'not slow' -n auto --maxprocesses 4 --dist loadfile

parity: install ## Whole benchmarks with real weights, against published scores and other toolkits, and every cell of fake CUDA; minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m whole tests/parity tests/cuda

faults: install ## Kills, races, damaged files, power cuts (as root) and a review's cases, counted; takes most of an hour
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --kills 20
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --kills 8 --processes 2
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.faults --rounds 10 --cases

format: install ## Format and fix what can be fixed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: install ## Lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

build: install ## Build the source archive and the wheel into dist/, and check what an index would read of them
	rm -rf dist
	$(BIN)/python -m build --no-isolation
	$(BIN)/twine check --strict dist/*

golden: install ## Rewrite the golden trajectories, on purpose
	MCSE_WRITE_GOLDEN=1 $(BIN)/python -m pytest -q tests/golden

reference: install ## Write docs/reference/configuration.md from the code
	$(BIN)/python -c "from pathlib import Path; from mcse.recipes.reference import write_reference; \
		write_reference(Path('docs/reference/configuration.md'))"

docs: install ## Build the documentation into site/ (open site/index.html); broken links and missing references fail
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## Remove .venv and what the demo made
	rm -rf $(VENV) runs/demo
