# Needs Python 3.11 or newer and make; Go only where the control plane's binaries can't be downloaded.
PYTHON ?= python3
VENV ?= .venv
IMAGE ?= managed-sessions:$(PROJECT_VERSION)
# Tests mostly wait, so there are as many or more of them at once than cores.
TEST_WORKERS ?= 4
FAULT_WORKERS ?= 4
# Which cluster tests and which rows of the fault matrix: 1/1 is all of them, 2/3 the second third.
CLUSTER_PART ?= 1/1
FAULT_PART ?= 1/1
# pytest's exit status where PYTEST_ARGS picks no test of a run.
NO_TESTS := 5
# Tests side by side, then those that need the machine for themselves, also where one of the first has failed.
define both_parts
failed=0; \
	$(BIN)/python -m pytest $(1) --cluster-part=$(CLUSTER_PART) -m "not alone" \
		--numprocesses=$(TEST_WORKERS) --dist=loadfile $(PYTEST_ARGS) || [ $$? -eq $(NO_TESTS) ] || failed=1; \
	$(BIN)/python -m pytest tests/cluster --cluster-part=$(CLUSTER_PART) -m alone $(PYTEST_ARGS) || \
		[ $$? -eq $(NO_TESTS) ] || failed=1; \
	exit $$failed
endef
# Where the API servers of tests write down what the processes did, for check-rights.
AUDIT := $(abspath .audit)
PROJECT_VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)

# What test-python runs on the API server: processes, TLS, signals, streams, the command line.
PYTHON_CLUSTER_TESTS ?= $(addprefix tests/cluster/,test_control_plane.py test_custom_resource.py test_smoke_turn.py \
	test_lifecycle.py test_credential_rotation.py test_leadership.py test_webhook.py test_install_command.py)

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.installed-bench
PACKAGES := $(wildcard api/managed_session_api runtime/managed_session_runtime webhook/managed_session_webhook \
	dashboard/managed_session_dashboard \
	operator/managed_session_operator worker/managed_session_worker cli/managed_session_cli \
	devkit/managed_session_devkit)
# What .house-words.txt is for. docs/upgrade.md is not in it, because it names the words of earlier versions.
PROSE := README.md CONTRIBUTING.md RELEASE.md SECURITY.md docs deploy crds

.DEFAULT_GOAL := help
.PHONY: help setup binaries helm demo test test-unit test-cluster test-kubernetes test-python test-faults test-dashboard check-rights e2e soak soak-quick check format bench bench-quick docs docs-site manifests image sbom clean

help: ## Show the targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/\1	\2/p' $(MAKEFILE_LIST) | while IFS='	' read -r name text; do \
		printf '  %-16s %s\n' "$$name" "$$text"; done

setup: $(STAMP) ## Make the virtual environment from the lock files, with product and devkit, where they have changed

$(STAMP): pyproject.toml devkit/pyproject.toml requirements-build.lock requirements-dev.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "Python 3.11 or newer is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing into $(VENV) (a minute or two the first time)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --require-hashes --requirement requirements-dev.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation \
		--editable . --editable ./devkit
	@touch $@

$(BENCH_STAMP): requirements-bench.lock $(STAMP)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes --requirement requirements-bench.lock
	@touch $@

binaries: setup ## Get kube-apiserver, etcd and kubectl: download them, or build them with Go
	@$(BIN)/python -m managed_session_devkit.control_plane binaries

helm: setup ## Get the Helm that tests of the chart run: build it with Go, unless HELM names one
	@$(BIN)/python -m tests.support.go_programs helm

demo: setup ## Show the whole system at work: a session's turn from the webhook to the answer
	@$(BIN)/managed-sessions demo

test: setup binaries helm ## All tests: unit and cluster; CLUSTER_PART=2/2 for half of the cluster tests
	rm -rf $(AUDIT)/test
	export MANAGED_SESSIONS_AUDIT_FOLDER=$(AUDIT)/test; $(call both_parts,tests/unit tests/cluster)

test-unit: setup ## The tests that need no control plane
	$(BIN)/python -m pytest tests/unit $(PYTEST_ARGS)

test-cluster: setup binaries helm ## The tests on a real API server
	$(BIN)/python -m pytest tests/cluster $(PYTEST_ARGS)

test-kubernetes: setup helm ## The cluster tests on another release of Kubernetes: VERSION=1.32
	@[ -n "$(VERSION)" ] || { echo "Which release of Kubernetes? Try: make test-kubernetes VERSION=1.32" >&2; exit 1; }
	unset KUBEBUILDER_ASSETS; MANAGED_SESSIONS_KUBERNETES_VERSION=$(VERSION) \
		$(BIN)/python -m managed_session_devkit.control_plane binaries
	unset KUBEBUILDER_ASSETS; export MANAGED_SESSIONS_KUBERNETES_VERSION=$(VERSION); $(call both_parts,tests/cluster)

