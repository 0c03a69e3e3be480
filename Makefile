# `make` alone says what there is.
.DEFAULT_GOAL := help
PY := .venv/bin/python
SERVERS := $(PY) -m deploy.servers --
# Most tests wait for servers, so four processes share two cores well. Each has servers of its own; a file stays together.
WORKERS ?= 4
PARALLEL := -n $(WORKERS) --dist loadfile

.PHONY: help setup demo bench soak test test-binaries test-faults test-stores fuzz chaos mutants check fmt lock
help:  ## show this
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 10

setup: .venv/.ready  ## a virtual environment with the locked dependencies
.venv/.ready: requirements/dev.txt requirements/bootstrap.txt pyproject.toml deploy/setup
	@deploy/setup

demo: setup  ## everything up, the seed's experiment for real: one table and one picture
	@$(SERVERS) $(PY) -m benchmarks.demo $(DEMO)

bench: setup  ## the figures of the README, beside a C floor and two peers: a table, bench.json, and bounds
	@$(SERVERS) $(PY) -m benchmarks.bench $(BENCH)

soak: setup  ## a million answers, and the memory that they leave behind (SOAK="--answers 100000" for less)
	@$(SERVERS) $(PY) -m benchmarks.soak $(SOAK)

test: setup check  ## everything up, every test that this machine can run
	@$(PY) -m pytest --servers $(PARALLEL) $(PYTEST)

test-binaries: setup  ## the tests that depend on the version of RabbitMQ or Redis, on installed binaries
	@$(PY) -m pytest -m "servers and not own_servers and not any_server" --servers=binaries $(PARALLEL) $(PYTEST)

test-faults: setup  ## the fault suite in its full form, one test at a time
	@$(PY) -m pytest --servers --full tests/faults $(PYTEST)

test-stores: setup  ## the tests of the cache and the leases, on Redis 8 and Valkey out of Debian trixie
	@deploy/stores $(PYTEST)

fuzz: setup  ## damage and cut AMQP streams for 10 minutes (FUZZ="--minutes 1" for less)
	@$(PY) -m tests.fuzz $(FUZZ)

chaos: setup  ## replicas under one kind of fault after another, and under all of them (CHAOS="--only restart" for less)
	@$(SERVERS) $(PY) -m tests.chaos $(CHAOS)

mutants: setup  ## plant faults in a copy, one after the other: each must turn something red
	@$(SERVERS) $(PY) -m tests.mutants $(MUTANTS)

check: setup  ## style, types, import rules
	@$(PY) -m ruff format --check --quiet . && $(PY) -m ruff check --quiet .
	@$(PY) -m mypy
	@.venv/bin/lint-imports --no-logo

fmt: setup  ## format and mend what can be mended
	@$(PY) -m ruff check --fix --quiet . ; $(PY) -m ruff format --quiet .

lock: setup  ## resolve the dependencies anew into requirements/*.txt
	@deploy/lock
