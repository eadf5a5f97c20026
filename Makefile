# `make` lists the targets. Nothing is needed beforehand but Python 3.11 or newer and make.
PYTHON ?= python3
SCALE  ?= published

VENV   := .venv
PY     := $(VENV)/bin/python
SETUP  := $(VENV)/.complete
ASSETS := book/_static/vendor/.complete

export PIP_DISABLE_PIP_VERSION_CHECK := 1
SHELL := bash
# A `.venv` is made anew if its Python is gone, or is another one than was asked for by name.
ANEW := $(shell \
    v='import sys; print(sys.version_info[:2])'; \
    [ -e $(SETUP) ] && mine=$$($(PY) -c "$$v" 2> /dev/null) || { echo yes; exit; }; \
    [ '$(origin PYTHON)' = file ] || [ "$$mine" = "$$($(PYTHON) -c "$$v")" ] || echo yes)
ifneq ($(ANEW),)
.PHONY: $(SETUP)
endif
# More than four workers wait for the same runs.
TESTS := $(PY) -m pytest -n logical --maxprocesses 4

.DEFAULT_GOAL := help
# Each target keeps all cores busy by itself: with -j they would only slow one another down.
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help setup assets book pdf release picture lab check test lint format bench reproduce lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' Makefile

setup: $(SETUP) ## install the locked packages into .venv (6 GB, 2 to 3 minutes)

assets: $(ASSETS) ## fetch the browser scripts that let the book work offline

book: setup assets ## build _build/html/index.html; SCALE=published (default), smoke, quick or paper
	@$(PY) -m psplib book --scale $(SCALE)

pdf: setup assets ## print the book to _build/html/psplib.pdf, linked from its first page (needs Chromium)
	@$(PY) -m psplib book --scale $(SCALE) --pdf

release: setup assets ## write executed chapters to _build/release, for GitHub's view (needs Chromium)
	@$(PY) -m psplib book --scale $(SCALE) --release

picture: setup ## draw README's picture from the published results
	@$(PY) -m psplib.paper.front > book/_static/abstract.svg.new
	@mv book/_static/abstract.svg.new book/_static/abstract.svg

lab: setup ## open the chapters in JupyterLab; ARGS="--no-browser"
	@JUPYTER_PATH=$(CURDIR)/$(VENV)/share/jupyter $(PY) -m jupyterlab book $(ARGS)

check: lint ## lint, and the fast tests: while working (a minute and a half)
	@$(TESTS) -m "not slow"

test: setup assets ## run the tests, the book at smoke scale included (5 to 6 minutes); ARGS=tests: the long ones, too
	@$(TESTS) $(or $(ARGS),-m "not thorough")

lint: setup ## check format, style and types
	@$(PY) -m ruff format --check .
	@$(PY) -m ruff check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports --no-logo 2>/dev/null || $(VENV)/bin/lint-imports

format: setup ## format the code and the notebooks
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix-only .

bench: setup ## measure psplib beside its peers
	@$(PY) -m benchmarks

reproduce: setup ## compute the whole paper; goes on where it was stopped; ARGS="--scale quick"
	@$(PY) -m psplib reproduce $(ARGS)

# Locks hold hashes and no addresses, so that any mirror serves them.
lock: ## add to the locks what is asked for (needs uv and npm); ARGS=--upgrade takes newer versions
	@uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --quiet $(ARGS) \
	    --generate-hashes --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
	    --output-file requirements.lock
	@npm install --package-lock-only --omit=optional --loglevel=error

clean: ## remove what was built; keeps .venv, runs and results
	@rm -rf _build $(dir $(ASSETS)) node_modules *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

$(SETUP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("psplib needs Python 3.11 or newer, and $(PYTHON) is %d.%d: name another one, as in make PYTHON=python3.12" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@# An interrupted installation looks whole to pip: only what reached its end is added to.
	@[ -z "$(ANEW)" ] || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $@
	@echo "Setting up $(VENV): about 6 GB, 2 to 3 minutes on a fast line"
	@# What installs and builds the others comes from the lock, too.
	@$(PY) -m pip install --quiet --no-deps --require-hashes \
	    -r <(awk '/^[^ ]/ { is_tool = /^(pip|setuptools)==/ } is_tool' requirements.lock)
	@set -o pipefail; $(PY) -m pip install --progress-bar off --require-hashes --no-build-isolation \
	    -r requirements.lock | awk -v all="$$(grep -c == requirements.lock)" \
	        '/^ *(Collecting|Processing)/ && ++n % 20 == 0 { print "  " n " of about " all " packages"; fflush() } \
	         /^ *Installing/ { print "  unpacking them"; fflush() }'
	@$(PY) -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

# Only the venv's node is used, so that every machine runs the same npm.
$(ASSETS): package.json package-lock.json .npmrc $(SETUP)
	@echo "Fetching the browser scripts"
	@PATH="$(CURDIR)/$(VENV)/bin:$$PATH" npm ci --loglevel=error > /dev/null
	@rm -rf $(@D) && mkdir -p $(@D)/input/tex
	@cp node_modules/mathjax/es5/tex-svg.js $(@D)
	@cp -R node_modules/mathjax/es5/input/tex/extensions $(@D)/input/tex
	@# For the tests alone: a hidden name is not copied into the site.
	@cp node_modules/axe-core/axe.min.js $(@D)/.axe.js
	@rm -rf node_modules
	@touch $@
