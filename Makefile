# Nothing but Python 3.11+ and make is needed; the environment is .venv in this folder.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test slow learn kills lint docs bench package stranger release clean

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "coinseg needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[all,dev]'
	touch $@

# The main job, small: a procedural CT cohort, anomalies injected in its kidneys, f, COIN, scores, report.
demo: .venv/ready
	$(BIN)/coinseg demo -o out

test: .venv/ready
	$(BIN)/python -m pytest

# Whole commands, many of them: damaged folders, several processes, the studies, signals, the notebook; about eight minutes.
slow: .venv/ready
	$(BIN)/python -m pytest -m slow

# Every network trained for real on small made images; about three minutes.
learn: .venv/ready
	$(BIN)/python -m pytest -n 0 -m learning

# Commands killed at chosen changes of files and given again; about two minutes.
kills: .venv/ready
	$(BIN)/python -m pytest -n 0 -m kills tests/nothing_lost

# Each against a plain version in the same run, more than ten minutes; `make bench BENCH=--quick` takes three.
bench: .venv/ready
	$(BIN)/python -m benchmarks $(BENCH)

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The documentation site, out/site/index.html; a warning or a link that leads nowhere is an error. Half a minute.
docs: .venv/ready
	NO_MKDOCS_2_WARNING=1 PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/mkdocs build --quiet --strict

# The wheel and the source archive, built, checked and looked into.
package: .venv/ready
	$(BIN)/python -m pytest -n 0 -m packaging tests/package

# A stranger's first half hour: the wheel in an empty environment, outside of this folder. Many minutes and gigabytes;
# `make stranger STRANGER=--quick` takes the packages of .venv and a few minutes.
stranger: .venv/ready
	bash tests/stranger.sh $(STRANGER)

# What a release needs, checked; nothing is uploaded. See RELEASING.md.
release: .venv/ready
	$(BIN)/python tests/release.py

clean:
	rm -rf out
