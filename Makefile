# ImageGen: every command that a user or a maintainer needs. `make help` lists them.
PYTHON ?= python3
VENV   ?= .venv
# Without a GPU, TORCH_INDEX=https://download.pytorch.org/whl/cpu avoids gigabytes of CUDA libraries.
TORCH_INDEX ?=
# --no-compile installs sooner; Python compiles what is imported at its first import then
PIP_OPTIONS ?=
PIP     = $(VENV)/bin/pip install --quiet --disable-pip-version-check $(PIP_OPTIONS) -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
BIN     = $(VENV)/bin
# what `make bench-peers` compares with has an environment of its own
PEERS   = .venv-peers
PROTO   = .venv-proto/bin
CODE    = client server tests deploy/grafana deploy/kubernetes deploy/supply proto/generate.py
PROMPT ?= a red circle on a blue background
# recipes get it in their environment, as it was typed: the shell would run what stands in backticks
override PROMPT := $(value PROMPT)
export PROMPT
# where an environment is made: pip on an older Python looks for a release that would do, in vain and for minutes
NEW_ENOUGH = @$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	|| { echo "ImageGen needs Python 3.11 or newer: make $(or $(firstword $(MAKECMDGOALS)),demo) PYTHON=python3.12" >&2; exit 1; }
PORT   ?= 8000
# where `make prometheus` unpacks prometheus, promtool and amtool if the machine has none
TOOLS   = build/prometheus
FLOORS  = build/floors
PYTEST  = PATH="$$PATH:$(CURDIR)/$(TOOLS)/usr/bin" $(BIN)/python -m pytest
# where `bench` is, a package that is not installed
TESTS   = $(CURDIR)/tests$${PYTHONPATH:+:$$PYTHONPATH}
# processes that run tests; more of them need more memory, a gigabyte or two each
WORKERS ?= 2
# buf compares the contract with the last released one
RELEASED = proto/released/imagegen-v1.binpb

export OMP_NUM_THREADS ?= $(shell $(PYTHON) -c "import os; print(os.cpu_count())")
# workers and the servers that they start share the cores: threads that wait for each other would only be in the way
test floors: export OMP_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help install demo serve http envoy-config web browser observe prometheus rules test client-tools test-clients floors lint format types contracts proto proto-check buf shapes shapes-measure shapes-card gallery calls-reference metrics-reference dashboards dashboard-pictures prometheus-rule lock audit sbom bench bench-gate bench-peers bench-gpu check clean

help: ## list the commands
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-15s %s\n", $$1, $$2}'

$(VENV)/bin/pip:
	$(NEW_ENOUGH)
	$(PYTHON) -m venv $(VENV)

$(VENV)/.server: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "installing the server and the client into $(VENV) (PyTorch and diffusers: a minute or more) …"
	$(PIP) -e '.[server,cli]'
	@touch $@

$(VENV)/.http: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "installing the server, the client and Envoy into $(VENV) (PyTorch and diffusers: a minute or more) …"
	$(PIP) -e '.[server,cli,http]'
	@touch $@ $(VENV)/.server

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/pip
	@echo "installing everything that development needs into $(VENV) …"
	$(PIP) -e '.[server,cli,dev]'
	@touch $@ $(VENV)/.server $(VENV)/.http

install: $(VENV)/.server ## install server, client and command line into .venv

demo: $(VENV)/.server ## see it work: server, prompt, progress, image, metrics; no GPU, no download
	@$(BIN)/python -m imagegen_server.demo "$$PROMPT"

serve: $(VENV)/.server ## run the server on the embedded model, in the foreground
	$(BIN)/imagegen-server --model shapes

http: $(VENV)/.http ## serve HTTP/JSON, gRPC-Web and a page on PORT (8000): the server on the embedded model, behind Envoy
	@$(BIN)/python -m imagegen_server.http_edge --port $(PORT)

prometheus: ## get Debian's prometheus, promtool and amtool for the tests, where they are missing and apt-get works
	@sh tests/support/prometheus_tools.sh $(TOOLS)

