# `make demo` runs the main job on Indian Pines; `make test` runs lint, types, import rules and all tests, `make check` the
# same without the tests that train or kill processes; `make fuzz` tries random inputs for an hour, `make coverage` counts the
# lines that tests run; `make bench` prints the tables.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed
PYTEST := $(BIN)/pytest --numprocesses logical --maxprocesses 8 --dist worksteal

.PHONY: demo lint check test fuzz coverage bench docs site dist clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	rm -rf demo && mkdir demo
	$(BIN)/sdiff datasets write indian-pines demo/scene.tif --labels demo/labels.tif
	$(BIN)/sdiff train --dataset indian-pines --run demo/run
	$(BIN)/sdiff export --run demo/run --out demo/model.onnx
	$(BIN)/sdiff map demo/scene.tif --model demo/model.onnx --out demo/classes.tif --preview demo/map.png
	$(BIN)/sdiff evaluate demo/classes.tif --labels demo/labels.tif --exclude demo/run/train_pixels.tif
	@echo
	@echo "The map:       demo/classes.tif (open it in QGIS)"
	@echo "Its preview:   demo/map.png"
	@echo "The run:       demo/run, its figures in demo/run/figures"
	@echo "The model:     demo/model.onnx"

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint
	$(PYTEST) -m "not training and not processes"

test: lint
	$(PYTEST) --durations 20

# New inputs for an hour; a failure ends it and says how to repeat it: it becomes an @example of its test.
fuzz: $(INSTALLED)
	end=$$(($$(date +%s) + 3600)); while [ $$(date +%s) -lt $$end ]; do FUZZ=1 $(PYTEST) tests/fuzz || exit 1; done

coverage: $(INSTALLED)
	$(PYTEST) --cov spectraldiff --cov spectraldiff_runtime --cov spectraldiff_export --cov-report term --cov-report html

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks.map_speed --model demo/model.onnx

docs: $(INSTALLED)
	$(BIN)/python -m docs.generate

# The documentation as a site, in site/.
site: docs
	$(BIN)/mkdocs build

# Wheel and source archive, checked, and the wheel tried in a clean environment of each Python (PYTHONS).
PYTHONS ?= python3
dist: $(INSTALLED)
	$(BIN)/pip install --quiet build twine check-wheel-contents cyclonedx-bom
	rm -rf dist && $(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	PYTHONPATH=. $(BIN)/python packaging/check_wheel.py dist/*.whl --python $(PYTHONS) --sbom dist

clean:
	rm -rf .venv demo site dist htmlcov .coverage
