# Each target is one or two commands. A new machine needs only Python 3.11 or newer for `make demo` and `make test`:
# they set up .venv from the hashed locks, and set it up again only when the locks change.

PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/pip --disable-pip-version-check --quiet install
LOCKED := --require-hashes --only-binary :all:
EDITABLE := --no-deps --no-build-isolation --editable .
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-strip-extras

.PHONY: demo test nightly lint format bench simulate chaos up down lock

demo: .venv/.cli ## the tutorial, embedded: no broker
	@$(BIN)/skillq demo

test: .venv/.dev ## all tests except the Compose story, in lanes side by side; with ARGS, plain pytest
	$(BIN)/$(if $(ARGS),pytest $(ARGS),python -m tests.lanes)

nightly: .venv/.dev ## tests that take too long for each change; PART=chaos-sqlite runs one part
	$(BIN)/python -m tests.lanes.nightly $(PART)

lint: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: .venv/.dev
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: .venv-bench/.made ## skillq compared with its neighbours; ARGS=--short takes two minutes and saves nothing
	.venv-bench/bin/python -m benchmarks.compare $(or $(ARGS),--json benchmarks/results/comparison.json --plots docs)

simulate: .venv/.dev ## SEEDS=300 runs 300 seeds, SEEDS=17:20 a range, SEED=17 one seed and prints its steps
	@$(BIN)/python -m tests.simulation $(if $(SEED),--trace $(SEED),$(or $(SEEDS),300))

chaos: .venv/.dev ## MINUTES=30 of faults for each kind of store; SEED=17 repeats the same faults
	SKILLQ_TEST_CHAOS_MINUTES=$(or $(MINUTES),1) SKILLQ_TEST_CHAOS_SEED=$(SEED) $(BIN)/pytest -s tests/chaos $(ARGS)

up: ## RabbitMQ, manager, three kinds of worker, the tutorial
	docker compose up --build

down:
	docker compose down

lock: .venv/.dev ## make the locks again; ARGS=--upgrade takes the newest releases
	$(LOCK) $(ARGS) pyproject.toml --all-extras --group dev -o requirements/dev.txt
	for service in manager worker cli; do \
	  $(LOCK) pyproject.toml --extra $$service -c requirements/dev.txt -o requirements/$$service.txt || exit 1; done
	$(LOCK) pyproject.toml --extra all --group bench -c requirements/dev.txt -o requirements/bench.txt
	@# hatchling needs the package editables for an editable install
	$(BIN)/python -c 'import tomllib; \
	  print(*tomllib.load(open("pyproject.toml", "rb"))["build-system"]["requires"], "editables", sep="\n")' | \
	  $(LOCK) - -c requirements/dev.txt -o requirements/build.txt

# The neighbours of the benchmark have an environment of their own: tests and services must not depend on them.
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

# dev.txt contains all packages of cli.txt in the same releases, so this environment also serves .venv/.cli.
.venv/.dev: pyproject.toml requirements/build.txt requirements/dev.txt | .venv/.made
	$(INSTALL) $(LOCKED) -r requirements/build.txt -r requirements/dev.txt
	$(INSTALL) $(EDITABLE)
	touch $@ .venv/.cli
