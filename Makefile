# `make demo` and `make test` do their own set-up: a .venv with pinned versions. Nothing else is needed but Python 3.11, 3.12 or
# 3.13 with its module venv, or uv.
.DEFAULT_GOAL := help
VENV   := .venv
BIN    := $(VENV)/bin
EXTRA  ?= cpu
RUN    ?= runs/demo
DEMO   := $(if $(filter gpu,$(EXTRA)),demo-gpu,demo)
INSTALLED := $(VENV)/installed-$(EXTRA)
DEV := $(INSTALLED)-dev
PINS := pyproject.toml deploy/install/constraints-$(EXTRA).txt deploy/install/overrides-$(EXTRA).txt deploy/install/setup.sh

.PHONY: help setup setup-dev demo check lint test test-all test-faults test-browser test-compose clean

help:
	@echo "make demo          set up, train the integer task on this machine and show the result (runs/demo)"
	@echo "make demo EXTRA=gpu VENV=.venv-gpu  the same on a GPU"
	@echo "make test          set up, run the fast tests and one whole tiny training run (at most 12 minutes on 2 cores)"
	@echo "make test-all      set up, run every test that needs neither a browser nor containers (35 minutes on 2 cores)"
	@echo "make test-faults   set up, kill, stop and starve parts of real runs (part of test-all; 12 minutes)"
	@echo "make test-browser  set up, test the dashboard in Chromium (apt-get install chromium fonts-dejavu-core)"
	@echo "make test-compose  set up, run docker-compose.yml on a Docker engine and kill parts of it"
	@echo "make check         set up, run format, lint, types, import contracts and unit tests (two minutes)"
	@echo "make setup         only set up; EXTRA=gpu for CUDA machines"
	@echo "make setup-dev     set up, with what tests and lint need"

setup: $(INSTALLED)

setup-dev: $(DEV)

$(INSTALLED): $(PINS)
	@sh deploy/install/setup.sh $(VENV) $(EXTRA)
	@touch $@

$(DEV): $(PINS)
	@sh deploy/install/setup.sh $(VENV) $(EXTRA) dev
	@touch $(INSTALLED) $@

demo: setup
	@$(BIN)/tributary model get smollm2-135m-instruct
	@$(BIN)/tributary train $(DEMO) --run $(RUN) --replace

check: lint
	@$(BIN)/pytest -q tests/unit tests/deployment

lint: setup-dev
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

FAULTS := $(addprefix tests/,$(addsuffix .py,redis/test_faults system/test_checkpoint system/test_cluster system/test_faults \
  system/test_first_hour system/test_process_starts system/test_resume system/test_startup_errors))

TWO_AT_A_TIME := --ignore=tests/browser -n 2 --dist loadfile --no-loadscope-reorder

test: setup-dev
	@$(BIN)/pytest $(TWO_AT_A_TIME) -m "not docker and not slow"

test-all: setup-dev
	@$(BIN)/pytest $(TWO_AT_A_TIME) --durations=40 --durations-min=10

test-faults: setup-dev
	@$(BIN)/pytest $(TWO_AT_A_TIME) $(FAULTS)

test-browser: setup-dev
	@$(BIN)/pytest tests/browser

test-compose: setup-dev
	@$(BIN)/pytest -m docker tests/compose

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