browser: ## install Debian's Chromium for the tests of the page, where it is missing and this is root
	@sh tests/support/browser_tools.sh

web: $(VENV)/.dev ## bundle the page of client/examples/web (Node.js and npm)
	cd client/examples/web && npm ci --no-audit --no-fund && PATH="$(CURDIR)/$(BIN):$$PATH" npm run build

observe: $(VENV)/.server prometheus ## watch it work: two servers, Prometheus, and a minute of mixed load with faults
	@PATH="$$PATH:$(CURDIR)/$(TOOLS)/usr/bin" $(BIN)/python -m imagegen_server.observe

rules: $(VENV)/.dev prometheus ## check the Prometheus rules, their own tests and the runbook
	$(PYTEST) tests/deploy/test_prometheus_rules.py

test: $(VENV)/.dev prometheus ## run the tests, two files at a time (tests/gpu skips itself without a GPU)
	$(PYTEST) -n $(WORKERS) --dist loadfile --no-loadscope-reorder -m "not alone"
	$(PYTEST) -m alone tests/gpu $$(grep -rl --include='test_*.py' -e 'pytest\.mark\.alone' tests)

client-tools: ## install the compilers of the clients' tests, where they are missing and this is root
	@sh tests/support/client_tools.sh

test-clients: $(VENV)/.dev client-tools ## run the clients in other languages; as root it installs the compilers where they are missing
	$(BIN)/python -m pytest tests/clients

# before those of $(VENV) on the path, whose PyTorch they use
$(FLOORS)/.done: pyproject.toml constraints-floors.txt $(VENV)/.dev
	rm -rf $(FLOORS)
	$(PIP) -c constraints-floors.txt --target $(FLOORS) diffusers transformers
	@touch $@

floors: $(FLOORS)/.done ## the embedded pair with the lowest diffusers and transformers that the project allows
	export PYTHONPATH="$(CURDIR)/$(FLOORS)$${PYTHONPATH:+:$$PYTHONPATH}" && \
	$(BIN)/python -c "from importlib.metadata import version as v; print('diffusers', v('diffusers'), 'transformers', v('transformers'))" && \
	$(BIN)/python -m pytest tests/unit/shapes/test_pair.py tests/unit/shapes/test_tokenizer.py \
		tests/unit/models/test_light_imports.py::test_what_was_deferred_works_when_it_is_asked_for

lint: $(VENV)/.dev ## ruff, formatting included
	$(BIN)/ruff check $(CODE)
	$(BIN)/ruff format --check $(CODE)

format: $(VENV)/.dev ## let ruff mend and format the code
	$(BIN)/ruff check --fix $(CODE)
	$(BIN)/ruff format $(CODE)

types: $(VENV)/.dev ## mypy --strict of all code, tests included
	$(BIN)/mypy

contracts: $(VENV)/.dev ## the dependency rules between the rooms
	$(BIN)/lint-imports

.venv-proto/.done: proto/requirements.txt
	$(NEW_ENOUGH)
	$(PYTHON) -m venv .venv-proto
	$(PROTO)/pip install --quiet --disable-pip-version-check -r proto/requirements.txt
	@touch $@

proto: .venv-proto/.done ## generate the Python stubs and Envoy's descriptors from the contract
	PATH="$(CURDIR)/$(PROTO):$$PATH" $(PROTO)/python -W ignore proto/generate.py client deploy

proto-check: .venv-proto/.done ## fail if the committed stubs and descriptors are not what the contract generates
	rm -rf build/proto && mkdir -p build/proto
	PATH="$(CURDIR)/$(PROTO):$$PATH" $(PROTO)/python -W ignore proto/generate.py build/proto build/proto/deploy
	diff -ru --exclude=__init__.py --exclude=__pycache__ client/imagegen/v1 build/proto/imagegen/v1
	cmp deploy/envoy/imagegen.binpb build/proto/deploy/envoy/imagegen.binpb

