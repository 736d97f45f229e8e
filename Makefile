PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KERNELS := MKL_CBWR=COMPATIBLE ONEDNN_MAX_CPU_ISA=SSE41 ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=default "OTHER_ROUNDING=1 CHECK_EVERY_CALL=1"
TESTS ?= tests

.PHONY: setup demo test test-kernels check benchmark clean

setup: $(STAMP)  ## create .venv with the exact versions of constraints.txt

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch==$$(sed -n 's/^torch==//p' constraints.txt)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: $(STAMP)  ## teacher, KD student and robust student on embedded data; report in runs/demo
	$(BIN)/robust-student demo --output runs/demo --overwrite

test: $(STAMP)  ## the whole test suite, a file at a time on every core
	$(BIN)/python -m pytest --numprocesses logical --dist loadfile

test-kernels: $(STAMP)  ## the suite (or TESTS=...) with other arithmetic kernels, which round otherwise
	for kernels in $(KERNELS); do \
	  echo "== $$kernels"; \
	  env $$kernels $(BIN)/python -m pytest --numprocesses logical --dist loadfile $(TESTS) || exit 1; \
	done

check: $(STAMP)  ## lint, types, import direction
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy src tests examples
	$(BIN)/python -m pytest tests/test_architecture.py

benchmark: $(STAMP)  ## cost of a training step relative to plain KD
	$(BIN)/python benchmarks/step_cost.py

clean:
	rm -rf $(VENV) runs .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info
