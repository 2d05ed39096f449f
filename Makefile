# Everything a clone needs: make, and a Python >= 3.11 with its venv module. Each target makes what it stands on.
#   make demo ARGS="--help"                        more arguments for the program behind a target
#   make test PYTHON=python3.13 VENV=.venv-3.13    another interpreter, in an environment of its own

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
LOCK_PYTHONS ?= python3.11 python3.12 python3.13
RESULTS ?= $(sort $(wildcard benchmarks/results/*.json))

BIN := $(VENV)/bin
PIP := -m pip --disable-pip-version-check install --quiet

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test lint types format coverage bench bench-smoke figures peers peers-system interop faults clients fuzz mutants churn soak lock clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' Makefile

demo: $(VENV)/.proxy  ## run the proxy with an upstream of its own: no key, no network
	$(BIN)/python -m sseflow.proxy --demo $(ARGS)

test: $(VENV)/.dev  ## run all tests, those with real clients included
	$(BIN)/python -m pytest $(ARGS)

lint: $(VENV)/.dev  ## check style and banned calls
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev  ## check types
	$(BIN)/mypy $(ARGS)

format: $(VENV)/.dev  ## write what lint asks for
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The core is pure functions: a branch of it that its own tests do not reach has no reason to be there.
coverage: $(VENV)/.dev  ## measure branch coverage; the core has to reach 100 %
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	$(BIN)/coverage report --fail-under=100 --omit='sseflow/__init__.py,sseflow/_streams.py,sseflow/_switchboard.py,sseflow/_relay.py' \
		--include='sseflow/_*.py,sseflow/stages/*,sseflow/dialects/*'

bench: $(VENV)/.dev  ## measure core, shell and proxy
	$(BIN)/python -m benchmarks $(ARGS)

bench-smoke: $(VENV)/.dev  ## run each benchmark once: does it still work?
	$(BIN)/python -m benchmarks --smoke $(ARGS)

figures: $(VENV)/.dev  ## draw what RESULTS holds, and write it into docs/explanation/performance.md
	$(BIN)/python -m benchmarks --show $(RESULTS) --draw docs/explanation/pictures --page docs/explanation/performance.md

# What cannot live in one environment has one each; benchmarks/peers/python.py looks for them under these names.
peers: peers-system .venv-peers/.installed .venv-peers-mitmproxy/.installed .venv-peers-litellm/.installed  ## install what sseflow is measured beside; about 1 GB

peers-system:
	@missing=; for program in nginx:nginx-light haproxy:haproxy go:golang-go; do \
		PATH="$$PATH:/usr/sbin:/sbin" command -v "$${program%%:*}" >/dev/null || missing="$$missing $${program##*:}"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then apt-get install -y --no-install-recommends $$missing; \
	else sudo apt-get install -y --no-install-recommends $$missing; fi

interop: $(VENV)/.dev  ## run only the tests with real clients
	$(BIN)/python -m pytest -m interop tests/interop $(ARGS)

faults: $(VENV)/.dev  ## try every fault of an upstream in every variant; some minutes
	SSEFLOW_FAULTS=all $(BIN)/python -m pytest tests/proxy/test_fault_matrix.py $(ARGS)

clients: $(VENV)/.dev  ## write what real clients say of each fault and each error into the two pages about it
	$(BIN)/python -m tests.interop.faults --write
	$(BIN)/python -m tests.interop.errors --write

fuzz: $(VENV)/.dev  ## put anything through whole exchanges, for SECONDS (60)
	$(BIN)/python -m tests.proxy.test_exchange_fuzz $(or $(SECONDS),60)

churn: $(VENV)/.dev  ## drop 10,000 connections at random moments, and see what is left
	$(BIN)/python -m tests.proxy.endurance churn $(or $(COUNT),10000)

soak: $(VENV)/.dev  ## a steady load for SECONDS (1200), and the slope of the memory
	$(BIN)/python -m tests.proxy.endurance soak $(or $(SECONDS),1200)

mutants: $(VENV)/.dev  ## break the promise in each way there is a patch for, and see the tests fail
	$(BIN)/python -m tests.mutants $(ARGS)

# Each interpreter resolves under what the ones before it chose, the oldest first: so one version of a package serves
# all, and what only some of them need is added. A result without one of the three would promise what nobody tried.
lock:  ## renew constraints.txt (LOCK_PYTHONS: python3.11 python3.12 python3.13)
	@set -eu; work=$$(mktemp -d); trap 'rm -rf "$$work"' EXIT; : > "$$work/pins"; \
	for python in $(LOCK_PYTHONS); do \
		echo "resolving on $$($$python --version)"; \
		$$python -m venv --clear "$$work/venv"; \
		"$$work/venv/bin/python" $(PIP) -c "$$work/pins" '.[dev,interop,docs,redis,otel,mcp]'; \
		"$$work/venv/bin/python" -m pip freeze --exclude sseflow > "$$work/found"; \
		LC_ALL=C sort -f -u -o "$$work/pins" "$$work/pins" "$$work/found"; \
	done; \
	{ echo '# What make installs, on CPython 3.11, 3.12 and 3.13. Written by `make lock`; do not edit.'; \
		cat "$$work/pins"; } > constraints.txt

clean:  ## remove environments, caches and builds
	rm -rf .venv .venv-* build dist htmlcov .coverage* .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps, so that nothing is installed twice. `--clear`: what an interrupted run left behind is not trusted.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys' 2>/dev/null || \
		{ echo "sseflow: $(PYTHON) does not run. Install Python 3.11 or newer, or name one: make PYTHON=/path/to/python3"; exit 1; } >&2
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "sseflow needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=/path/to/python3.11"; exit 1; } >&2
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
		{ echo "sseflow: $(PYTHON) has no venv module. On Debian and Ubuntu: apt-get install python3-venv"; exit 1; } >&2
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

.venv-peers/.installed: benchmarks/peers/requirements.txt
.venv-peers-mitmproxy/.installed: benchmarks/peers/requirements-mitmproxy.txt
.venv-peers-litellm/.installed: benchmarks/peers/requirements-litellm.txt
.venv-peers/.installed .venv-peers-mitmproxy/.installed .venv-peers-litellm/.installed:
	$(PYTHON) -m venv --clear $(@D)
	$(@D)/bin/python $(PIP) -r $<
	@touch $@

$(VENV)/.proxy: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python $(PIP) -c constraints.txt -e '.[proxy]'
	@touch $@

$(VENV)/.dev: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/python $(PIP) -c constraints.txt -e '.[dev,interop]'
	@touch $(VENV)/.proxy $@
