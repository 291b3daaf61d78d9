# Three commands for a contributor: `make setup`, `make test`, `make demo`. Each sets up what it needs from nothing and
# uses it again the second time.

PYTHON ?= python3
# What is tested: another torch, as in `make setup TORCH='torch==2.6.*' CONSTRAINTS=/dev/null`, and some of the tests only, as in
# `make test TESTS=--ignore=tests/ranks`.
TORCH ?= torch
CONSTRAINTS ?= constraints-dev.txt
TESTS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := $(VENV)/.demo

.PHONY: setup test lint dist demo bench bench-gpu docs pictures site clean

setup: $(STAMP)

# torch first and alone, so that nothing else chooses its build.
$(STAMP): pyproject.toml constraints-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) "$(TORCH)"
	$(BIN)/pip install --quiet --constraint $(CONSTRAINTS) "$(TORCH)" --editable ".[dev]"
	touch $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

# What is released: dist/*.tar.gz and dist/*.whl.
dist: $(STAMP)
	rm -rf dist build
	$(BIN)/python -c "from setuptools import build_meta as b; b.build_sdist('dist'); b.build_wheel('dist')"

# What the demo needs is a small part of what a contributor needs.
$(DEMO): pyproject.toml constraints-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	test -e $(STAMP) || $(BIN)/pip install --quiet --constraint constraints-dev.txt torch
	test -e $(STAMP) || $(BIN)/pip install --quiet --constraint constraints-dev.txt --editable ".[transformers,tensorboard,report]"
	touch $(DEMO)

demo: $(DEMO)
	$(BIN)/python examples/quickstart_transformers.py --break-a-layer --max-steps 240 --every-n-steps 10 \
		--report-to tensorboard --output-dir runs/demo

bench: $(STAMP)
	$(BIN)/python benchmarks/fit.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/step_cost.py
	$(BIN)/python benchmarks/accuracy.py
	$(BIN)/python benchmarks/published_library.py

# On a machine with a CUDA GPU, at most ten minutes; writes its part of benchmarks/RESULTS.md.
bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py

# After a change to what is recognised, or with another transformers: two to three minutes.
docs: $(STAMP)
	$(BIN)/python docs/generate_architectures.py
	$(BIN)/python docs/generate_published.py
	$(BIN)/python docs/generate_cli.py

# The pictures, and what the examples print: five to ten minutes.
pictures: $(STAMP)
	$(BIN)/python docs/generate_pictures.py --again
	$(BIN)/python docs/generate_report_pictures.py --again
	$(BIN)/python examples/quickstart_transformers.py --break-a-layer --max-steps 240 --every-n-steps 10 --report-to tensorboard --output-dir runs/demo
	$(BIN)/python docs/generate_dashboards.py runs/demo
	$(BIN)/python docs/generate_outputs.py

# The documentation as a site, site/index.html; strict: a link that leads nowhere is an error.
site: export NO_MKDOCS_2_WARNING := 1
site: $(STAMP)
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) runs site build dist *.egg-info .mypy_cache .ruff_cache
