# Everything from nothing but Python (3.11 or newer), make and git. `make` lists the commands.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DO_NOT_TRACK := 1
# Compiled modules are cached, whatever the environment says: the tests start Python hundreds of times.
export PYTHONDONTWRITEBYTECODE :=
export GX_ANALYTICS_ENABLED := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false

.PHONY: help run test test-system prove debian check ui bench clean

help:
	@echo "make run          set up, run the pipeline, print its metrics and where the reports are"
	@echo "make test         set up, run the unit tests"
	@echo "make test-system  set up, run the slow tests: a fresh clone, faults, a Prefect server and worker"
	@echo "make prove        the long proofs: the whole sample twice, kills by the dozen, thousands of random logs"
	@echo "make check        ruff, mypy, and the import contracts of the layers"
	@echo "make ui           the Prefect server with the deployments, and a worker (Ctrl-C ends all)"
	@echo "make bench        time validate and evaluate on simulated logs of growing size"
	@echo "make clean        remove the environment and caches, keep data and results"

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "befriend needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "installing into $(VENV); the first time this takes a few minutes"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

run: $(INSTALLED)
	@dvc repro --quiet
	@befriend summary

test: $(INSTALLED)
	@pytest -m "not system and not proof" -n auto --dist worksteal

# What the slow tests need and pip does not install. As root on Debian it is installed; elsewhere those tests are skipped.
debian:
	@{ command -v chromium && command -v chromedriver && command -v faketime && command -v qemu-x86_64 && ls /usr/lib/postgresql/*/bin/initdb; } >/dev/null 2>&1 || \
		{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
		apt-get -qq -y install chromium chromium-driver faketime postgresql qemu-user >/dev/null; } || \
		echo "no chromium, chromedriver, faketime, qemu-user or PostgreSQL here: the tests that need them will be skipped"

test-system: $(INSTALLED) debian
	@pytest -m "system and not proof" -n auto --dist loadfile --no-loadscope-reorder

prove: $(INSTALLED) debian
	@pytest -m "proof or hypothesis" --hypothesis-profile prove -n auto --dist loadfile --durations=0

check: $(INSTALLED)
	@ruff check .
	@mypy -n auto
	@lint-imports

ui: $(INSTALLED)
	@python -m flows.serve

bench: $(INSTALLED)
	@python bench/scale.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .grimp_cache
