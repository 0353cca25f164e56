# Two commands for a newcomer: `make demo` and `make test`. Each sets everything up first.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
BIN := .venv/bin
# Node and npm come from the virtual environment; bun would be downloaded from elsewhere.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export REFLEX_USE_NPM := 1
export REFLEX_TELEMETRY_ENABLED := false

.PHONY: help demo cluster-demo test check faults soak audit bench bench-quick setup browser nginx clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: setup  ## Run the dashboard on http://localhost:3000
	$(BIN)/reflex run

cluster-demo: setup nginx  ## Run two gateways on one Valkey, nginx, Celery and the dashboard
	$(BIN)/python -m demo_app.cluster

test: setup browser nginx  ## Run all tests
	$(BIN)/pytest tests/browser
	$(BIN)/pytest tests/clients
	$(BIN)/pytest --ignore=tests/browser --ignore=tests/clients -n auto --maxprocesses 4 --dist loadfile

check: setup  ## Lint, check types and imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

faults: setup nginx  ## Kill, stop and starve real gateways under load (minutes)
	$(BIN)/python -m tests.faults

soak: setup  ## Ten minutes of moderate load; memory has to stay flat
	$(BIN)/python -m tests.faults.soak

audit: setup  ## Look the dependencies up among known vulnerabilities
	$(BIN)/python -m tests.audit

bench: setup  ## Measure everything, beside other servers (25 minutes); writes benchmarks/results/
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks --into benchmarks/results

bench-quick: setup  ## Measure what this gateway has to reach, beside other servers (under 5 minutes)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[bench]'
	$(BIN)/python -m benchmarks.targets

setup: $(BIN)/.installed  ## Make .venv and install everything

$(BIN)/.installed: pyproject.toml
	@test -n "$(PYTHON)" || { echo "Python 3.11 or later is needed and was not found" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

browser:
	@sh tests/browser/install.sh

nginx:
	@sh tests/faults/install.sh

clean:  ## Remove what setup and runs have made
	rm -rf .venv .web .realtime .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
