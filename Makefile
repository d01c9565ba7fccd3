# Everything a person or a machine does here. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# More arguments for what is run: make run ARGS="--amqp 0.0.0.0:5672"
ARGS ?=
# How long `make torture` goes on: rounds of kill -9, seeds of simulated power loss, flipped bits of each class of files,
# crashes in each call of the disk, cases of queues held against their models.
KILL_ROUNDS ?= 200
POWER_LOSS_SEEDS ?= 20000
FLIPPED_BITS ?= 2000
CRASHES ?= 20
CASES ?= 50000
# Seconds for each target of `make fuzz`.
FUZZ_SECONDS ?= 60

CARGO := cargo
# A machine must not change Cargo.lock; a person may.
LOCKED := $(if $(CI),--locked)
TARGET := $(abspath $(or $(CARGO_TARGET_DIR),target))
LEVERET := $(TARGET)/release/leveret
export PATH := $(CURDIR)/.tools/bin:$(PATH)

.PHONY: help
help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{ printf "make %-12s %s\n", $$1, $$2 }'

.PHONY: run
run: ## Build the broker and start it on 127.0.0.1:5672 (ARGS="…" for more)
	@$(CARGO) build $(LOCKED) --release --package leveret-cli
	@exec $(LEVERET) serve $(ARGS)

.PHONY: test
test: setup check ## Everything CI runs: checks, Rust tests, real clients, the example
	@$(CARGO) nextest run $(LOCKED) --workspace --profile ci
	@$(CARGO) build $(LOCKED) --release --package leveret-cli
	@env -u AMQP_URL LEVERET_BIN=$(LEVERET) tests/clients/run
	@env -u RABBIT LEVERET_BIN=$(LEVERET) tests/conformance/run --short
	@env -u AMQP_URL LEVERET_BIN=$(LEVERET) examples/shop/run 120

.PHONY: setup
setup:
	@tools/setup python node nextest conformance

.PHONY: check
check: ## Read-only gates: format, lints, the rules of the house, documentation
	@$(CARGO) fmt --all --check
	@$(CARGO) clippy $(LOCKED) --quiet --workspace --all-targets -- --deny warnings
	@$(CARGO) xtask tidy
	@RUSTDOCFLAGS="--deny warnings" $(CARGO) doc $(LOCKED) --quiet --workspace --no-deps
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --log-level error check bans licenses sources; fi

.PHONY: fix
fix: ## Mend what a machine can: format and lints
	@$(CARGO) clippy --quiet --fix --allow-dirty --allow-staged --workspace --all-targets
	@$(CARGO) fmt --all

.PHONY: conformance
conformance: ## The clients' own test suites (RABBIT=1: against RabbitMQ, too; ARGS="…" names some)
	@$(CARGO) build $(LOCKED) --release --package leveret-cli
	@LEVERET_BIN=$(LEVERET) tests/conformance/run $(ARGS)

.PHONY: compat
compat: ## The tests of docs/compatibility.md (RABBIT=1: against RabbitMQ, too; ARGS="…" names some files)
	@tools/setup python $(if $(RABBIT),rabbitmq)
	@$(CARGO) build $(LOCKED) --release --package leveret-cli
	@LEVERET_BIN=$(LEVERET) .venv/bin/python tests/clients/compat.py $(ARGS)

.PHONY: bench
bench: ## Measure Leveret beside other brokers (ARGS="…" for bench/run)
	@bench/run $(ARGS)

.PHONY: backlog
backlog: ## Measure deep queues: memory, restart, rates (ARGS="--messages 100000" for a short look)
	@$(CARGO) build $(LOCKED) --release --package leveret-cli
	@bench/backlog --binary $(LEVERET) $(ARGS)

.PHONY: fuzz
fuzz: ## Fuzz every target for FUZZ_SECONDS each (needs cargo-fuzz and a nightly compiler)
	@for target in $$($(CARGO) fuzz list); do \
		mkdir -p fuzz/corpus/$$target; \
		$(CARGO) +nightly fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- \
			-max_total_time=$(FUZZ_SECONDS); \
	done

.PHONY: torture
torture: ## The long form of durability and model tests (KILL_ROUNDS, POWER_LOSS_SEEDS, FLIPPED_BITS, CRASHES, CASES)
	@tools/setup nextest
	@LEVERET_KILL_ROUNDS=$(KILL_ROUNDS) LEVERET_POWER_LOSS_SEEDS=$(POWER_LOSS_SEEDS) \
		LEVERET_FLIPPED_BITS=$(FLIPPED_BITS) LEVERET_CRASHES=$(CRASHES) LEVERET_CASES=$(CASES) \
		$(CARGO) nextest run $(LOCKED) --release --workspace --profile torture \
		--test kill_9 --test power_loss --test faults --test '*_model' --test '*_properties'

.PHONY: clean
clean: ## Remove everything that was built or installed here; data directories stay
	@$(CARGO) clean --quiet
	@rm -rf .venv .tools tests/clients/node/node_modules
	@find tests examples -name __pycache__ | xargs -r rm -rf
