# The one task runner of the project; `make help` lists the targets.
#
# The first target that needs it makes a virtual environment in .venv (it takes a while). A stamp
# file remembers that, so later runs start at once, until pyproject.toml or a lock in configs/locks
# changes. Another Python: make PYTHON=python3.12 setup. Another ensemble: make serve CONFIG=...
# More or fewer faults and changes, or the same ones again: make chaos FAULTS=50 CHANGES=90 SEED=7
# Some of it: make bench-peers BENCH_PEERS='--only small --peers ours,mosec --cost'

PYTHON ?= python3
CONFIG ?= configs/imagenet.yaml
REQUESTS ?= 100000
FAULTS ?= 200
CHANGES ?= 1000
TESTS ?= -q -n 3 --dist worksteal
SITE ?= build

BIN := .venv/bin
INSTALLED := .venv/.installed
COMPAT := .venv-compat/bin
COMPAT_INSTALLED := .venv-compat/.installed
PROTO := clients/ensembled_client/wire/open_inference
DOCS := .venv-docs/bin
DOCS_INSTALLED := .venv-docs/.installed
LOCKS := configs/locks
SETUP := build dev weights
# Exactly what a lock holds, as wheels: nothing is resolved, and nothing compiled.
LOCKED := -m pip install --require-hashes --no-deps --only-binary :all:
# torch's build, and CUDA with it, is for the machine's package index to decide.
TORCH := -m pip install --constraint $(LOCKS)/torch.txt torch

# Libraries that are large or don't go together, an environment each behind .venv's packages.
DOORS := catboost keras mlflow onnx timm

.DEFAULT_GOAL := help
.PHONY: help setup serve test test-fast test-latest test-lowest test-doors compat chaos fuzz check audit lock \
	bench bench-peers docs site proto wheels release image-check clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(INSTALLED) ## make the virtual environment

$(INSTALLED): pyproject.toml clients/pyproject.toml $(addprefix $(LOCKS)/,$(SETUP:=.txt) torch.txt)
	@$(PYTHON) $(LOCKS)/preflight.py
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(BIN)/python $(LOCKED) $(SETUP:%=-r $(LOCKS)/%.txt)
	$(BIN)/python $(TORCH)
	$(BIN)/python -m pip install --no-deps --no-build-isolation -e . -e ./clients
	touch $@

serve: $(INSTALLED) ## serve CONFIG until Ctrl-C
	@exec $(BIN)/ensembled serve $(CONFIG)

test: $(INSTALLED) ## run the tests
	$(BIN)/pytest $(TESTS)

test-fast: $(INSTALLED) ## run those that start no server, with fewer examples, within a minute
	$(BIN)/pytest -q -n 2 --dist worksteal --hypothesis-profile=fast \
		-m 'not process and not slow and not chaos' --ignore=tests/benchmarks --ignore=tests/container

# Both in an environment that is thrown away: the ranges of pyproject.toml, not the locks.
test-latest: ## run the tests with the newest releases that pyproject.toml allows
	@$(PYTHON) $(LOCKS)/preflight.py
	rm -rf .venv-latest
	$(PYTHON) -m venv .venv-latest
	.venv-latest/bin/python -m pip install -e '.[dev]' -e './clients[grpc,load,plot]'
	.venv-latest/bin/python $(LOCKED) -r $(LOCKS)/weights.txt
	.venv-latest/bin/python -m pip freeze --exclude-editable
	.venv-latest/bin/pytest $(TESTS)
	rm -rf .venv-latest

test-lowest: .venv-lock/bin/uv ## run the tests with the oldest releases that it allows
	@$(PYTHON) $(LOCKS)/preflight.py
	rm -rf .venv-lowest
	$(PYTHON) -m venv .venv-lowest
	.venv-lock/bin/python $(LOCKS)/renew.py --lowest > .venv-lowest/lowest.txt
	.venv-lowest/bin/python -m pip install --no-deps --only-binary :all: -r .venv-lowest/lowest.txt
	.venv-lowest/bin/python $(TORCH)
	.venv-lowest/bin/python $(LOCKED) -r $(LOCKS)/build.txt -r $(LOCKS)/weights.txt
	.venv-lowest/bin/python -m pip install --no-deps --no-build-isolation -e . -e ./clients
	.venv-lowest/bin/pytest $(TESTS)
	rm -rf .venv-lowest

test-doors: $(INSTALLED) $(DOORS:%=.venv-doors-%/.installed) ## try the models of large libraries, each in an environment of its own
	for door in $(DOORS); do \
		.venv-doors-$$door/bin/python -m pytest -q -rs tests/doors/test_$$door.py || exit 1; \
	done

