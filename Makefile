# `make` lists every task.

PYTHON ?= python3
BIN := .venv/bin
EVENTS ?= 100000
SEED ?= 1
DIR ?= profilelake-demo
ONCE ?=
EXTRAS := --extra demo --extra dev --extra s3 --extra postgres

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all test-slow-ci test-cluster test-cluster-ci check lint types imports format lock bench clean

help: ## list the tasks
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "%-14s %s\n", $$1, $$2}'

setup: .venv/.ready ## make the environment in .venv from the lock file

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11"; exit 2; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

run: setup ## send a shop's events with the real Segment SDK and show what becomes of them (EVENTS, SEED, DIR, ONCE=1)
	$(BIN)/profilelake demo --events $(EVENTS) --seed $(SEED) --dir $(DIR) $(if $(ONCE),--once)

test: setup ## the fast suite
	$(BIN)/python -m pytest -n auto

test-all: setup ## every test, slow ones too
	$(BIN)/python -m pytest -n auto -m "slow or not slow" --hypothesis-profile random

test-slow-ci: setup ## the part of the slow tests that CI runs, always the same
	$(BIN)/python -m pytest -m slow \
		tests/clients/test_sdks_deliver_slow.py \
		tests/clients/test_browsers_slow.py::TestNobodyElseIsAsked \
		tests/dbt \
		tests/faults/test_lake_maintenance_slow.py \
		tests/faults/test_backfill_kills_slow.py \
		tests/faults/test_activate_kills_slow.py \
		tests/faults/test_eventlog_kills_slow.py \
		tests/faults/test_eventlog_power_slow.py \
		tests/faults/test_durability_disk_slow.py \
		tests/faults/test_import_crashes_slow.py \
		tests/faults/test_pipeline_crashes_slow.py \
		tests/http/test_abuse_slow.py

SPARK35 := pyspark==3.5.9

.venv-cluster/.ready: requirements-cluster.lock pyproject.toml
	$(PYTHON) -m venv .venv-cluster
	.venv-cluster/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-cluster.lock
	.venv-cluster/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

# The same environment, with another Spark put over it.
.venv-spark35/.ready: .venv-cluster/.ready
	$(PYTHON) -m venv .venv-spark35
	.venv-spark35/bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$(SPARK35)"
	cd .venv-cluster && echo "$$PWD"/lib/python3*/site-packages > "$$(ls -d ../.venv-spark35/lib/python3*/site-packages)/cluster.pth"
	.venv-spark35/bin/python -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
	ln -sf ../../.venv-cluster/bin/weed .venv-spark35/bin/weed
	@touch $@

test-cluster: .venv-cluster/.ready .venv-spark35/.ready ## tests on Spark 4.1 and 3.5, an S3 server and PostgreSQL, slow ones too
	.venv-cluster/bin/python -m pytest -m cluster tests/cluster
	.venv-spark35/bin/python -m pytest -m cluster tests/cluster

test-cluster-ci: .venv-cluster/.ready .venv-spark35/.ready ## the part of them that CI runs
	.venv-cluster/bin/python -m pytest -m "cluster and not slow" tests/cluster
	.venv-spark35/bin/python -m pytest -m cluster tests/cluster/test_spark_engine.py

check: lint types imports test ## what CI runs first

lint: setup ## style and likely mistakes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: setup ## strict types
	$(BIN)/mypy

imports: setup ## the direction of imports
	$(BIN)/lint-imports

format: setup ## bring files into the common format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: setup ## resolve the dependencies anew
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --universal --python-version 3.11 $(EXTRAS) --generate-hashes --no-header --upgrade \
		--quiet pyproject.toml -o requirements.lock
	$(BIN)/uv pip compile --universal --python-version 3.11 --all-extras --generate-hashes --no-header \
		--constraint requirements.lock --quiet pyproject.toml -o requirements-cluster.lock

bench: setup ## the end-to-end figures of the README
	$(BIN)/python benchmarks/pipeline.py
	$(BIN)/python benchmarks/rebuild.py

clean: ## remove the environment and all caches
	rm -rf .venv .venv-cluster .venv-spark35 .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
