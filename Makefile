# Each target makes .venv when it is missing and installs what it needs; only Python, make and a package registry are assumed.
#   make demo       a real model on a real picture, answer and time
#   make test       the quick tests            make test-all   all of them
#   make bench      the example models timed   make figures    every benchmark, on a quiet machine
#   make lint       style, types, import contracts
# Another interpreter: make PYTHON=python3.12 test.  Another environment: make VENV=/some/where test.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
SIZES := --dim height=320 --dim width=320 --dim sequence_length=10
QUICK := not slow and not conformance and not models

.PHONY: help demo test test-all bench figures lint clean

help:
	@sed -n '2,6s/^# *//p' Makefile

demo: $(VENV)/.has-demo
	@$(PY) examples/demo.py $(ARGS)

test: $(VENV)/.has-dev
	@$(PY) -m pytest -q -m "$(QUICK)" $(ARGS)

test-all: $(VENV)/.has-dev
	@$(PY) -m pytest -q $(ARGS)

bench: $(VENV)/.has-dev
	@$(VENV)/bin/hasten bench examples/models/*.onnx --peers onnxruntime --report demo/bench.html $(SIZES) $(ARGS)

figures: $(VENV)/.has-dev
	@for program in overhead busy compile_time kernels/sweep track/aa models; do $(PY) benchmarks/$$program.py $(ARGS) || exit; done
	@for program in encoder tree streams lstm decode memory vm torch_door; do $(PY) benchmarks/dynamic/$$program.py $(ARGS) || exit; done
	@$(PY) benchmarks/dynamic/soak.py $(ARGS)
	@for program in kernel_accuracy conformance robustness; do $(PY) benchmarks/$$program.py || exit; done
	@$(PY) benchmarks/report.py

lint: $(VENV)/.has-dev
	@$(PY) -m ruff check .
	@$(PY) -m mypy src/hasten
	@$(VENV)/bin/lint-imports
	@$(PY) benchmarks/report.py --check

clean:
	rm -rf .venv build dist demo .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis

$(PY):
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Hasten needs Python 3.11 or newer, this is " + sys.version.split()[0] + "; try: make PYTHON=python3.12 ...")'
	@echo "making $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || { echo "no virtual environment could be made: on Debian and Ubuntu, apt install python3-venv" >&2; rm -rf $(VENV); exit 1; }

# One stamp for each set of extras; a changed pyproject.toml installs again.
$(VENV)/.has-%: pyproject.toml | $(PY)
	@echo "installing hasten[$*] into $(VENV) ..."
	@$(PIP) -e '.[$*]'
	@touch $@
