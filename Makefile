# The lines that people and CI run; nothing else is needed.
PYTHON ?= python3
BIN := .venv/bin
# Torch first and by name: the plain index's wheel is the right one for this machine's chip.
TORCH := torch==2.13.0

.PHONY: install quickstart test check format docs bench faults clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), "Python 3.11 to 3.13 is needed; try make PYTHON=python3.12 ..."'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: install
	$(BIN)/ttl run recipes/quickstart.toml
	@echo "Open runs/quickstart/report/index.html in a browser."
	@echo "Talk to your model:  $(BIN)/ttl chat runs/quickstart"

test: install
	$(BIN)/python -m pytest

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install
	$(BIN)/ttl settings --markdown > docs/settings.md
	$(BIN)/ttl settings --commands > docs/cli.md

faults: install
	set -e; for script in bench/faults/[a-z]*.py; do \
		results=bench/results/$$(basename $$script .py).jsonl; \
		$(BIN)/python $$script > $$results.part; mv $$results.part $$results; cat $$results; \
	done
	$(BIN)/python bench/faults/_table.py > docs/faults.md

bench: install
	set -e; for script in bench/[a-z]*.py; do $(BIN)/python $$script; done

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build dist
