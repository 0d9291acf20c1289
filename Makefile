# Every target sets up what it needs in .venv, once; a stamp file there says that it is done.
# Works with GNU make 3.81 or newer, and in a folder with spaces in its name.

PYTHON ?= python3
TEXT ?= corpora/lighthouse.txt
SOAK_MINUTES ?= 30
# On Linux the package index serves PyTorch as a CUDA build of several GB; PyTorch's own index has
# the build for the processor. 'make TORCH_INDEX= demo' takes the former, for an NVIDIA card.
TORCH_INDEX ?= $(if $(filter Linux,$(shell uname)),https://download.pytorch.org/whl/cpu)

PIP = .venv/bin/python -m pip --disable-pip-version-check

.NOTPARALLEL:
.PHONY: help demo test check quick slow soak bench clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-6s %s\n", $$1, $$2 }' Makefile

demo: .venv/installed ## train for a minute on a text that ships, then let it write
	.venv/bin/charnn train corpora/lighthouse.txt --minutes 1
	@echo
	.venv/bin/charnn sample --max-tokens 500
	@printf '\n\nNow you, with a beginning of your own:\n\n    .venv/bin/charnn sample "The goat "\n\n'

test: check quick slow ## everything that CI runs

check: .venv/tools ## format, lint, types
	.venv/bin/python -m ruff format --check .
	.venv/bin/python -m ruff check .
	.venv/bin/python -m mypy
	.venv/bin/python -m mypy --platform win32 --cache-dir .mypy_cache/windows

quick: .venv/tools ## the tests, without the slow ones
	.venv/bin/python -m pytest -m "not slow" -n auto --maxprocesses 4 --dist worksteal

slow: .venv/tools ## the slow tests
	.venv/bin/python -m pytest -m slow

soak: .venv/tools ## try to break every promise of docs/reliability.md for SOAK_MINUTES (30)
	.venv/bin/python tests/soak/soak.py --minutes $(SOAK_MINUTES)

bench: .venv/installed ## print the README's tables; long. TEXT=FILE chooses the text
	.venv/bin/python benchmarks/speed.py
	.venv/bin/python benchmarks/quality.py "$(TEXT)"

clean: ## remove what make and the tools made; texts and runs stay
	rm -rf .venv build dist charnn.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find charnn tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/created:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "charnn needs Python 3.10 or newer, and '$(PYTHON)' is not one:" \
	    "name it, as in 'make $(MAKECMDGOALS) PYTHON=python3.12'"; exit 1; }
	@echo "Setting up .venv: a few minutes the first time, mostly for PyTorch"
	@"$(PYTHON)" -m venv --clear .venv || { \
	  echo "this Python cannot make virtual environments:" \
	    "on Debian and Ubuntu, 'apt install python3-venv' adds that"; exit 1; }
	@# Pips older than this cannot install a project in place; a newer one makes this a no-op.
	@$(PIP) install --quiet "pip>=21.3"
	@touch $@

# PyTorch goes first and alone, so that its index is asked for nothing else.
.venv/installed: .venv/created pyproject.toml setup.py constraints.txt
ifneq ($(TORCH_INDEX),)
	$(PIP) install --no-deps --retries 1 --timeout 15 --index-url $(TORCH_INDEX) \
	  -c constraints.txt torch || \
	  echo "No PyTorch from $(TORCH_INDEX): taking the default build, on Linux several GB"
endif
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

.venv/tools: .venv/installed
	$(PIP) install --quiet -c constraints.txt -e ".[dev]"
	@touch $@
