PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: demo docs test lint clean peers

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
	rm -rf .venv build dist site *.egg-info demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# torch goes in alone and pinned, then torchvision without its dependencies: asked for together, pip
# may take a newer torch with several GB of CUDA packages.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	    || { echo "pcgen needs Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) torch==2.13.0
	$(PIP) --no-deps torchvision==0.28.0
	$(PIP) --editable '.[dev,docs]'
	@touch $@

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
