# Everything from nothing but Python (3.11 or newer), make and git. `make` lists the commands.
PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
DEVELOPMENT := $(VENV)/.development
JOBS ?= 2
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export DO_NOT_TRACK := 1
# Compiled modules are cached, whatever the environment says: the tests start Python hundreds of times.
export PYTHONDONTWRITEBYTECODE :=
export GX_ANALYTICS_ENABLED := false
export PREFECT_SERVER_ANALYTICS_ENABLED := false
# uv installs in parallel, and does not read the settings of pip: a mirror that is set for pip is passed on.
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)
endif
ifdef PIP_EXTRA_INDEX_URL
export UV_INDEX ?= $(PIP_EXTRA_INDEX_URL)
endif
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
endif
INSTALL = $(VENV)/bin/uv pip install --quiet --python $(VENV)/bin/python -c constraints.txt

.PHONY: venv help install run test test-system prove debian check ui bench clean

help:
	@echo "make install      set up only"
	@echo "make run          set up, run the pipeline, print its metrics and where the reports are (JOBS=1: one stage at a time)"
	@echo "make test         set up, run the unit tests"
	@echo "make test-system  set up, run the slow tests: a fresh clone, faults, a Prefect server and worker"
	@echo "make prove        the long proofs: the whole sample twice, kills by the dozen, thousands of random logs"
	@echo "make check        ruff, mypy, and the import contracts of the layers"
	@echo "make ui           the Prefect server with the deployments, and a worker (Ctrl-C ends all)"
	@echo "make bench        time validate and evaluate on simulated logs of growing size"
	@echo "make clean        remove the environment and caches, keep data and results"

# An environment that is a link, or was made in another folder, would be changed under somebody else's hands.
venv:
	@if test -L $(VENV); then \
		echo "$(VENV) is a link to $$(readlink $(VENV)): remove it, and make installs an environment of its own here"; exit 2; fi
	@if test -e $(VENV)/bin/pip && ! grep -qF "$(CURDIR)/$(VENV)/" $(VENV)/bin/pip; then \
		echo "$(VENV) was made in another folder: make clean removes it, and make installs a new one"; exit 2; fi

$(INSTALLED): pyproject.toml constraints.txt | venv
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "befriend needs Python 3.11 or newer; name one with: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 2; }
	@echo "installing PyTorch, Prefect, DVC and some 150 other packages into $(VENV) (2 GB; half a minute on a fast network)"
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install -qq --disable-pip-version-check -c constraints.txt uv
	@start=$$(date +%s) && $(INSTALL) -e . && echo "installed in $$(($$(date +%s) - start)) s"
	@touch $@

$(DEVELOPMENT): $(INSTALLED)
	@echo "installing what the tests need: pytest, ruff, mypy, a browser driver and a mock of S3"
	@$(INSTALL) -e '.[dev]'
	@touch $@

install: $(INSTALLED) | venv

run: $(INSTALLED) | venv
	@python -m tasks.make_run --jobs $(JOBS)

test: $(DEVELOPMENT) | venv
	@pytest -m "not system and not proof" -n auto --dist worksteal

# What the slow tests need and pip does not install. As root on Debian it is installed; elsewhere those tests are skipped.
debian:
	@{ command -v chromium && command -v chromedriver && command -v faketime && command -v qemu-x86_64 && ls /usr/lib/postgresql/*/bin/initdb; } >/dev/null 2>&1 || \
		{ test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
		apt-get -qq -y install chromium chromium-driver faketime postgresql qemu-user >/dev/null; } || \
		echo "no chromium, chromedriver, faketime, qemu-user or PostgreSQL here: the tests that need them will be skipped"

# One process more than there are cores, as these tests often wait for servers.
test-system: $(DEVELOPMENT) debian | venv
	@pytest -m "system and not proof" -n $$(($$(nproc) + 1)) --dist loadfile --no-loadscope-reorder

prove: $(DEVELOPMENT) debian | venv
	@pytest -m "proof or hypothesis" --hypothesis-profile prove -n auto --dist loadfile --durations=0

check: $(DEVELOPMENT) | venv
	@ruff check .
	@mypy -n auto
	@lint-imports

ui: $(INSTALLED) | venv
	@python -m flows.serve

bench: $(DEVELOPMENT) | venv
	@python bench/scale.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .grimp_cache
