# The lines that people and CI run; nothing else is needed.
PYTHON ?= python3
BIN := .venv/bin
# Torch by name: the plain index's wheel is the right one for this machine's chip.
TORCH := torch==2.13.0
PIP := pip==26.3
# What comes with torch alone: it differs by chip, so the lock leaves it out.
WITH_TORCH := torch triton cuda-bindings cuda-pathfinder cuda-toolkit nvidia-cublas nvidia-cuda-cupti \
	nvidia-cuda-nvrtc nvidia-cuda-runtime nvidia-cudnn-cu13 nvidia-cufft nvidia-cufile nvidia-curand \
	nvidia-cusolver nvidia-cusparse nvidia-cusparselt-cu13 nvidia-nccl-cu13 nvidia-nvjitlink \
	nvidia-nvshmem-cu13 nvidia-nvtx

.PHONY: install quickstart test check format docs site lock dist bench faults clean

install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt requirements.lock
	$(PYTHON) -c 'import sys; assert (3, 11) <= sys.version_info[:2] <= (3, 13), "Python 3.11 to 3.13 is needed; try make PYTHON=python3.12 ..."'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(PIP)
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --constraint constraints.txt $(TORCH)
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

quickstart: install
	$(BIN)/ttl quickstart

test: install
	$(BIN)/python -m pytest -n auto

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m pytest tests/test_docs.py

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: install
	$(BIN)/ttl settings --markdown > docs/settings.md
	$(BIN)/ttl settings --commands > docs/cli.md

# The documentation site in build/site; any warning is an error.
site: build/site-env/.installed
	NO_MKDOCS_2_WARNING=1 PATH="$(CURDIR)/build/site-env/bin:$$PATH" build/site-env/bin/mkdocs build

build/site-env/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv build/site-env
	build/site-env/bin/python -m pip install --quiet $(PIP)
	build/site-env/bin/python -m pip install --quiet --constraint constraints.txt --group site
	touch $@

# Every package of .[dev] with the hashes of its files, for Python 3.11 to 3.13 and any system.
lock:
	test -x $(BIN)/uv || $(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(BIN)/uv pip compile --quiet pyproject.toml --extra dev --universal --python-version 3.11 \
		--constraint constraints.txt --generate-hashes --no-annotate --no-header \
		$(addprefix --no-emit-package ,$(WITH_TORCH)) --output-file requirements.lock

# The wheel, tried in an environment of its own, and the SBOM (CycloneDX) of what it is tested with,
# from the lock: it has the hashes.
dist: install
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .
	(echo $(TORCH); cat requirements.lock) | $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml \
		--mc-type library --output-reproducible --output-format JSON --output-file dist/sbom.cdx.json -
	$(PYTHON) -m venv dist/check
	dist/check/bin/python -m pip install --quiet $(PIP)
	dist/check/bin/python -m pip install --quiet --constraint constraints.txt $(TORCH) "$$(echo dist/*.whl)[all]"
	cd dist/check && bin/ttl recipes && bin/ttl check quickstart
	rm -rf dist/check build

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
