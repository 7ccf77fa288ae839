# `make demo`, `make quick` and `make test` install everything they need into .venv first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo demo-hub test test-vllm quick browser check style docs models clean

demo: $(VENV)/installed
	rm -rf demo
	$(BIN)/optimum-cli ssgr demo demo

# The product against a Hub on loopback, by the same commands as against the real one.
demo-hub: $(VENV)/installed
	$(BIN)/python -m tests.hub_server.demo

# Whole files go to the workers, those that take longest first (tests/conftest.py). Bytecode is kept, for the sake of the many
# processes that would compile the package and the tests anew.
PYTEST := PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -q -n auto --dist loadfile --no-loadscope-reorder

test: $(VENV)/installed $(VENV)/torchao browser
	$(PYTEST)

# A real vLLM for processors, in an environment of its own of 3.5 GB, against which the tests' stand-in for it is held.
VLLM := .venv-vllm
test-vllm: $(VENV)/installed $(VLLM)/installed
	VLLM_COMMAND=$(abspath $(VLLM))/bin/vllm $(BIN)/python -m pytest -q -s --timeout 1800 tests/rollouts/real_vllm.py

$(VLLM)/installed: tests/rollouts/install_vllm.py
	$(PYTHON) tests/rollouts/install_vllm.py $(VLLM)
	touch $@

# What is not marked slow; none of it drives a browser.
quick: $(VENV)/installed
	$(PYTEST) -m "not slow"

# The tests of the page drive Debian's Chromium; without it they fail and say so.
browser:
	@command -v chromium >/dev/null || [ -x "$$CHROMIUM" ] || { \
	  echo "installing chromium for the browser tests"; \
	  sudo=$$([ "$$(id -u)" = 0 ] || echo "sudo -n"); \
	  { $$sudo apt-get update && $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; } \
	    >/dev/null || echo "could not install chromium: the browser tests will fail"; }

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

style: $(VENV)/installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# A warning, such as a link that leads nowhere, is an error; tests/test_docs.py builds the same.
docs: $(VENV)/installed
	$(BIN)/python -m sphinx -W --keep-going -q -d site/.doctrees -c docs . site
	@echo "open site/index.html"

# docs/models.md anew: a tiny model of every architecture, the whole way, in minutes; `benchmarks/models.py NAME` for one row.
models: $(VENV)/installed
	$(BIN)/python benchmarks/models.py

clean:
	rm -rf $(VENV) $(VLLM) demo dist site

# For one example, in a folder of its own: where it is installed, transformers loads it, which takes a second of every process.
$(VENV)/torchao: $(VENV)/installed
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps --target $@ torchao
	touch $@

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
