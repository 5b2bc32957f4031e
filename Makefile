# Two commands on a fresh machine: `make demo` and `make test`. Each sets up all that it needs.
SHELL := bash
.DEFAULT_GOAL := help

# Real data for the demo, the tests and the benchmarks; without it they use a seeded generator.
ifndef TIDEWATCH_DATA
  ifneq ($(wildcard ../shared/data/README.md),)
    export TIDEWATCH_DATA := $(abspath ../shared/data)
  endif
endif

RUN := .venv/bin/

.PHONY: help setup setup-all demo test check e2e bench soak generate format clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup:  ## Python packages, Java, Kafka's jars
	@devstack/setup.sh kafka

setup-all:  ## The same, and the servers that only tests need
	@devstack/setup.sh kafka prometheus postgres redis

demo: setup  ## The main job on real data, with the proof; KEEP=1 leaves the stack running
	@$(RUN)python -m devstack.demo $(if $(KEEP),--keep) $(if $(SEED),--seed $(SEED))

test: setup-all  ## All tests but the long ones
	@$(RUN)pytest -m "not soak" $(ARGS)

check: setup  ## Lint, types, architecture, generated files
	@$(RUN)ruff check
	@$(RUN)ruff format --check
	@$(RUN)mypy
	@$(RUN)lint-imports
	@$(RUN)tidewatch generate --check

soak: setup-all  ## The long forms of the fault tests
	@$(RUN)pytest -m soak --timeout 7200 $(ARGS)

bench: setup  ## make bench NAME=loader: one benchmark; its JSON is the last line and bench/results/NAME.json
	@test -f "bench/$(NAME).py" || { echo "NAME=$(NAME) is none of: $$(cd bench && ls *.py | grep -v '^_' | sed 's/.py//' | xargs)" >&2; exit 2; }
	@$(RUN)python -m bench.$(NAME) $(ARGS)

generate: setup  ## Files that follow from the code
	@$(RUN)tidewatch generate

format: setup
	@$(RUN)ruff check --fix
	@$(RUN)ruff format

clean:
	rm -rf .venv .tidewatch .mypy_cache .ruff_cache .pytest_cache .hypothesis dist build
