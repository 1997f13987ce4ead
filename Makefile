# `make help` lists the commands.

PY := .venv/bin/python
TYPED := $(addprefix projects/Pano3D/pano3d/,functional structures evaluation)

# Reference values for the tests that need them: a folder, or nothing
GOLDEN_ROOT ?= $(wildcard ../shared/golden)
TEST_ARGS ?=
BACKBONE ?= vggt
DEMO_ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint clean

help: ## list the commands
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/make \1\t\2/p' Makefile | expand -t 14
	@echo 'Variables: PYTHON=/path/to/python3.11  BACKBONE=must3r  DEMO_ARGS=...  TEST_ARGS=...  GOLDEN_ROOT=DIR'
	@echo 'CUDA and other settings: see the head of tools/setup_env.sh'

setup: ## make .venv with all dependencies (minutes at first, then a second)
	@tools/setup_env.sh

demo: setup ## reconstruct and segment a small example
	$(PY) tools/demo.py --backbone $(BACKBONE) $(DEMO_ARGS)

lint: setup ## style and types
	$(PY) -m ruff check
	$(PY) -m ruff format --check
	$(PY) -m mypy $(TYPED)

test: lint ## style, types, then all tests, the fast ones first
	OMP_NUM_THREADS=1 $(PY) -m pytest -n 2 $(if $(GOLDEN_ROOT),--golden-root='$(GOLDEN_ROOT)') $(TEST_ARGS)

clean: ## remove build output and caches; .venv and the wheel cache stay
	rm -rf build dist projects/Pano3D/pano3d.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find projects configs tools tests -name __pycache__ -type d -prune -exec rm -rf {} +
