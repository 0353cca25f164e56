# Two commands for a newcomer: `make demo` and `make test`. Each sets everything up first.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
BIN := .venv/bin
FAST := .venv-fast/bin
INSTALL := PYTHON="$(PYTHON)" sh requirements/install.sh
# Node and npm come from the virtual environment; bun would be downloaded from elsewhere.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export REFLEX_USE_NPM := 1
export REFLEX_TELEMETRY_ENABLED := false

.PHONY: help demo cluster-demo test fast versions check faults soak audit bench bench-quick setup bench-setup lock browser nginx clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: setup  ## Run the dashboard on http://localhost:3000
	$(BIN)/reflex run

cluster-demo: setup nginx  ## Run two gateways on one Valkey, nginx, Celery and the dashboard
	$(BIN)/python -m demo_app.cluster

# lane NAME,COMMAND: run a command and print how long it took.
lane = @began=$$(date +%s); $(2); code=$$?; echo "lane $(1): $$(($$(date +%s) - began)) s"; exit $$code

test: setup browser nginx  ## Run all tests
	$(call lane,browser,$(BIN)/pytest tests/e2e/browser)
	$(call lane,clients,$(BIN)/pytest tests/e2e/clients)
	$(call lane,others,$(BIN)/pytest --ignore=tests/e2e/browser --ignore=tests/e2e/clients -n auto --maxprocesses 4 \
		--dist loadfile --no-loadscope-reorder)

fast: $(FAST)/.installed  ## Run the tests that need no process, network or browser, in an environment of their own
	$(call lane,fast,$(FAST)/pytest --fast -n auto)

versions: setup  ## Run the fast tests on each version of Python that is installed
	$(BIN)/nox

check: setup  ## Lint, check types and imports
	$(call lane,check,$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports)

faults: setup nginx  ## Kill, stop and starve real gateways under load (minutes)
	$(BIN)/python -m tests.tools.faults

soak: setup  ## Ten minutes of moderate load; memory has to stay flat
	$(BIN)/python -m tests.tools.soak

audit: setup  ## Look the dependencies up among known vulnerabilities
	$(BIN)/python -m tests.tools.audit

bench: bench-setup  ## Measure everything, beside other servers (25 minutes); writes benchmarks/results/
	$(BIN)/python -m benchmarks --into benchmarks/results

bench-quick: bench-setup  ## Measure what this gateway has to reach, beside other servers (under 5 minutes)
	$(BIN)/python -m benchmarks.targets

setup: $(BIN)/.installed  ## Create .venv and install the locked versions of everything

$(BIN)/.installed: pyproject.toml requirements/dev.txt
	@$(INSTALL) .venv dev
	@touch $@

$(FAST)/.installed: pyproject.toml requirements/fast.txt
	@$(INSTALL) .venv-fast fast
	@touch $@

bench-setup: setup
	@$(INSTALL) .venv bench

# uv keeps the versions that a file names, unless it is to upgrade them.
LOCK = $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--custom-compile-command "make lock" $(if $(UPGRADE),--upgrade)

lock: setup  ## Lock the dependencies of pyproject.toml in requirements/; UPGRADE=1 takes the newest versions
	$(LOCK) pyproject.toml --all-extras --group dev -o requirements/dev.txt
	$(LOCK) pyproject.toml --extra es256 --extra otel --extra redis --extra server --group test-fast -c requirements/dev.txt -o requirements/fast.txt
	$(LOCK) pyproject.toml --extra redis --extra server --group bench -c requirements/dev.txt -o requirements/bench.txt
	$(LOCK) --group installer -c requirements/dev.txt -o requirements/installer.txt

browser:
	@sh tests/tools/install_chromium.sh

nginx:
	@sh tests/tools/install_nginx.sh

clean:  ## Remove what setup and runs have made
	rm -rf .venv .venv-fast .nox .web .realtime .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
