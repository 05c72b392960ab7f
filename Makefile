# The commands of this project; `make help` lists them. Everything runs in ./.venv, which is made when needed, whatever
# other environment is active.
SHELL := /bin/bash
.DEFAULT_GOAL := help
unexport VIRTUAL_ENV CONDA_PREFIX PYTHONPATH PYTHONHOME PYTHONSTARTUP MPLBACKEND JUPYTER_PATH

PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
INSTALLED := $(VENV)/.installed
UV := $(VENV)/bin/uv --system-certs
PROCESSORS := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 2)
JOBS ?= $(shell echo $$(($(PROCESSORS) < 8 ? $(PROCESSORS) : 8)))

.PHONY: help environment test reproduce report site slides notebooks lint lock

help: ## this list
	@grep -E '^[a-z]+:.*## ' Makefile | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 18

environment: $(INSTALLED) ## make or update ./.venv

$(INSTALLED): requirements.lock pyproject.toml
	@if [ ! -x $(VENV)/bin/python ]; then \
	  $(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("make PYTHON=...: needs Python 3.11 or newer")' \
	  && $(PYTHON) -m venv $(VENV); \
	fi
	@if [ "$$($(UV) --version 2>/dev/null | cut -d' ' -f2)" != $(UV_VERSION) ]; then \
	  $(VENV)/bin/python -m pip install --quiet uv==$(UV_VERSION); \
	fi
	$(UV) pip sync --quiet --compile-bytecode --python $(VENV)/bin/python requirements.lock
	$(UV) pip install --quiet --python $(VENV)/bin/python --no-deps -e .
	@touch $@

# Notebooks are compared with the outputs they were committed with, so they must not see the caller's settings.
CLEAN = scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	env -u PYTHONOPTIMIZE -u PYTHONWARNINGS $(VENV)/bin/python -m msnlib.command.environment "$$scratch" $(VENV)/bin/python

test: $(INSTALLED) ## run the tests, and every notebook against its committed outputs
	@$(CLEAN) -m pytest -n $(JOBS) --dist loadfile

notebooks: $(INSTALLED) ## re-make the outputs committed with the notebooks (read the changes before you commit them)
	@$(CLEAN) -m nbconvert --to notebook --execute --inplace --log-level WARN \
	  --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.kernel_name=python3 notebooks/*.ipynb

# The first notebooks are the shortest: started last, they leave no processor idle for long.
LAST_FIRST = $(shell ls -r notebooks/[0-9][0-9]_*.ipynb)

reproduce: $(INSTALLED) ## run every notebook in the quick profile into runs/ and say what each found
	@echo "runs every notebook at quick size into runs/; a line for each when it ends, and what each found at the end"
	@$(VENV)/bin/msn run $(LAST_FIRST) --profile quick --jobs $(JOBS) --out runs

report: $(INSTALLED) ## re-make tables and figures from the runs in reports/, the README's too, and the site
	@$(VENV)/bin/msn report --out reports --readme README.md
	@$(MAKE) --no-print-directory site

site: $(INSTALLED) ## build the site from notebooks, records and docstrings into site/
	@$(VENV)/bin/python docs/pages.py site && echo "open site/index.html"

slides: $(INSTALLED) ## build the slides of the course into build/slides
	@$(VENV)/bin/python -m sphinx -q -W -b revealjs course/slides build/slides && echo "open build/slides/index.html"

lint: $(INSTALLED) ## check the style of code and notebooks
	@$(VENV)/bin/ruff check .

lock: $(INSTALLED) ## pin the newest versions pyproject.toml admits in requirements.lock
	@$(UV) pip compile --quiet --upgrade --universal --python-version 3.11 --all-extras \
	  --no-annotate --custom-compile-command 'make lock' pyproject.toml -o requirements.lock
