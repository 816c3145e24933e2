# Everything a newcomer needs: make demo, make test.
PYTHON ?= python3
VENV ?= .venv
# More options for pip, e.g. PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
PIP_ARGS ?=
BIN := $(VENV)/bin

.DEFAULT_GOAL := help
.PHONY: help setup dev demo test test-slow lint docs format results memory pretrain wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# Python compiles what is imported, and keeps it: compiling all of the packages at once takes as long as fetching them.
unexport PYTHONDONTWRITEBYTECODE
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile $(PIP_ARGS) -c constraints.txt

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.ready
	$(INSTALL) -e ".[dev]"
	@touch $@

setup: $(VENV)/.ready ## make .venv and install what tuning and sampling need

dev: $(VENV)/.dev ## install what tests and benchmarks need, too

demo: setup ## tune "waterfall" on the tiny model and show what it learned (no GPU, no account)
	$(BIN)/python -m lamp_lightning.train motion=waterfall

test: dev ## lint, type-check, build the site, and all tests but the slow ones
	$(MAKE) --no-print-directory --jobs=2 lint docs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile --no-loadscope-reorder --durations=25

test-slow: dev ## the tests that take minutes (12 GB of memory, 9 GB of disk)
	$(BIN)/python -m pytest -m slow

lint: dev ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: dev ## build the documentation site: site/index.html
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --fresh-env --quiet docs site

format: dev ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

results: setup ## tune and measure all eight toy motions: docs/results.md (half an hour on two cores with bfloat16, two hours on others)
	$(BIN)/python benchmarks/toy_motions.py

memory: dev ## calculate what fits which card, write docs/models.md (ten minutes)
	$(BIN)/python benchmarks/memory.py

pretrain: setup ## pretrain the tiny models again (over an hour; resumable)
	$(BIN)/python -m lamp_lightning.pretrain

wheel: dev ## build the wheel
	$(BIN)/python -m hatchling build -t wheel

clean: ## delete what builds and tests left
	rm -rf dist build site .pytest_cache .ruff_cache .mypy_cache
