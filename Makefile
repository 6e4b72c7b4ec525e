# Every target sets up what it needs; the first run of any of them may take some minutes.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q --disable-pip-version-check
# Python sources, as ruff sees them.
SOURCES := python tests benches

.DEFAULT_GOAL := help
.PHONY: help dev fmt lint test test-rust test-python bench bench-smoke demo docs wheel clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# The stamps are older than what they depend on exactly when there is something to do.
$(VENV)/.base: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) 'maturin>=1.9,<2'
	touch $@

# pip, not `maturin develop --extras`: an extra that names another of ours is resolved from this folder, not from
# an index, even where nothing is installed yet.
$(VENV)/.server: $(VENV)/.base
	$(PIP) --no-build-isolation -e '.[server]'
	touch $@

$(VENV)/.dev: $(VENV)/.base
	$(PIP) --no-build-isolation -e '.[dev]'
	touch $@ $(VENV)/.server

$(VENV)/.bench: $(VENV)/.base
	$(PIP) --no-build-isolation -e '.[bench]'
	touch $@ $(VENV)/.dev $(VENV)/.server

dev: $(VENV)/.dev  ## Build the extension and install everything that development needs into .venv
	$(BIN)/maturin develop -q --release --skip-install

fmt: $(VENV)/.dev  ## Format
	cargo fmt
	$(BIN)/ruff format $(SOURCES)
	$(BIN)/ruff check --fix-only --quiet $(SOURCES)

lint: $(VENV)/.dev  ## Check formatting, lints, types and stubs
	cargo fmt --check
	cargo clippy --all-targets --locked -- -D warnings
	cargo clippy --all-targets --locked --features python -- -D warnings
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest ctxembed._core --allowlist tests/stubtest-allowlist.txt

test: dev lint test-rust test-python bench-smoke  ## Everything CI runs

test-rust:
	cargo test --locked

test-python: $(VENV)/.bench dev
	$(BIN)/python -m pytest
	CTXEMBED_ISA=scalar $(BIN)/python -m pytest -q tests/codec tests/search
	CTXEMBED_ISA=avx2 $(BIN)/python -m pytest -q tests/codec tests/search

bench: $(VENV)/.bench  ## Measure against the peers, and write tables and plots
	$(BIN)/maturin develop -q --release --skip-install
	cargo bench --locked
	$(BIN)/python -m benches.run

bench-smoke: $(VENV)/.bench
	$(BIN)/python -m pytest benches --benchmark-disable -q -p no:cacheprovider

demo: $(VENV)/.server  ## Embed and search this interpreter's documentation: no key, no network
	$(BIN)/maturin develop -q --release --skip-install
	$(BIN)/python -m ctxembed demo

docs: $(VENV)/.dev  ## Build the API pages to docs/_build
	cargo doc --no-deps --locked --document-private-items
	$(PIP) 'pdoc>=15'
	$(BIN)/python -m pdoc -d numpy -o docs/_build ctxembed

wheel: $(VENV)/.base  ## Build a wheel to dist/
	$(BIN)/maturin build --release --locked --out dist

clean:  ## Remove everything that was built
	cargo clean
	rm -rf $(VENV) dist docs/_build .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find python -name '*.so' -delete
