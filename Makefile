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

.PHONY: setup style quality test test-slow test-floor demo

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

demo: setup
	$(BIN)/polyv demo
