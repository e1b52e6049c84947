# make demo: a classifier from nothing in a few minutes.  make test: lint, types, tests.  Both set up .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
TEST_PROCESSES = $(shell $(PYTHON) -c "import os; print(os.cpu_count())")
LOWEST ?= .venv-lowest
LOWEST_VERSIONS := $(shell "$(PYTHON)" tests/lowest_versions.py 2> /dev/null | cksum | cut -d ' ' -f 1)

.PHONY: demo test pytest test-lowest lowest lint format clean

demo: .venv/installed
	$(BIN)/alexnet demo

# The types are checked while the tests run: that takes half a minute on one core, the first time.
test: .venv/installed
	$(MAKE) --jobs 2 lint pytest

# A process for each core, with one thread: twice as fast as one process with a thread for each core. One more would use
# the time that some tests wait, but would import for ten seconds, and compile loops that another compiles too. Bytecode
# is written even where the environment forbids it: each process would otherwise compile all files again.
pytest: .venv/installed
	OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal

# The tests with the lowest versions that pyproject.toml admits; torch stays, since there is one build for the CPU only.
# Old versions use what newer ones of other libraries deprecate: these warnings are no errors here, nor in the pytest that
# the tests for simulated GPUs start.
test-lowest: lowest
	PYTHONPATH="$(CURDIR)" PYTEST_ADDOPTS="-W ignore::DeprecationWarning -W ignore::FutureWarning" \
		OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= \
		$(LOWEST)/bin/python -m pytest --numprocesses $(TEST_PROCESSES) --dist worksteal $(TESTS)

# Their environment: made anew where these versions have changed, and otherwise left as it is, for whichever clone.
lowest: $(LOWEST)/installed-$(LOWEST_VERSIONS)

$(LOWEST)/installed-$(LOWEST_VERSIONS):
	"$(PYTHON)" -m venv --clear $(LOWEST)
	"$(PYTHON)" tests/lowest_versions.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[dev]'
	touch $@

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# torch is asked for by its exact version first: where an index offers a CPU build of that version it is taken, and a
# looser request would bring the CUDA packages.
.venv/installed: pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "make: Python 3.11 or later is needed, not '$(PYTHON)'; say which with make PYTHON=..." >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv .venv-lowest build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
