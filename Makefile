# Two commands matter: `make nightly` and `make test`. Each does all of its own set-up, in .venv; nothing else is needed
# but Python 3.11 to 3.13 and make (as root on a Debian, `make test` also installs a browser, docker-compose and MariaDB).
.DEFAULT_GOAL := help
.PHONY: help nightly demo test test-bigquery test-frameworks lint torture fuzz bench up down backup restore upgrade up-rehearsal lock sbom audit system torch imported
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
# Packages are installed by a lock with hashes, as wheels: no code of a package runs before its hash was checked. Runspend itself is built
# with the locked backend of requirements/build.txt, which is installed first.
LOCKED := --quiet --require-hashes --only-binary :all:
UV := VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install
INSTALL := $(UV) $(LOCKED) --constraint requirements/lock.txt --requirements pyproject.toml
INSTALL_US := $(UV) --quiet --no-deps --no-build-isolation --editable .
PINS := pyproject.toml requirements/lock.txt
# The tests, and all processes they started, end when make ends (tests/reaper.py).
PYTEST := TESTS_END_WITH=$$PPID exec $(BIN)/pytest
ARGS ?=
COUNT ?= 1
ON_BIGQUERY := tests/warehouse/test_engine_contract.py tests/warehouse/bigquery/test_warehouse.py tests/faults/test_bigquery_swap.py tests/e2e/test_bigquery_night.py

# No tool reports its use. Byte code is kept: without it Airflow takes twice as long to import.
export MLFLOW_DISABLE_TELEMETRY := true
export DO_NOT_TRACK := true
export SCARF_NO_ANALYTICS := true
export AIRFLOW__USAGE_DATA_COLLECTION__ENABLED := False
unexport PYTHONDONTWRITEBYTECODE PYTHONPATH VIRTUAL_ENV

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

nightly: $(VENV)/.ready-nightly ## the whole night through the DAGs: your runspend.yaml, or the demo world when there is none (ARGS="--now …")
	@$(BIN)/runspend nightly --dags dags $(ARGS)

demo: $(VENV)/.ready-nightly ## make a new demo world in .runspend-demo/
	@$(BIN)/runspend demo $(ARGS)

# Set-up waits for disks and registries, and tests for their servers: each does more at once than there are processors.
test: $(VENV)/.ready-dev ## every check and test but torture and benchmarks (ARGS="-k …" narrows it)
	@$(MAKE) --no-print-directory --jobs 5 lint imported system $(VENV)/.ready-azurite $(VENV)/.ready-bigquery $(VENV)/.ready-dbt
	@$(if $(ARGS),,$(BIN)/python deploy/rehearsal/rehearse.py --if-changed)
	@$(PYTEST) -n $$(($$(getconf _NPROCESSORS_ONLN) + 2)) --dist loadfile --no-loadscope-reorder $(ARGS)

test-bigquery: $(VENV)/.ready-dev ## the tests of the BigQuery warehouse on Google's, in datasets of their own (PROJECT=… DATASET=…)
	@if [ -z "$(PROJECT)" ] || [ -z "$(DATASET)" ]; then \
	  echo "cannot test on BigQuery: no PROJECT or no DATASET. Run: make test-bigquery PROJECT=my-project DATASET=runspend_test" >&2; exit 2; fi
	@RUNSPEND_BIGQUERY="$(PROJECT)/$(DATASET)" $(PYTEST) --timeout 3600 $(ON_BIGQUERY) $(ARGS)

test-frameworks: torch ## train with Lightning, Transformers, Optuna and Ray Tune (as root on a Debian, this installs PyTorch)
	@$(PYTEST) -m torture tests/e2e/test_training_frameworks.py $(ARGS)

lint: $(VENV)/.ready-dev ## ruff, its format, mypy --strict, import layers, bandit
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache
	@$(BIN)/python requirements/audit.py code

torture: $(VENV)/.ready-dev $(VENV)/.ready-superset ## the long tests: kills, races, full disks, whole ledgers on the reference
	@$(PYTEST) -m torture $(ARGS)

fuzz: $(VENV)/.ready-dev ## hostile input for all that parses, 60 s a target (ARGS="yaml sql --seconds 600"; see tests/fuzz/__init__.py)
	@$(BIN)/python -m tests.fuzz $(ARGS)

bench: $(VENV)/.ready-dev ## measure speed and memory beside pandas and MLflow's own client (needs 2 quiet cores)
	@$(PYTEST) -m bench -s tests/benchmarks $(ARGS)

lock: $(VENV)/.ready-build ## compile the locks in requirements/ (ARGS=--upgrade takes the newest versions)
	@$(BIN)/python requirements/lock.py $(ARGS)