buf: $(VENV)/.dev ## buf lint, and buf breaking against the released contract
	$(BIN)/buf lint proto
	mkdir -p build && $(BIN)/buf build proto -o build/contract.binpb
	$(BIN)/buf breaking build/contract.binpb --against $(RELEASED)

shapes: $(VENV)/.dev ## train the embedded pair from nothing (two cores: under two hours; LONG=--long: three), measure it, write card and gallery
	$(BIN)/python -m imagegen_server.shapes.train $(LONG)
	$(MAKE) shapes-measure gallery

shapes-measure: $(VENV)/.server ## measure the embedded pair through the service, and write its card
	$(BIN)/python -m imagegen_server.shapes.train.measure --output server/imagegen_server/shapes/pair/accuracy.json
	$(MAKE) shapes-card

shapes-card: $(VENV)/.server ## write the embedded pair's card from its figures
	$(BIN)/python -m imagegen_server.shapes.train.card

gallery: $(VENV)/.server ## draw docs/gallery.md with the embedded pair
	$(BIN)/python -m imagegen_server.shapes.train.gallery

calls-reference: $(VENV)/.dev ## write the table of reasons in docs/calls.md anew
	PYTHONPATH="$(TESTS)" $(BIN)/python -m support.reasons

metrics-reference: $(VENV)/.server ## write docs/metrics.md from the metric catalogue
	$(BIN)/python -m imagegen_server.telemetry.reference > docs/metrics.md

envoy-config: $(VENV)/.server ## write deploy/envoy/envoy.yaml, the compose file's, from its template
	mkdir -p build && $(BIN)/python -m imagegen_server.http_edge.configure > build/envoy.yaml && mv build/envoy.yaml deploy/envoy/envoy.yaml

dashboards: $(VENV)/.dev ## render the Grafana dashboards to the JSON that Grafana is given
	$(BIN)/python deploy/grafana/render.py

prometheus-rule: $(VENV)/.dev ## write the rules as the manifest that prometheus-operator reads
	$(BIN)/python deploy/kubernetes/prometheus_rule.py

# PICTURES names the Prometheus and the time, as in docs/observability.md
dashboard-pictures: $(VENV)/.dev ## draw docs/images/observability from a Prometheus: PICTURES="--prometheus URL --minutes N"
	$(BIN)/python deploy/grafana/draw.py $(PICTURES)

lock: $(VENV)/.dev ## pin and hash what the container image installs, in the versions that are tested: deploy/locked
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python deploy/supply/lock.py

audit: $(VENV)/.dev ## ask for known vulnerabilities of what is locked; fails for those that deploy/supply/audit.toml does not allow
	$(BIN)/python deploy/supply/audit.py

sbom: $(VENV)/.dev ## write what a server consists of, as CycloneDX: build/sbom.json
	$(BIN)/python deploy/supply/sbom.py

bench: $(VENV)/.dev ## measure ratios on this machine's CPU; writes docs/benchmarks.md rows and a JSON
	PYTHONPATH="$(TESTS)" $(BIN)/python -m bench.run

bench-gate: $(VENV)/.dev ## fail if the service is slower against diffusers than docs/benchmarks.json says; a minute
	PYTHONPATH="$(TESTS)" $(BIN)/python -W ignore -m bench.gate

$(PEERS)/.done: pyproject.toml constraints.txt
	$(NEW_ENOUGH)
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -e '.[server,cli,dev,peers]'
	@touch $@

bench-peers: $(PEERS)/.done ## measure against diffusers behind a lock, Ray Serve and LitServe (20 minutes): BENCH="--quick" for less
	$(PEERS)/bin/python -W ignore tests/bench/peers/run.py $(BENCH)

bench-gpu: $(VENV)/.dev ## tests and measurements that need a GPU
	$(BIN)/python -m pytest tests/gpu

check: lint types contracts buf proto-check audit test floors ## what CI runs, without test-clients and bench-gate

clean: ## remove what make made
	rm -rf $(VENV) $(PEERS) .venv-proto build dist out .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
