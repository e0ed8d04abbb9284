# make train: a trained Dit-CNN in minutes.  make test: all checks.  Both set up .venv first.
PYTHON ?= python3

.PHONY: train test clean

train: .venv/installed
	.venv/bin/ditcnn train digits

test: .venv/installed-dev
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/mypy
	.venv/bin/lint-imports
	.venv/bin/pytest --numprocesses auto

clean:
	rm -rf .venv

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	.venv/bin/pip install --quiet --editable .
	touch $@

.venv/installed-dev: pyproject.toml .venv/installed
	.venv/bin/pip install --quiet --editable '.[dev]'
	touch $@
