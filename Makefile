PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := dev,docs
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo docs test lint clean peers newest

demo: $(READY)
	$(BIN)/pcgen demo --out demo

test: lint docs
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The site is built into site/. A broken link fails, and so does a page that fetches
# anything from elsewhere when it is read.
docs: $(READY)
	$(BIN)/mkdocs build --strict --quiet
	@! grep -rlE '<(script|link|img)[^>]*(src|href)="?https?://' site --include='*.html'

clean:
	rm -rf .venv .venv-newest build dist site *.egg-info demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# torch goes in alone and pinned, then torchvision without its dependencies: asked for together, pip
# may take a newer torch with several GB of CUDA packages.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "pcgen needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch==2.13.0
	$(PIP) --no-deps torchvision==0.28.0
	$(PIP) --editable '.[$(EXTRAS)]'
	@touch $@

# The quick part of the tests on the newest supported Python, in an environment of its own.
NEWEST ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python3) $(shell command -v python3.13))
QUICK := tests/test_interface.py tests/test_registry.py tests/model tests/inference

newest:
ifeq ($(NEWEST),)
	@echo "No Python 3.13 here: its tests are skipped."
else
	@$(MAKE) --no-print-directory PYTHON=$(NEWEST) VENV=.venv-newest EXTRAS=dev .venv-newest/.ready
	.venv-newest/bin/python -m pytest -q -m "not slow and not data" $(QUICK)
endif

# The libraries that `pcgen bench speed` compares with. Each has its own environment, because they pin
# different versions of jax. The worker is started once to check that its library imports. A library
# that cannot be built is reported; the others are built all the same.
PEERS := pcx fabricpc

peers:
	@for peer in $(PEERS); do \
	    at=.peers/$$peer; \
	    if [ $$at/.ready -nt peers/$$peer.txt ]; then echo "$$peer: ready in $$at"; continue; fi; \
	    rm -rf $$at; mkdir -p .peers; \
	    if { $(PYTHON) -m venv $$at \
	        && $$at/bin/python -m pip install --quiet --disable-pip-version-check \
	            --requirement peers/$$peer.txt \
	        && echo '{"do": "quit"}' | OMP_NUM_THREADS=1 JAX_PLATFORMS=cpu $$at/bin/python \
	            pcgen/benchmarks/peers/protocol.py $${peer}_worker; } > .peers/$$peer.log 2>&1; \
	    then touch $$at/.ready; echo "$$peer: built in $$at"; \
	    else rm -rf $$at; echo "$$peer: could not be built, see .peers/$$peer.log"; fi; \
	done
