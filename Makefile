# Everything one does with a clone of Gatehouse. Needs Python 3.11 or newer and nothing else;
# `make peers` also needs Go 1.26. Each target prints what it does and can be run again.

SHELL := /bin/sh
.DEFAULT_GOAL := help

# The first interpreter that really runs and is new enough (a version manager's placeholder may only look so).
PYTHON ?= $(shell for candidate in python3.13 python3.12 python3.11 python3 python; do \
	if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; \
	then echo $$candidate; break; fi; done)

VENV := .venv/bin
PYTEST := $(VENV)/python -m pytest
JOBS ?= auto
FUZZ ?= fuzz
# Many processes start below: each would compile us anew where the environment forbids to keep bytecode.
unexport PYTHONDONTWRITEBYTECODE
# AUTHORITY=vault: the demo of its own whose leaves a Vault signs (`make peers` builds one).
DEMO := $(if $(filter vault,$(AUTHORITY)),GATEHOUSE_DEMO_DIR=$(CURDIR)/.gatehouse-vault $(VENV)/python -m deploy.demo.vault,$(VENV)/python -m deploy.demo)

.PHONY: help python setup-demo setup-dev up down demo test check bench soak drill-vault fuzz peers lock format proto docs clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1|\2/' | column -t -s '|'

python:
	@test -n "$(PYTHON)" || { echo "Gatehouse needs Python 3.11 or newer; none of python3.13, python3.12, python3.11, python3 is. Install one, or name it: make PYTHON=/path/to/python3.12 up"; exit 1; }

setup-demo: python
	@$(PYTHON) deploy/bootstrap.py demo

setup-dev: python
	@$(PYTHON) deploy/bootstrap.py dev

up: setup-demo  ## start a server, an agent and two workloads that talk mutual TLS
	@$(DEMO) up

down:  ## stop what `make up` started
	@if [ -x $(VENV)/python ]; then $(DEMO) down; else echo "nothing to stop: there is no .venv"; fi

demo: setup-demo  ## a guided tour on top of `make up`
	@$(DEMO) tour

test: setup-dev  ## the test suite (under 10 minutes on two cores)
	$(PYTEST) -n $(JOBS) --maxprocesses 8 --dist loadgroup -m "not soak"

check: setup-dev  ## format, lint, types, import layers, generated files, documents
	@$(VENV)/python deploy/check.py

bench: setup-dev  ## every benchmark, each beside its peer or its limit
	@$(VENV)/python -m bench

soak: setup-dev  ## the long runs: 1,000 kills, hours of churn
	GATEHOUSE_CHAOS_KILLS=1000 $(PYTEST) tests/system/test_chaos.py -s
	$(PYTEST) -m soak --timeout 14400 || [ $$? -eq 5 ]

drill-vault: setup-dev  ## a week without Vault for two days of it, and an outage without end, in simulated time: minutes
	$(PYTEST) tests/system/test_vault_drill.py -q -s -m soak

fuzz: setup-dev  ## generated input, 10^6 for each parser: hours (2 to 3 h of CPU time), goes on where it was stopped (FUZZ=brief: minutes)
	HYPOTHESIS_PROFILE=$(FUZZ) $(PYTEST) -n $(JOBS) --maxprocesses 8 --timeout 3600 -m "hypothesis and not soak and not peers"
	$(VENV)/python tests/fuzz/targets.py $(if $(filter brief,$(FUZZ)),--seconds 5 --seed 1,--folder .fuzz --runs 1000000 --seconds 36000)

peers: setup-dev  ## build the real counterparts into the cache: SPIRE, OPA, go-spiffe, kube-apiserver, Vault, CRDs of Istio
	@$(VENV)/python tests/interop/peers.py build

format: setup-dev  ## let ruff format and fix
	$(VENV)/ruff format . && $(VENV)/ruff check --fix .

proto: setup-dev  ## generate control_plane/proto again
	$(VENV)/python control_plane/proto/generate.py

docs: setup-dev  ## generate the generated documents again
	$(VENV)/python docs/generate.py

lock: setup-dev  ## resolve requirements/*.lock again, with hashes and without addresses
	@$(VENV)/python deploy/bootstrap.py lock
