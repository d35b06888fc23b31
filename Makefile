# Two commands on a fresh machine: `make demo` and `make test`. Everything else is for developers.
PYTHON ?= python3
PIP_FLAGS = --quiet --disable-pip-version-check
BIN = .venv/bin

.PHONY: demo test lint format bench score planted peers docs clean

# A minute of it; `.venv/bin/holdfast demo` goes on until Ctrl-C.
demo: .venv/.demo
	$(BIN)/holdfast demo --seconds 60

test: .venv/.dev .venv-synapse/.done
	$(BIN)/python -m pytest -n 4 --dist worksteal

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python tools/generate_docs.py --check
	$(BIN)/python tools/check_adapters.py
	$(BIN)/python tools/draw_picture.py --check

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

planted: .venv/.dev
	$(BIN)/python tools/planted_bugs.py

# Every failure mode on every platform; some 40 minutes. The result belongs under docs/score/.
score: .venv/.dev
	$(BIN)/holdfast lab score --out docs/score

bench: .venv/.dev
	$(BIN)/python -m bench

docs: .venv/.dev
	$(BIN)/python tools/generate_docs.py

# -- set-up ---------------------------------------------------------------------------------------

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name it with make PYTHON=..."; exit 1; }
	$(PYTHON) -m venv .venv || { rm -rf .venv; tools/install_venv.sh; $(PYTHON) -m venv .venv; }

.venv/.demo: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[cli,feishu]'
	touch $@

.venv/.dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt 'pip>=25.1'
	$(BIN)/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[all]' --group dev
	touch $@ .venv/.demo

# The real Matrix homeserver of the end-to-end tests, in an environment of its own.
.venv-synapse/.done: constraints-synapse.txt .venv/bin/python
	$(PYTHON) -m venv .venv-synapse
	.venv-synapse/bin/python -m pip install $(PIP_FLAGS) -c constraints-synapse.txt matrix-synapse
	touch $@

# The programs Holdfast is measured against (`holdfast lab compare`), each as
# its users install it, in an environment of its own. One alone: make .venv-peers/slack-sdk/.done
PEERS = $(patsubst peers/%/requirements.txt,%,$(wildcard peers/*/requirements.txt))

peers: $(PEERS:%=.venv-peers/%/.done)

.venv-peers/%/.done: peers/%/requirements.txt .venv/bin/python
	$(PYTHON) -m venv .venv-peers/$*
	.venv-peers/$*/bin/python -m pip install $(PIP_FLAGS) -r $<
	touch $@

clean:
	rm -rf .venv .venv-peers .venv-synapse build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