sbom: $(VENV)/.ready-build ## write dist/runspend.cdx.json, a CycloneDX list of the shipped packages
	@$(BIN)/python requirements/sbom.py dist/runspend.cdx.json

audit: $(VENV)/.ready-dev $(VENV)/.ready-audit ## check our code (bandit) and the locked packages (pip-audit)
	@$(BIN)/python requirements/audit.py code
	@$(BIN)/python requirements/audit.py packages

up: | $(BIN)/python ## start the stack of docker-compose.yaml: Airflow, PostgreSQL, MLflow, an S3 store, a mail catcher, Grafana
	@if [ -e .restore-unfinished ]; then echo "cannot start: a restore was interrupted. Run: make restore FROM=$$(cat .restore-unfinished)" >&2; exit 2; fi
	@$(BIN)/python deploy/make_env.py .env
	docker compose up --build --detach --wait

down: | $(BIN)/python ## stop the stack; its data stay in their volumes
	@$(BIN)/python deploy/make_env.py .env
	docker compose down

backup: ## stop the stack for a minute and copy its databases, S3 store, warehouse and .env into backups/ (or TO=…)
	@deploy/backup.sh

restore: ## put a backup into a stack without volumes (FROM=backups/…)
	@deploy/restore.sh

upgrade: | $(BIN)/python ## back the stack up, then start it with the images of this checkout
	@$(BIN)/python deploy/make_env.py .env
	@LEAVE_STOPPED=1 deploy/backup.sh
	@$(MAKE) --no-print-directory up

up-rehearsal: $(VENV)/.ready-dev ## start the stack for real with an engine and base images of its own, and try it (root, Debian; COUNT=1)
	@$(BIN)/python deploy/rehearsal/rehearse.py --count $(COUNT)

# --- set-up ---------------------------------------------------------------------------------------------------------

# The first Python on the list that is new enough, and can make a virtual environment.
$(BIN)/python:
	@for python in python3 python3.13 python3.12 python3.11; do \
	  if command -v $$python >/dev/null && $$python -c 'import sys, ensurepip; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; then \
	    echo "making $(VENV) with $$($$python --version)"; exec $$python -m venv $(VENV); fi; done; \
	echo "cannot make $(VENV): no Python from 3.11 to 3.13 with venv on PATH. Install one (Debian: apt-get install python3 python3-venv)." >&2; exit 2

$(VENV)/.ready-build: requirements/build.txt | $(BIN)/python
	@$(BIN)/python -m pip install --disable-pip-version-check $(LOCKED) --no-deps --requirement $< && touch $@

$(VENV)/.ready-nightly: $(PINS) $(VENV)/.ready-build
	@echo "installing runspend[pipeline,demo,airflow]"
	@$(INSTALL) --extra pipeline --extra demo --extra airflow && $(INSTALL_US) && touch $@

$(VENV)/.ready-dev: $(PINS) $(VENV)/.ready-build
	@echo "installing runspend[dev]"
	@$(INSTALL) --extra dev && $(INSTALL_US) && touch $@ $(VENV)/.ready-nightly

$(VENV)/.ready-audit: requirements/audit.txt $(VENV)/.ready-build
	@echo "installing pip-audit"
	@$(BIN)/python -m venv --without-pip $(VENV)/audit && $(BIN)/uv pip install --python $(VENV)/audit $(LOCKED) --requirement $< && touch $@

# Microsoft's Azure server. Tests that need it are skipped with a message if it cannot be installed.
$(VENV)/.ready-azurite: tests/servers/azurite/package-lock.json | $(VENV)/.ready-dev
	@echo "installing azurite"; mkdir -p $(VENV)/azurite && cp tests/servers/azurite/package*.json $(VENV)/azurite && \
	if PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/npm ci --prefix $(VENV)/azurite --ignore-scripts --no-audit --no-fund --loglevel=error >$(VENV)/npm.log 2>&1; \
	then touch $@; else echo "cannot install azurite: see $(VENV)/npm.log. The tests that need it will say so."; fi

# A server that speaks BigQuery's API, for some tests; it pins other versions of what we use, so it has an environment of its own.
$(VENV)/.ready-bigquery: tests/servers/bigquery.txt | $(VENV)/.ready-dev
	@echo "installing bqemulator"; \
	if $(BIN)/python -m venv $(VENV)/bigquery >$(VENV)/bigquery.log 2>&1 && \
	  $(BIN)/uv pip install --python $(VENV)/bigquery $(LOCKED) --requirement tests/servers/bigquery.txt >>$(VENV)/bigquery.log 2>&1; \
	then touch $@; else echo "cannot install bqemulator: see $(VENV)/bigquery.log. The tests that need it will say so."; fi

