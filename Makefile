# Two commands from a fresh clone: `make demo` and `make test`. Both set up .venv when it is missing or stale.
PYTHON ?= python3
SEED ?= 7
OUT ?= demo

.PHONY: help setup demo test lint docs format clean
help:  ## list the commands
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ -/'

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv --clear .venv
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs,train,viz]'
	# For its checker of GeoPackages, which needs nothing of GDAL that it depends on.
	.venv/bin/python -m pip install --quiet --constraint constraints.txt --no-deps gdal-utils
	touch .venv/ready

setup: .venv/ready  ## make .venv with everything that demo and test need

demo: .venv/ready  ## a synthetic world, detected, aggregated and scored
	.venv/bin/darts-xr demo --out $(OUT) --seed $(SEED)

test: lint  ## everything that CI runs
	.venv/bin/python -m pytest --numprocesses 3 --dist loadgroup

lint: .venv/ready  ## ruff and mypy
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: .venv/ready  ## the documentation site with executed notebooks, in docs/_build; DARTS_XR_DOCS=text: not executed
	.venv/bin/python -m sphinx -W --keep-going -q docs docs/_build

format: .venv/ready  ## put the code in the project's format
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean:  ## remove what set-up and runs made
	rm -rf .venv demo
