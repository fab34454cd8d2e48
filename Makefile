# The project's commands. `setup` makes a virtual environment of its own and the others call it when they need it:
# on a fresh machine `make demo` and `make test` are all there is to type.
PYTHON ?= $(shell python3.11 -c "import sys; print(sys.executable)" 2>/dev/null || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# Nothing here talks to the Hub, and tests must not start to.
export HF_HUB_DISABLE_TELEMETRY := 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

FLOOR := build/transformers-floor

.PHONY: setup style quality test test-slow test-floor conformance bench fuzz demo

setup: $(INSTALLED)

# The stamp is written last: an interrupted install is repeated.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e ".[dev]"
	@touch $@

style: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

quality: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup
	$(BIN)/python -m pytest

test-slow: setup
	$(BIN)/python -m pytest -m slow

# The oldest transformers that pyproject.toml allows, before the installed one on the path; the rest stays as it is.
test-floor: setup
	rm -rf $(FLOOR)
	$(BIN)/python -m pip install --quiet --no-deps --target $(FLOOR) \
		"transformers==$(shell sed -n 's/.*"transformers>=\([0-9.]*\),.*/\1/p' pyproject.toml)"
	PYTHONPATH=$(FLOOR) $(BIN)/python -c "import transformers; print('transformers', transformers.__version__)"
	PYTHONPATH=$(abspath $(FLOOR)) $(BIN)/python -m pytest

# transformers' own test suites, out of the source distribution of the installed version, on PolyV.
conformance: setup
	suites=$$($(BIN)/python -m tests.conformance.fetch build) && \
		TRANSFORMERS_TESTS=$$suites $(BIN)/python -m pytest -m "" tests/conformance

# Thousands of odd and hostile inputs, for at most half an hour. The default suite tries some hundreds of them.
fuzz: setup
	FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-1000} FUZZ_SECONDS=$${FUZZ_SECONDS:-1800} $(BIN)/python -m pytest tests/fuzz

# glibc hands freed blocks above 32 MB back to the kernel, page by page: a cost of its own, see docs/bench.md.
# On a GPU: python -m polyv.evaluation.bench --out docs/bench-cuda --device cuda
bench: setup
	MALLOC_MMAP_THRESHOLD_=4294967296 MALLOC_TRIM_THRESHOLD_=8589934592 OMP_NUM_THREADS=1 \
		$(BIN)/python -m polyv.evaluation.bench --out docs/bench-cpu

demo: setup
	$(BIN)/polyv demo
