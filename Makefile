# Everything runs in an environment of its own, $(VENV). For another Python:
#   make test PYTHON=python3.12 VENV=.venv-3.12
# It needs no compiler, no ensurepip (Debian's python3-venv) and no activation: python3, its pip or ensurepip, and make.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
FUZZ_SECONDS ?= 60
JOBS ?= 4

BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest
# The whole suite goes side by side: much of it waits, so two cores carry four. A part is sooner done by one.
WHOLE := -n $(JOBS) --dist worksteal
# What compiled modules are under: CI runs it twice.
COMPILED := tests/fuzz tests/gateway tests/protocol tests/server tests/test_native.py tests/test_packaging.py \
	tests/test_pywsgi.py tests/test_testing.py tests/test_worker.py tests/compat/test_pywsgi_handler.py \
	tests/applications/test_flask.py tests/applications/test_validate.py \
	$(filter-out %/test_autobahn.py %/test_autobahn_http2.py,$(wildcard tests/conformance/test_*.py))

# What is compiled lies in a copy of the tree, since it would take the place of the .py here; build/*/build outlives it.
IN_COPY = cd build/$@ && PYTHONPATH=$(abspath build/$@)
define COMPILE
mkdir -p build/$@
find build/$@ -mindepth 1 -maxdepth 1 ! -name build -exec rm -rf {} +
git ls-files -z | xargs -0 cp --parents --preserve=timestamps --target-directory=build/$@
cd build/$@ && $(COMPILER) GEVENTGATE_PURE=0 GEVENTGATE_CFLAGS="$(CFLAGS)" $(abspath $(BIN))/python setup.py --quiet build_ext --inplace
endef

.PHONY: demo build style types test native asan cov bench conformance fuzz docs clean
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
	$(PYTEST) $(or $(ARGS),$(WHOLE))

# The parts of the suite that what is compiled is under, in a copy of the tree; ARGS=tests for the whole.
native: CFLAGS := -Werror
native: $(VENV)/.dev
	$(COMPILE)
	$(IN_COPY) $(abspath $(BIN))/python -m pytest -n $(JOBS) --dist worksteal $(or $(ARGS),$(COMPILED))

# The same with what finds accesses out of bounds and undefined behaviour; its reports are build/asan/build/found.PID. No
# redzones on the stack: greenlets copy stacks and not what is known of them. ext/fuzz_heads.c is for those of the scanner.
# Without what weighs memory closely, since redzones weigh too, without curl, which does not run under it, and without the
# fuzzers, which bring an ASan of their own.
asan: CFLAGS := -fsanitize=address,undefined --param=asan-stack=0 -fno-omit-frame-pointer -g -O1
asan: LEFT_OUT := not curl and not bomb_of_256_mib and not nobody_reads and not without_a_window
asan: $(VENV)/.dev
	$(COMPILE)
	$(IN_COPY) LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libstdc++.so.6)" \
		UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 \
		ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=1:log_path=$(abspath build/$@/build/found) \
		$(abspath $(BIN))/python -m pytest -n $(JOBS) --dist worksteal \
		$(or $(ARGS),$(filter-out tests/applications/% tests/fuzz,$(COMPILED)) -k "$(LEFT_OUT)")

cov: $(VENV)/.dev                  ## branches, in the servers that the tests start too
	rm -f .coverage .coverage.*
	$(BIN)/coverage run -m pytest $(or $(ARGS),$(WHOLE))
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

bench: $(VENV)/.bench              ## against the peers; wants wrk, h2load, gcc and two quiet cores; ARGS="--only hello"
	$(BIN)/python bench/compare.py $(ARGS)

conformance: $(VENV)/.dev          ## the slow cases too
	SLOW=1 $(PYTEST) tests/conformance $(ARGS)

# Where clang and atheris are, it is the compiled tree, coverage and AddressSanitizer (see above) reaching into it; elsewhere,
# and with FUZZ_COMPILED= behind, the .py.
FUZZ_COMPILED = $(shell command -v clang && $(BIN)/python -c 'import atheris' 2>/dev/null && echo yes)
fuzz: COMPILER := CC=clang LDSHARED="clang -shared"
fuzz: CFLAGS := -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -mllvm -asan-stack=0 -g -O1
fuzz: $(VENV)/.fuzz                ## each target for FUZZ_SECONDS; ARGS="head fuzz_heads" names some
	$(if $(filter yes,$(FUZZ_COMPILED)),$(COMPILE))
	$(BIN)/python tests/fuzz/fuzz.py --seconds $(FUZZ_SECONDS) $(if $(filter yes,$(FUZZ_COMPILED)),--compiled build/$@) $(ARGS)

docs: $(VENV)/.dev                 ## writes the options into docs/cli.md; checks links and file names in the Markdown
	$(BIN)/python tests/test_config.py
	$(PYTEST) tests/test_docs.py $(ARGS)

clean:
	rm -rf $(VENV) build dist *.egg-info .coverage .coverage.* .fuzz .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find bench examples geventgate tests -name __pycache__ -prune -exec rm -rf {} +

# Without ensurepip the environment's own pip comes through the pip of $(PYTHON).
$(BIN)/pip:
	if $(PYTHON) -c 'import ensurepip' 2>/dev/null; then $(PYTHON) -m venv $(VENV); else \
		$(PYTHON) -m venv --without-pip $(VENV) && $(PYTHON) -m pip --python $(BIN)/python install pip; fi

# Installed in place: what runs is always the tree as it is now.
$(VENV)/.examples $(VENV)/.dev: $(VENV)/.%: pyproject.toml setup.py | $(BIN)/pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $@

# There is no atheris for every Python and system, and fuzzing goes without, too.
$(VENV)/.fuzz: $(VENV)/.dev
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	touch $@

# Peers come one by one: the comparison names those that do not install here, and goes without them.
$(VENV)/.bench: bench/peers.py $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	$(BIN)/python bench/peers.py | while read -r package; do \
		log="$(VENV)/bench-$${package##* }.log"; \
		$(BIN)/python -m pip install --quiet --disable-pip-version-check $$package >"$$log" 2>&1 </dev/null \
			|| echo "$$package does not install here: $$log"; done
	touch $@
