# `make demo` and `make test` set a bare machine up and run; nothing has to be installed before but Python >= 3.11.
PYTHON ?= python3
BIN := .venv/bin
# Two workers with one thread each need half the time of one, on two cores.
PYTEST := -m pytest -n 2 --dist worksteal
XVFB := xvfb-run -a -s "-screen 0 1600x1000x24"
SCREEN := $(or $(DISPLAY),$(WAYLAND_DISPLAY),$(filter Darwin,$(shell uname -s)))
BENCHMARKS := $(patsubst benchmarks/%.py,bench_out/%.json,$(filter-out %/figures.py %/table.py,$(wildcard benchmarks/*.py)))
DEMO := $(BIN)/napari-lpd demo $(if $(TRAIN),--train)

.PHONY: demo test check docs bench clean system-libraries $(BENCHMARKS)

demo: .venv/installed $(if $(SCREEN),,system-libraries)
	$(if $(SCREEN),$(DEMO),$(XVFB) $(DEMO) --screenshot demo_out/demo.png)

test: .venv/installed .venv/crf system-libraries
	$(XVFB) env OMP_NUM_THREADS=1 $(BIN)/python $(PYTEST) $(PYTEST_ARGS)

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: $(BENCHMARKS)
	$(BIN)/python benchmarks/table.py bench_out | tee bench_out/table.md

# One benchmark, as in `make bench_out/reading.json`; anew each time.
$(BENCHMARKS): .venv/installed .venv/crf $(if $(SCREEN),,system-libraries)
	$(if $(SCREEN),,$(XVFB)) $(BIN)/python benchmarks/$(basename $(@F)).py --json $@

system-libraries:
	@sh tools/system-libraries.sh

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11: pass PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing napari-lpd and what it needs into .venv (several GB with PyTorch; minutes) ..."
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install -e ".[all,dev]"
	@touch $@

# The published CRF, with which tests and benchmarks compare ours, is compiled on the spot.
.venv/crf: .venv/installed
	@command -v c++ >/dev/null || sh tools/system-libraries.sh g++
	@$(BIN)/python -c 'import os, sysconfig as s; raise SystemExit(not os.path.exists(s.get_path("include") + "/Python.h"))' || sh tools/system-libraries.sh python3-dev
	$(BIN)/python -m pip install -e ".[crf]"
	@touch $@

clean:
	rm -rf .venv bench_out demo_out build dist site