test-python: ## The unit tests and some cluster tests on another Python, in an environment of its own: VERSION=3.12
	@[ -n "$(VERSION)" ] || { echo "Which version of Python? Try: make test-python VERSION=3.12" >&2; exit 1; }
	$(MAKE) PYTHON=python$(VERSION) VENV=.venv-$(VERSION) setup binaries
	.venv-$(VERSION)/bin/python -m pytest tests/unit \
		--numprocesses=$(TEST_WORKERS) --dist=loadfile $(PYTEST_ARGS) || [ $$? -eq $(NO_TESTS) ]
	.venv-$(VERSION)/bin/python -m pytest $(PYTHON_CLUSTER_TESTS) \
		--numprocesses=$(TEST_WORKERS) --dist=loadfile $(PYTEST_ARGS) || [ $$? -eq $(NO_TESTS) ]

test-faults: setup binaries ## The fault matrix: every fault by name, and whether the guarantees hold; FAULT_PART=2/3 for a third
	rm -rf $(AUDIT)/test-faults
	MANAGED_SESSIONS_AUDIT_FOLDER=$(AUDIT)/test-faults \
		$(BIN)/python -m pytest tests/faults --fault-part=$(FAULT_PART) --numprocesses=$(FAULT_WORKERS) \
			--dist=worksteal $(PYTEST_ARGS)

test-dashboard: setup binaries ## The dashboard on a real API server and in a headless Chromium, which has to be there
	rm -rf $(AUDIT)/test-dashboard
	MANAGED_SESSIONS_AUDIT_FOLDER=$(AUDIT)/test-dashboard $(BIN)/python -m pytest tests/dashboard $(PYTEST_ARGS)

check-rights: setup ## After test, test-faults and test-dashboard: no right of deploy/ went unused, and no request was refused
	$(BIN)/python -m tests.rights $(AUDIT) $(RIGHTS_ARGS)

e2e: setup helm ## The tests on a real node: a kind cluster, or the one that KUBECONFIG names
	$(BIN)/python -m pytest tests/kind --timeout=600 --durations=15 $(PYTEST_ARGS)

soak: setup binaries ## Many sessions under faults of all kinds until the verdict; SOAK_ARGS="--seed 1 --sessions 50"
	$(BIN)/python -m tests.soak --sessions 300 --turns 10 $(SOAK_ARGS)

soak-quick: setup binaries ## The same for five minutes and with one seed, with as many sessions as fit
	$(BIN)/python -m tests.soak --sessions 300 --turns 10 --minutes 5 --seed 1 $(SOAK_ARGS)

check: setup ## Lint, format, types, direction of imports, dead code, spelling, words of the glossary
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy $(PACKAGES) tests benchmarks
	$(BIN)/lint-imports
	$(BIN)/vulture
	$(BIN)/codespell
	$(BIN)/codespell --dictionary=.house-words.txt --skip=docs/upgrade.md $(PROSE)

format: setup ## Format the code
	$(BIN)/ruff format .

bench: setup binaries $(BENCH_STAMP) ## Measure everything, and write docs/benchmarks.md; BENCH_ARGS="--only turns", BENCH_ARGS=--list
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

bench-quick: setup binaries ## A few ratios in less than three minutes; fails if one got worse by more than half
	$(BIN)/python -m benchmarks.quick $(BENCH_ARGS)

docs: setup ## Write the generated pages of docs/ anew
	$(BIN)/python docs/generate.py
	$(BIN)/python -m tests.faults.document
	$(BIN)/python -m tests.hostile.table

docs-site: setup ## Build docs/ as a site into site/; a link that leads nowhere ends it
	@$(BIN)/zensical build --strict --clean

manifests: setup binaries ## Write deploy/*.yaml anew from deploy/kustomize/base
	$(BIN)/python devkit/render_manifests.py
	$(BIN)/python devkit/render_dashboard.py
	$(BIN)/python devkit/render_chart.py

image: ## Build the image of webhook, operator and dashboard; IMAGE=REGISTRY/NAME:TAG, PLATFORM=linux/arm64 for other nodes
	docker build $(if $(PLATFORM),--platform=$(PLATFORM)) --build-arg VERSION=$(PROJECT_VERSION) --build-arg REVISION=$$(git rev-parse HEAD) --tag $(IMAGE) .

sbom: ## Write the image's bill of materials to sbom.cdx.json (CycloneDX)
	docker run --rm $(IMAGE) cat /opt/managed-sessions/sbom.cdx.json > sbom.cdx.json

clean: ## Remove the virtual environments and caches
	rm -rf $(VENV) .venv-* $(AUDIT) .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
