# Thin: a target is a command or two. `make demo` and `make test` are all that a fresh machine with
# Python 3.11 or newer needs: they set up .venv from the hashed locks, and do it again only when those change.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip --disable-pip-version-check --quiet install
LOCKED := --require-hashes --only-binary :all:
EDITABLE := --no-deps --no-build-isolation --editable .
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header

.PHONY: demo test nightly lint format bench simulate chaos up down lock

demo: .venv/.cli ## the tutorial, embedded: no broker
	@$(BIN)/skillq demo

test: .venv/.dev ## all tests but the Compose story, in lanes side by side; with ARGS, plain pytest
	$(BIN)/$(if $(ARGS),pytest $(ARGS),python -m tests.lanes)

nightly: .venv/.dev ## what takes too long for each change; PART=chaos-sqlite, one part of it
	$(BIN)/python -m tests.lanes.nightly $(PART)

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: .venv-bench/.made ## skillq beside its neighbours; ARGS=--short takes two minutes, and keeps nothing
	.venv-bench/bin/python -m benchmarks.compare $(or $(ARGS),--json benchmarks/results/comparison.json --plots docs)

simulate: .venv/.dev ## SEEDS=300 of them, SEEDS=17:20 those, SEED=17 one, told step by step
	@$(BIN)/python -m tests.simulation $(if $(SEED),--trace $(SEED),$(or $(SEEDS),300))

chaos: .venv/.dev ## MINUTES=30 of faults for each kind of store; SEED=17 tells the same faults again
	SKILLQ_TEST_CHAOS_MINUTES=$(or $(MINUTES),1) SKILLQ_TEST_CHAOS_SEED=$(SEED) $(BIN)/pytest -s tests/chaos $(ARGS)

up: ## RabbitMQ, manager, three kinds of worker, the tutorial
	docker compose up --build

down:
	docker compose down

lock: .venv/.dev ## make the locks anew; ARGS=--upgrade for the newest of everything
	$(LOCK) $(ARGS) pyproject.toml --all-extras --group dev -o requirements/dev.txt
	for service in manager worker cli; do \
	  $(LOCK) pyproject.toml --extra $$service -c requirements/dev.txt -o requirements/$$service.txt || exit 1; done
	$(LOCK) pyproject.toml --extra all --group bench -c requirements/dev.txt -o requirements/bench.txt
	@# hatchling makes an editable install with editables
	$(BIN)/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], "editables", sep="\n")' | \
	  $(LOCK) - -c requirements/dev.txt -o requirements/build.txt

# The neighbours that skillq is measured beside: they have no place in an environment that tests or serves.
.venv-bench/.made: pyproject.toml requirements/build.txt requirements/bench.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip --disable-pip-version-check --quiet install $(LOCKED) -r requirements/build.txt -r requirements/bench.txt
	.venv-bench/bin/pip --disable-pip-version-check --quiet install $(EDITABLE)
	touch $@

.venv/.made:
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("skillq needs Python 3.11 or newer: make PYTHON=python3.13 …")'
	$(PYTHON) -m venv .venv
	touch $@

.venv/.cli: pyproject.toml requirements/build.txt requirements/cli.txt | .venv/.made
	$(INSTALL) $(LOCKED) -r requirements/build.txt -r requirements/cli.txt
	$(INSTALL) $(EDITABLE)
	touch $@

# dev.txt holds the same releases of all that cli.txt holds, and more
.venv/.dev: pyproject.toml requirements/build.txt requirements/dev.txt | .venv/.made
	$(INSTALL) $(LOCKED) -r requirements/build.txt -r requirements/dev.txt
	$(INSTALL) $(EDITABLE)
	touch $@ .venv/.cli