# dbt, for tests/e2e/test_dbt.py; it needs another protobuf than we do, so it has an environment of its own.
$(VENV)/.ready-dbt: requirements/dbt.txt | $(VENV)/.ready-dev
	@echo "installing dbt"; \
	if $(BIN)/python -m venv --without-pip $(VENV)/dbt >$(VENV)/dbt.log 2>&1 && \
	  $(BIN)/uv pip install --python $(VENV)/dbt $(LOCKED) --requirement requirements/dbt.txt >>$(VENV)/dbt.log 2>&1; \
	then touch $@; else echo "cannot install dbt: see $(VENV)/dbt.log. The test that needs it will say so."; fi

# Superset, for tests/actions/export/test_superset.py, in an environment of its own: it needs older versions of much that we use. One package has
# no wheel and is built, by build tools with hashes in the same lock.
$(VENV)/.ready-superset: requirements/superset.txt | $(VENV)/.ready-dev
	@echo "installing Superset"; \
	if $(BIN)/python -m venv --without-pip $(VENV)/superset >$(VENV)/superset.log 2>&1 && \
	  $(BIN)/uv pip install --python $(VENV)/superset $(LOCKED) --no-binary wtforms-json --no-deps --require-build-hashes \
	    --build-constraints $< --requirement $< >>$(VENV)/superset.log 2>&1; \
	then touch $@; else echo "cannot install Superset: see $(VENV)/superset.log. The test that needs it will say so."; fi

# Optuna, Ray Tune, Lightning and Transformers, for tests/e2e/test_training_frameworks.py, in an environment of their own: on the system's
# Python where it is new enough, since Debian's PyTorch is for that one.
$(VENV)/.ready-frameworks: requirements/frameworks.txt requirements/build.txt | $(VENV)/.ready-dev
	@echo "installing Optuna, Ray Tune, Lightning and Transformers"; \
	python=/usr/bin/python3; $$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null || python=$(BIN)/python; \
	if { $(BIN)/uv venv --clear --system-site-packages --python $$python $(VENV)/frameworks && \
	  $(BIN)/uv pip install --python $(VENV)/frameworks $(LOCKED) --no-deps --requirement requirements/build.txt --requirement requirements/frameworks.txt && \
	  $(BIN)/uv pip install --python $(VENV)/frameworks --quiet --no-deps --no-build-isolation --editable .; } >$(VENV)/frameworks.log 2>&1; \
	then touch $@; else echo "cannot install them: see $(VENV)/frameworks.log. The tests that need them will say so."; fi

# PyTorch, for the tests with Lightning and Transformers. PyPI has it for Linux only with CUDA, 3 GB to download; Debian's is 0.2 GB.
torch: $(VENV)/.ready-frameworks
	@if $(VENV)/frameworks/bin/python -c 'import sys, importlib.util; sys.exit(importlib.util.find_spec("torch") is None)' 2>/dev/null; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing python3-torch"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  if apt-get update -qq && apt-get install -qq -y --no-install-recommends python3-torch; then exit 0; fi >$(VENV)/torch.log 2>&1; \
	  echo "cannot install python3-torch: see $(VENV)/torch.log. The tests that need it will say so."; \
	else echo "not installed: PyTorch (Debian: apt-get install python3-torch). The tests that need it will say so."; fi

# The first import of all tests compiles them and what they import. It happens once, while set-up waits, and not in every worker.
imported: $(VENV)/.ready-dev
	@$(BIN)/pytest --collect-only --quiet --quiet >$(VENV)/collect.log 2>&1 || { cat $(VENV)/collect.log; exit 1; }

# What some tests need from the system. A test whose tool is missing says so; none is passed by default.
system:
	@missing=; command -v chromium >/dev/null || missing="$$missing chromium"; command -v docker-compose >/dev/null || missing="$$missing docker-compose"; \
	PATH="$$PATH:/usr/sbin" command -v mariadbd >/dev/null || missing="$$missing mariadb-server-core"; \
	command -v my_print_defaults >/dev/null || missing="$$missing mariadb-client-core"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing$$missing"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  if apt-get update -qq && apt-get install -qq -y --no-install-recommends $$missing; then exit 0; fi >$(VENV)/apt.log 2>&1; \
	  echo "cannot install$$missing: see $(VENV)/apt.log. The tests that need them will say so."; \
	else echo "not installed:$$missing (Debian: apt-get install$$missing). The tests that need them will say so."; fi
