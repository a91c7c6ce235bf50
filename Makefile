# make demo      an engine file and a before/after picture, in demo-out/
# make test      the fast tests
# make test-all  lint and every test
# make lint      style, types, and who may import whom
# make docs      the documentation site, in site/
# make bench     kernels timed by pytest-benchmark, those for a GPU where there is one
# make native    the CUDA C++ library, in build/native/: needs CMake and nvcc, no GPU
# make ptx       kernels/cuda/planar.ptx, a part of the package, from its source: needs nvcc, no GPU
#
# All but the last two make .venv first where it is missing or out of date: it needs Python 3.10 or newer (another one
# than python3 with PYTHON=...) and a package registry, nothing else.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal
NATIVE ?= build/native
CMAKE ?= cmake
NVCC ?= $(or $(CUDACXX),$(shell command -v nvcc 2>/dev/null),/usr/local/cuda/bin/nvcc)

START := $(shell date +%s)
took = @s=$$(($$(date +%s) - $(START))); echo "make $@ took $$((s / 60)) min $$((s % 60)) s"

.PHONY: demo test test-all lint docs bench gpu-check native ptx

demo: .venv/ready
	$(BIN)/python -m derain_engine.cli.demo --out demo-out
	$(took)

test: .venv/ready
	$(PYTEST) -m "not slow"
	$(took)

test-all: lint test
	$(PYTEST) -m slow
	$(took)

lint: .venv/ready
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/python -m pytest --quiet tests/test_imports.py tests/test_style.py
	$(took)

# Warnings, dead links and missing anchors are errors. The folders are linked into one of their own, since whoever reads
# the package from the repository's root reads .venv with it, which takes a minute.
docs: .venv/docs-ready
	rm -rf .venv/docs-package
	mkdir -p .venv/docs-package/derain_engine
	ln -s $(addprefix $(CURDIR)/,__init__.py $(patsubst %/__init__.py,%,$(wildcard */__init__.py))) \
		.venv/docs-package/derain_engine/
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --clean
	$(took)

bench: .venv/ready
	$(BIN)/python -m pytest bench --benchmark-columns=min,median,iqr,rounds --benchmark-group-by=group
	$(took)

# On a machine with a GPU and a PyTorch that has CUDA: with PYTHON=... an environment that is there already.
gpu-check:
	cd .. && $(PYTHON) -m $(notdir $(CURDIR)).bench.gpu_check $(ONLY)
	$(took)

native:
	@command -v $(CMAKE) >/dev/null || { echo "make native needs CMake 3.25 or newer, and '$(CMAKE)' is not there: \
	install it, or make native CMAKE=/path/to/cmake" >&2; exit 1; }
	@command -v $(NVCC) >/dev/null || { echo "make native needs nvcc 12.8 or newer (the CUDA toolkit), and '$(NVCC)' \
	is not there: install it, or make native NVCC=/path/to/nvcc" >&2; exit 1; }
	$(CMAKE) -S . -B $(NATIVE) -DCMAKE_CUDA_COMPILER=$(NVCC)
	$(CMAKE) --build $(NATIVE) --parallel
	$(took)

# PTX 7.0 is what every driver since CUDA 11.0 compiles.
ptx:
	$(NVCC) --ptx -arch=compute_75 --fmad=false -o - kernels/cuda/planar.cu \
		| sed -e '/^\/\//d' -e 's/^\.version .*/.version 7.0/' > kernels/cuda/planar.ptx

# torch goes first and alone, at the pinned version: whatever depends on it would otherwise bring the newest one.
# The link lets pyright find `derain_engine`, which no folder is named.
.venv/ready: setup.py pyproject.toml constraints.txt base/version.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
		echo "derain-engine needs Python 3.10 or newer, and '$(PYTHON)' is not: make PYTHON=/path/to/python3.12 ..." >&2; \
		exit 1; }
	@echo "Preparing .venv (a few minutes the first time)"
	test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	mkdir -p .venv/root-as-package
	ln -sfn ../.. .venv/root-as-package/derain_engine
	touch $@

.venv/docs-ready: .venv/ready
	$(PIP) --editable '.[docs]'
	touch $@
