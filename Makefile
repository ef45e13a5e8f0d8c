# varve: `make demo` shows it at work, `make test` proves it. Both do all of their own set-up and can be run again.

.DEFAULT_GOAL := help
SHELL := /bin/bash

# Where PostgreSQL 17 and libclang are; Debian's places unless told otherwise. Nothing of ~/.pgrx is used.
PG_CONFIG ?= /usr/lib/postgresql/17/bin/pg_config
export PGRX_PG_CONFIG_PATH := $(PG_CONFIG)
export VARVE_PG_BINDIR := $(patsubst %/,%,$(dir $(PG_CONFIG)))
ifneq ($(wildcard /usr/lib/llvm-19/lib),)
export LIBCLANG_PATH ?= /usr/lib/llvm-19/lib
endif

# cargo-pgrx links the extension with a flag of its own, for old linkers that drop the section its SQL is made from. A
# flag builds every crate again, for the tests without it and for the library with it; on x86_64 nothing needs it.
ifeq ($(shell uname -m),x86_64)
export CARGO_PGRX_DISABLE_GC_SECTIONS_WORKAROUND := 1
endif

# cargo-pgrx lies here when the user has another version of it (tools/setup.sh).
export PATH := $(CURDIR)/target/tools/bin:$(PATH)

.PHONY: help
help: ## Lists what can be made
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

.PHONY: setup
setup: ## Installs what is missing (Debian 12 and 13; elsewhere it says what is missing)
	@tools/setup.sh

.PHONY: build
build: setup ## Builds the extension and the tools, optimised
	cargo build --locked --release --workspace

.PHONY: install
install: setup ## Builds the extension and the program varve, optimised, and installs them into PostgreSQL 17
	@tools/install.sh release

.PHONY: demo
demo: install ## Shows varve at work on real prices (DATA=file.csv.gz names others)
	@cargo run --locked --quiet --package varve-demo

.PHONY: psql
psql: install ## Opens psql on a private server with the extension in it
	@trap '' INT; cargo run --locked --quiet --package varve-demo --bin with-server -- -- psql

.PHONY: test
test: setup ## Runs every test: core, inside the server, end to end
	cargo test --locked --package varve-core --all-features
	@tools/pgrx_test.sh
	@tools/install.sh dev
	cargo test --locked --no-fail-fast --package varve-demo --package varve-tests --package varve-bench --package varve-cli \
	    --package varve-example-loader

.PHONY: bench
bench: install ## Measures frozen chunks beside heap, ingest, and backups, against the targets (ARGS=, see ARGS=--help)
	@tools/setup.sh bench
	@cargo run --locked --release --quiet --package varve-bench -- $(ARGS)

.PHONY: soak
soak: install ## Runs what chance finds for long: the shadow test, checksums, differences, checkpoints, kills amid upserts and backups (STATEMENTS=20000, SEED=, CHECKSUMS=4000, DIFFS=4000, WATCH=6000, KILLS=100, CHAOS=70)
	VARVE_SHADOW_STATEMENTS=$(or $(STATEMENTS),20000) $(if $(SEED),VARVE_SHADOW_SEED=$(SEED)) \
	    cargo test --locked --package varve-tests --test shadow -- --nocapture
	VARVE_CHECKSUM_STEPS=$(or $(CHECKSUMS),4000) $(if $(SEED),VARVE_SEED=$(SEED)) \
	    cargo test --locked --package varve-tests --test checksums random_changes -- --nocapture
	VARVE_DIFF_STEPS=$(or $(DIFFS),4000) \
	    cargo test --locked --package varve-tests --test diff_random --test diff_equal --test diff_segments as_a_full_join_says -- --nocapture
	VARVE_WATCH_STEPS=$(or $(WATCH),6000) $(if $(SEED),VARVE_SEED=$(SEED)) \
	    cargo test --locked --package varve-tests --test watch_random -- --nocapture
	VARVE_CRASH_KILLS=$(or $(KILLS),100) $(if $(SEED),VARVE_SEED=$(SEED)) \
	    cargo test --locked --package varve-tests --test upsert_crash -- --nocapture
	VARVE_CHAOS_ROUNDS=$(or $(CHAOS),70) $(if $(SEED),VARVE_SEED=$(SEED)) \
	    cargo test --locked --package varve-tests --test disaster -- --nocapture

.PHONY: fuzz
fuzz: ## Fuzzes what decodes bytes from disk (SECONDS=600 for all targets together, TARGET=)
	@tools/fuzz.sh $(or $(SECONDS),600) $(TARGET)

.PHONY: regress
regress: install ## Runs PostgreSQL's own tests on varve (SRC=src/test of its sources, SUITE=, FREEZE=, ONLY=)
	@test -n "$(SRC)" || { echo 'Name the folder src/test of a PostgreSQL source tree: make regress SRC=DIR' >&2; exit 2; }
	@cargo run --locked --quiet --package varve-demo --bin with-server -- \
	    fsync=off max_worker_processes=32 wal_level=logical max_prepared_transactions=10 varve.debug_freeze=$(or $(FREEZE),off) -- \
	    bash -c 'exec python3 "$$0" --host "$$PGHOST" --port "$$PGPORT" "$$@"' $(REGRESS_DIFF) --src "$(SRC)" --am varve \
	    --setup 'CREATE EXTENSION timescaledb; CREATE EXTENSION varve' --suite $(or $(SUITE),sql) --only '$(or $(ONLY),.)' \
	    --out $(or $(OUT),/tmp/varve-regress)
REGRESS_DIFF ?= ../shared/tools/regress_diff.py

.PHONY: fmt
fmt: ## Formats the sources
	cargo fmt --all

.PHONY: lint
lint: setup ## Checks format, lints and licences
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo clippy --locked --package varve-core --all-features --all-targets -- -D warnings
	@tools/licences.sh

.PHONY: licences
licences: ## Checks the licences of all crates against deny.toml
	@tools/licences.sh

.PHONY: clean
clean: ## Removes what was built
	cargo clean
