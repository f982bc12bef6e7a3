# Every command of this project; `make` alone lists them. Only GNU make, bash and Python 3.11 or newer
# are assumed. Each command creates the environment that it needs, and creates it again only when
# pyproject.toml or constraints.txt changed.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SILENT:
MAKEFLAGS += --no-builtin-rules --no-print-directory

RECIPE ?= training/recipes/transit-ridership.toml
DATA ?=
OVERWRITE ?=
PYTEST ?=
COMPOSE ?= docker compose

# The first that runs and is new enough; `make PYTHON=/path/to/python3.11 …` decides otherwise.
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& { echo $$python; break; }; done)

# Colours only where a terminal shows them.
bold := $(if $(MAKE_TERMOUT),\033[1m)
cyan := $(if $(MAKE_TERMOUT),\033[36m)
plain := $(if $(MAKE_TERMOUT),\033[0m)
say = printf '$(bold)$(cyan)▸$(plain) $(bold)%s$(plain)\n'
fail = { printf 'make: %s\n      %s\n' $(1) >&2; exit 2; }

.PHONY: help
help:
	printf '\n  $(bold)Carry$(plain) · stateful serving for recurrent models\n'
	awk -F ':.*## ' '/^##@ / { printf "\n  $(bold)%s$(plain)\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "    $(cyan)make %-12s$(plain) %s\n", $$1, $$2 }' Makefile
	printf '\n  Settings are environment variables:  CARRY_PORT=9000 make serve\n\n'

##@ Run

.PHONY: serve
serve: .venv/installed ## Serve the models of models/ on this machine
	mkdir -p var
	host=$${CARRY_HOST:-127.0.0.1}; \
	case $$host in 0.0.0.0|::) host=localhost;; *:*) host="[$$host]";; esac; \
	$(say) "open http://$$host:$${CARRY_PORT:-8000}/ (Ctrl-C stops)"
	exec .venv/bin/python -m service

.PHONY: train
train: .venv-train/installed ## Train the next version: RECIPE=….toml DATA=file (OVERWRITE=1: the same)
	$(say) 'training $(RECIPE)'
	.venv-train/bin/python -m training fit $(RECIPE) $(if $(DATA),--data '$(DATA)') \
		$(if $(OVERWRITE),--overwrite)

##@ Test

.PHONY: check
check: .venv-dev/installed ## Format, lint, types, import rules
	$(say) format && .venv-dev/bin/ruff format --check .
	$(say) lint && .venv-dev/bin/ruff check .
	$(say) types && .venv-dev/bin/mypy
	$(say) 'import rules' && .venv-dev/bin/lint-imports --no-logo

.PHONY: test
test: .venv-dev/installed ## All of check and the quick tests; lists what was skipped, and why
	$(say) 'checks and quick tests' && $(pytest) -m 'not slow' $(PYTEST)

.PHONY: test-all
test-all: .venv-dev/installed ## The slow tests too (REQUIRE_ALL=1: a skip is a failure)
	$(say) 'checks and all tests' && $(pytest) --hypothesis-profile thorough $(PYTEST)

# On all cores; a core that runs out of tests takes some of another's. `make check` is one of them.
pytest = REQUIRE_ALL='$(REQUIRE_ALL)' .venv-dev/bin/python -m pytest \
	--numprocesses logical --maxprocesses 8 --dist worksteal \
	--durations 15 --durations-min 1 --junitxml build/tests.xml

.PHONY: bench
bench: .venv-dev/installed ## Measure the service on this machine
	[ -f tests/benchmarks/__main__.py ] || $(call fail,'no benchmarks in this tree yet' \
		'expected the package tests/benchmarks with a __main__.py')
	.venv-dev/bin/python -m tests.benchmarks

##@ Deploy

.PHONY: up
up: deploy/secrets/valkey-password ## Replicas, nginx, Valkey, Prometheus and Grafana in containers
	$(COMPOSE) version >/dev/null 2>&1 || $(call fail,'"$(COMPOSE)" does not run' \
		'install Docker with its compose plugin or name another: make COMPOSE=docker-compose up')
	$(COMPOSE) up --detach --build --wait
	$(COMPOSE) ps --format 'table {{.Service}}\t{{.Status}}\t{{.Ports}}'

.PHONY: roll
roll: ## Replace the running replicas one after another, with what is built now
	$(COMPOSE) build service
	COMPOSE='$(COMPOSE)' deploy/roll.sh

.PHONY: down
down: ## Stop the containers; their volumes, hence all sessions, stay
	$(COMPOSE) down

# Read by containers that run as other users, so the folder is what keeps it.
deploy/secrets/valkey-password:
	$(say) 'making a password for Valkey'
	mkdir -p -m 0700 $(@D)
	head -c 32 /dev/urandom | base64 | tr -d '/+=\n' > $@
	chmod 0444 $@

##@ Maintain

.PHONY: constraints
constraints: ## Resolve every version anew into constraints.txt
	$(require_python)
	$(say) 'resolving (nothing is installed)'
	rm -rf build/resolver && '$(PYTHON)' -m venv build/resolver
	build/resolver/bin/python deploy/pin_versions.py
	rm -rf build/resolver

.PHONY: audit
audit: .venv-dev/installed ## Ask whether a pinned library has a known weakness
	$(say) 'pinned libraries (what cannot be looked up is a failure)'
	.venv-dev/bin/pip-audit --strict --no-deps --disable-pip --requirement constraints.txt

.PHONY: sbom
sbom: .venv/installed .venv-dev/installed ## Write build/sbom.json: what the service is made of
	mkdir -p build
	.venv-dev/bin/cyclonedx-py environment --output-format JSON \
		--output-file build/sbom.json .venv/bin/python
	$(say) build/sbom.json

.PHONY: schema
schema: .venv-dev/installed ## Write models/manifest.schema.json from its definition
	schema=$$(.venv-dev/bin/python -m service.contract.manifest) \
		&& printf '%s\n' "$$schema" > models/manifest.schema.json

.PHONY: settings
settings: .venv-dev/installed ## Write docs/settings.md from the definition of the settings
	page=$$(.venv-dev/bin/python -m tests.architecture.settings_page) \
		&& printf '%s\n' "$$page" > docs/settings.md

.PHONY: client
client: .venv-dev/installed ## Write the client for threads from the client for asyncio
	.venv-dev/bin/python -m tests.architecture.synchronous_client

.PHONY: clean
clean: ## Remove environments, caches and builds; var/ and runs/ stay
	rm -rf .venv .venv-train .venv-dev build dist ./*.egg-info
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Environments: this project, editable, with just the extras named. constraints.txt pins every
# version, so that no requirement can bring another torch along.

define require_python
	'$(PYTHON)' -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
		|| $(call fail,'expected Python 3.11 or newer; found "$(PYTHON)"' \
		'install one or name it: make PYTHON=/path/to/python3.11 …')
	'$(PYTHON)' -c 'import ensurepip, venv' 2>/dev/null \
		|| $(call fail,'$(PYTHON) cannot make environments: it has no venv or ensurepip' \
		'on Debian and Ubuntu: apt-get install python3-venv')
endef

# Of what pip tells: each file with its size as it is fetched, then that all are being installed.
define progress
	while read -r word what rest; do case $$word in \
		Downloading|Using|Processing) what=$${what##*/}; [ "$$what" = cached ] && what=$$rest rest=; \
			printf '  %s %s\n' "$$what" "$$rest" ;; \
		Installing) printf '  installing %s packages\n' "$$(wc -w <<< "$$rest")" ;; \
	esac; done
endef

define install
	$(require_python)
	$(say) 'making $(@D) with: $(EXTRAS)'
	[ -x $(@D)/bin/python ] || '$(PYTHON)' -m venv $(@D)
	PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 $(@D)/bin/python -m pip install \
		--no-color --progress-bar off --constraint constraints.txt --editable '.[$(EXTRAS)]' \
		| $(progress)
	touch $@
endef

.venv/installed: EXTRAS := cpu,bulk
.venv-train/installed: EXTRAS := training
.venv-dev/installed: EXTRAS := cpu,bulk,client,tracing,training,dev

.venv/installed .venv-train/installed .venv-dev/installed: pyproject.toml constraints.txt
	$(install)