.venv-doors-%/.installed: tests/doors/requirements/%.txt $(INSTALLED)
	$(PYTHON) -m venv $(@D)
	$(BIN)/python tests/doors/behind.py $(@D)
	$(@D)/bin/python -m pip install $(PIP_OPTIONS) -r $<
	$(@D)/bin/python -m pip install --no-deps --no-build-isolation -e . -e ./clients
	touch $@

# With a torch of its own instead of .venv's: the one that torchvision is built for.
.venv-doors-timm/.installed: PIP_OPTIONS := --ignore-installed

compat: $(INSTALLED) $(COMPAT_INSTALLED) ## try the clients of other servers, in an environment of their own
	$(COMPAT)/pytest -q tests/compat/with_tritonclient tests/compat/with_tools
	$(COMPAT)/pytest -q tests/compat/with_kserve

$(COMPAT_INSTALLED): $(LOCKS)/compat.txt $(LOCKS)/perf-analyzer.txt
	test -x $(COMPAT)/pip || $(PYTHON) -m venv .venv-compat
	$(COMPAT)/python $(LOCKED) --no-compile -r $(LOCKS)/compat.txt
	$(COMPAT)/python $(LOCKED) -r $(LOCKS)/perf-analyzer.txt || \
		echo "perf-analyzer needs a newer system: its tests are skipped"
	touch $@

chaos: $(INSTALLED) ## inject faults into a server under load, then change it 1,000 times (half an hour)
	$(BIN)/python -m benchmarks.chaos --faults $(FAULTS) $(if $(SEED),--seed $(SEED))
	$(BIN)/python -m benchmarks.chaos --changes $(CHANGES) $(if $(SEED),--seed $(SEED))

fuzz: $(INSTALLED) ## send a server damaged requests, 100,000 of them
	$(BIN)/python -m tests.fuzz --requests $(REQUESTS) $(if $(SEED),--seed $(SEED))

check: $(INSTALLED) ## lint, formatting, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

audit: $(INSTALLED) .venv-audit/bin/pip-audit ## look the dependencies up among known weaknesses (network)
	$(BIN)/python -m pip list --exclude-editable --format=freeze | \
		.venv-audit/bin/pip-audit --strict --no-deps --disable-pip -r /dev/stdin

.venv-audit/bin/pip-audit: $(LOCKS)/audit.txt
	test -x .venv-audit/bin/pip || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python $(LOCKED) -r $(LOCKS)/audit.txt
	touch $@

lock: .venv-lock/bin/uv ## resolve all environments anew and write configs/locks (network)
	.venv-lock/bin/python $(LOCKS)/renew.py

.venv-lock/bin/uv: $(LOCKS)/uv.txt
	test -x .venv-lock/bin/pip || $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python $(LOCKED) -r $(LOCKS)/uv.txt
	touch $@

bench: $(INSTALLED) ## run the benchmarks
	$(BIN)/python -m benchmarks.run

bench-peers: $(INSTALLED) ## measure other servers beside ours, in environments of their own
	$(BIN)/python -m benchmarks.peers $(BENCH_PEERS)

docs: $(INSTALLED) ## generate what pages have from code: references, the drawing, line numbers
	$(BIN)/python docs/tools/configuration.py
	$(BIN)/python -m typer server.cli.main utils docs --name ensembled \
		--title 'Command line' --output docs/command-line.md
	$(BIN)/python docs/tools/drawing.py
	$(BIN)/python docs/tools/lines.py

site: $(DOCS_INSTALLED) ## build the documentation as a site, in site/; SITE=serve shows it
	NO_MKDOCS_2_WARNING=1 $(DOCS)/mkdocs $(SITE)

$(DOCS_INSTALLED): $(LOCKS)/docs.txt
	test -x $(DOCS)/pip || $(PYTHON) -m venv .venv-docs
	$(DOCS)/python $(LOCKED) -r $(LOCKS)/docs.txt
	touch $@

proto: $(INSTALLED) ## compile the description of the gRPC service, for the server and its client
	$(BIN)/python -m grpc_tools.protoc --proto_path=$(dir $(PROTO)) \
		--descriptor_set_out=$(PROTO).binpb $(notdir $(PROTO)).proto

wheels: $(INSTALLED) ## build the wheels of the server and its client into dist/
	rm -rf dist
	$(BIN)/python -m hatchling build -t wheel -d dist
	cd clients && ../$(BIN)/python -m hatchling build -t wheel -d ../dist

release: $(INSTALLED) ## make release VERSION=0.2.0: both distributions, CHANGELOG.md, a tag
	$(BIN)/python .ci/release.py $(VERSION)

image-check: $(INSTALLED) ## make the image without a container engine, as root, and try it
	$(BIN)/python -m tests.container.replay $(IMAGE_CHECK)

clean: ## remove caches and builds (not the environments)
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv*/*' -prune -exec rm -rf {} +
