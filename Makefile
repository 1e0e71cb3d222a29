# Needs Python 3.11 or newer and make; Go only where the control plane's binaries can't be downloaded.
PYTHON ?= python3
VENV ?= .venv
IMAGE ?= managed-sessions:$(VERSION)
# Tests mostly wait, so there are as many or more of them at once than cores.
TEST_WORKERS ?= 2
FAULT_WORKERS ?= 4
# Where the API servers of tests write down what the processes did, for check-rights.
AUDIT := $(abspath .audit)
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PACKAGES := $(wildcard api/managed_session_api runtime/managed_session_runtime webhook/managed_session_webhook \
	operator/managed_session_operator worker/managed_session_worker local/managed_session_local \
	cli/managed_session_cli)

.DEFAULT_GOAL := help
.PHONY: help setup binaries demo test test-unit test-cluster test-faults check-rights e2e soak soak-quick check format bench docs docs-site manifests image sbom clean

help: ## Show the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1	\2/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do \
		printf '  %-14s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## Make the virtual environment from the lock files, where they have changed

$(STAMP): pyproject.toml requirements-build.lock requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing into $(VENV) (a minute or two the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

binaries: setup ## Get kube-apiserver, etcd and kubectl: download them, or build them with Go
	@$(BIN)/python -m managed_session_local.control_plane binaries

demo: setup ## Show the whole system at work: a session's turn from the webhook to the answer
	@$(BIN)/managed-sessions demo

test: setup binaries ## All tests: unit and cluster
	rm -rf $(AUDIT)/test
	MANAGED_SESSIONS_AUDIT_FOLDER=$(AUDIT)/test \
		$(BIN)/python -m pytest tests/unit tests/cluster --numprocesses=$(TEST_WORKERS) --dist=loadfile $(PYTEST_ARGS)

test-unit: setup ## The tests that need no control plane
	$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

test-cluster: setup binaries ## The tests on a real API server
	$(BIN)/python -m pytest tests/cluster $(PYTEST_ARGS)

test-faults: setup binaries ## The fault matrix: every fault by name, and whether the guarantees hold
	rm -rf $(AUDIT)/test-faults
	MANAGED_SESSIONS_AUDIT_FOLDER=$(AUDIT)/test-faults \
		$(BIN)/python -m pytest tests/faults --numprocesses=$(FAULT_WORKERS) --dist=worksteal $(PYTEST_ARGS)

check-rights: setup ## After test and test-faults: no right of deploy/ went unused, and no request was refused
	$(BIN)/python -m tests.rights $(AUDIT)

e2e: setup ## The tests on a real node: a kind cluster, or the one that KUBECONFIG names
	$(BIN)/python -m pytest tests/kind --timeout=600 --durations=15 $(PYTEST_ARGS)

soak: setup binaries ## Many sessions under faults of all kinds until the verdict; SOAK_ARGS="--seed 1 --sessions 50"
	$(BIN)/python -m tests.soak --sessions 300 --turns 10 $(SOAK_ARGS)

soak-quick: setup binaries ## The same for five minutes and with one seed, with as many sessions as fit
	$(BIN)/python -m tests.soak --sessions 300 --turns 10 --minutes 5 --seed 1 $(SOAK_ARGS)

check: setup ## Lint, format, types, direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES) tests benchmarks
	$(BIN)/lint-imports

format: setup ## Format the code
	$(BIN)/ruff format .

bench: setup binaries ## Measure webhook throughput, time to first heartbeat, restart with 2,000 sessions
	$(BIN)/python benchmarks/webhook_throughput.py
	$(BIN)/python benchmarks/time_to_first_heartbeat.py
	$(BIN)/python benchmarks/restart_at_scale.py
	$(BIN)/python benchmarks/hand_over.py

docs: setup ## Write the generated pages of docs/ anew
	$(BIN)/python docs/generate.py
	$(BIN)/python -m tests.faults.document

docs-site: setup ## Build docs/ as a site into site/; a link that leads nowhere ends it
	@$(BIN)/zensical build --strict --clean

manifests: setup binaries ## Write deploy/*.yaml anew from deploy/kustomize/base
	$(BIN)/python deploy/kustomize/render.py

image: ## Build the image of webhook and operator; IMAGE=REGISTRY/NAME:TAG, PLATFORM=linux/arm64 for other nodes
	docker build $(if $(PLATFORM),--platform=$(PLATFORM)) --build-arg VERSION=$(VERSION) --build-arg REVISION=$$(git rev-parse HEAD) --tag $(IMAGE) .

sbom: ## Write the image's bill of materials to sbom.cdx.json (CycloneDX)
	docker run --rm $(IMAGE) cat /opt/managed-sessions/sbom.cdx.json > sbom.cdx.json

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) $(AUDIT) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
