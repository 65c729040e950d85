# make demo: finetune the shipped model on the built-in scenes, evaluate, report.
# make lint: linter, formatter, types. make test: all tests.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: env demo lint test clean

env: .venv/.ready

.venv/.ready: setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python >= 3.11 is needed: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

# The peers the tests compare with (torch, diffusers, scikit-image ...) are installed only for the tests.
.venv/.ready-test: .venv/.ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	@touch $@

# Linter, formatter and type checker; pre-commit runs them before a commit.
.venv/.ready-dev: .venv/.ready-test
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: env
	$(BIN)/python main.py --config=configs/multitask.py
	@echo "look at runs/multitask/report.html"

lint: .venv/.ready-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright

# In the order of the files: the long runs begin early, and short files fill the end.
test: .venv/.ready-test
	$(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

clean:
	rm -rf .venv build *.egg-info
