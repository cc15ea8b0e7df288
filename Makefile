# Everything runs in an environment of its own, $(VENV). For another Python:
#   make test PYTHON=python3.12 VENV=.venv-3.12
# It needs no compiler, no ensurepip (Debian's python3-venv) and no activation: python3, its pip or ensurepip, and make.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest

.PHONY: demo build style types test cov bench conformance fuzz docs clean
.DELETE_ON_ERROR:

demo: $(VENV)/.examples            ## the chat, on http://127.0.0.1:8000
	$(BIN)/geventgate --chdir examples $(ARGS) chat:app

build: $(VENV)/.dev                ## sdist and wheel into dist/
	rm -rf build dist
	$(BIN)/python -m build $(ARGS)

style: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy

test: $(VENV)/.dev                 ## ARGS="tests/protocol -k chunk" narrows it
	$(PYTEST) $(ARGS)

cov: $(VENV)/.dev                  ## branches, in the servers that the tests start too
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(VENV)/.dev                ## against the peers; wants wrk and gcc, and two quiet cores
	$(BIN)/python bench/compare.py $(ARGS)

conformance: $(VENV)/.dev          ## the slow cases too
	SLOW=1 $(PYTEST) tests/conformance $(ARGS)

fuzz: $(VENV)/.dev                 ## the hypothesis tests, for as long as they take
	$(PYTEST) -m hypothesis --hypothesis-profile=fuzz --timeout=0 $(ARGS)

docs: $(VENV)/.dev                 ## writes the options into docs/cli.md; checks links and file names in the Markdown
	$(BIN)/python tests/test_config.py
	$(PYTEST) tests/test_docs.py $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find bench examples geventgate tests -name __pycache__ -prune -exec rm -rf {} +

# Without ensurepip the environment's own pip comes through the pip of $(PYTHON).
$(BIN)/pip:
	if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); else \
		$(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; fi

# Installed in place: what runs is always the tree as it is now.
$(VENV)/.examples $(VENV)/.dev: $(VENV)/.%: pyproject.toml setup.py | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@
