# `make demo` and `make test` install everything they need into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-hub test check style clean

demo: $(VENV)/installed
	rm -rf demo
	$(BIN)/optimum-cli ssgr demo demo

# The product against a Hub on loopback, by the same commands as against the real one.
demo-hub: $(VENV)/installed
	$(BIN)/python -m tests.hub_server.demo

test: $(VENV)/installed
	$(BIN)/python -m pytest -q -n auto --dist loadfile

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) demo dist

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
