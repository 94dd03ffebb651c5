# `make demo` and `make test` do their own set-up: a virtual environment in .venv with the versions
# in constraints.txt; `make test-export`, `make test-litert` and `make test-zeta` have environments of
# their own, with constraints-export.txt and so on. Nothing outside this folder is touched.

PYTHON ?= python3
VENV ?= .venv
EXPORT_VENV ?= .venv-export
LITERT_VENV ?= .venv-litert
ZETA_VENV ?= .venv-zeta
BIN := $(VENV)/bin
SOURCES := $(shell find __init__.py py.typed registry blocks projectors checkpoints export testing zeta cli -name "*.py" -o -name "*.in")
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -c tests/pytest.ini --rootdir tests

.PHONY: demo test lint types pytest test-threads test-export test-litert test-zeta bench bench-check clean

demo: $(VENV)/.demo  ## Project a photograph with three projectors.
	$(BIN)/python examples/demo.py

test: lint types pytest  ## Every gate.

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test  ## On the installed package, as a user's type checker sees it.
	$(BIN)/mypy --config-file pyproject.toml -p mobilevlm
	$(BIN)/mypy --config-file pyproject.toml examples/acme-blocks/src

pytest: $(VENV)/.test
	$(PYTEST) -q --doctest-modules --pyargs mobilevlm
	$(PYTEST) -q -n 2 --dist loadfile $(PYTEST_OPTIONS) tests

test-threads: $(VENV)/.test  ## Each of these tests on four threads at once.
	$(PYTEST) -q --parallel-threads=4 $(addprefix tests/test_,blocks.py checkpoints.py documents.py \
		packed.py parity.py registry.py zoo.py)

test-export: $(EXPORT_VENV)/.done  ## ONNX, GGUF and ExecuTorch, run in their own runtimes; recipes.
	OMP_NUM_THREADS=1 $(EXPORT_VENV)/bin/pytest -c tests/pytest.ini --rootdir tests -q \
		-n 2 --dist loadfile tests/export

test-litert: $(LITERT_VENV)/.done  ## The recipe for LiteRT, which needs an older pydantic.
	OMP_NUM_THREADS=1 $(LITERT_VENV)/bin/pytest -c tests/pytest.ini --rootdir tests -q -p no:anyio \
		tests/export/test_recipes.py -k litert

test-zeta: $(ZETA_VENV)/.done  ## Zeta's modules as blocks, with zetascale itself.
	OMP_NUM_THREADS=1 $(ZETA_VENV)/bin/pytest -c tests/zeta/pytest.ini --rootdir tests/zeta -q \
		tests/zeta

bench: $(VENV)/.bench  ## Print the figures of benchmarks/, beside the originals'.
	$(BIN)/python benchmarks/core.py
	$(BIN)/python benchmarks/versus.py --json $(VENV)/versus.json
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/growth.py --picture $(VENV)/growth.png

bench-check: $(VENV)/.test  ## Fail where a projector is slower than its original; needs a quiet machine.
	$(BIN)/python benchmarks/check.py

# The published package has this one's name, so it lies where only the benchmark finds it.
$(VENV)/.bench: $(VENV)/.test
	$(BIN)/python -m pip install -q -c constraints.txt matplotlib
	$(BIN)/python -m pip install -q --no-deps --target $(VENV)/published mobilevlm==0.0.3
	touch $@

# setuptools would copy modules that are gone out of an old build folder.
$(VENV)/.demo: pyproject.toml constraints.txt $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	rm -rf build
	$(BIN)/python -m pip install -q -c constraints.txt ".[demo]"
	touch $@

$(VENV)/.test: $(VENV)/.demo
	$(BIN)/python -m pip install -q -c constraints.txt pip
	$(BIN)/python -m pip install -q -c constraints.txt --group test
	touch $@

$(EXPORT_VENV)/.done: pyproject.toml constraints.txt constraints-export.txt $(SOURCES)
	test -x $(EXPORT_VENV)/bin/python || $(PYTHON) -m venv $(EXPORT_VENV)
	rm -rf build
	$(EXPORT_VENV)/bin/python -m pip install -q -c constraints.txt -c constraints-export.txt \
		".[onnx,gguf,executorch]" openvino pytest pytest-xdist transformers
	touch $@

$(LITERT_VENV)/.done: pyproject.toml constraints-litert.txt $(SOURCES)
	test -x $(LITERT_VENV)/bin/python || $(PYTHON) -m venv $(LITERT_VENV)
	rm -rf build
	$(LITERT_VENV)/bin/python -m pip install -q -c constraints-litert.txt . litert-torch pytest
	touch $@

$(ZETA_VENV)/.done: pyproject.toml constraints-zeta.txt zeta/table.json $(SOURCES)
	test -x $(ZETA_VENV)/bin/python || $(PYTHON) -m venv $(ZETA_VENV)
	rm -rf build
	$(ZETA_VENV)/bin/python -m pip install -q -c constraints-zeta.txt ".[zeta]" pytest
	touch $@

clean:
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

# LoRA, DoRA, 8-bit layers and ZeRO-3. DeepSpeed compiles what it needs where it needs it.
ADAPTERS_VENV ?= .venv-adapters
ADAPTERS := $(ADAPTERS_VENV)/.done-adapters

.PHONY: test-adapters
test-adapters: $(ADAPTERS)  ## PEFT, torchao, bitsandbytes and DeepSpeed on projectors.
	OMP_NUM_THREADS=1 $(ADAPTERS_VENV)/bin/pytest -c tests/pytest.ini --rootdir tests -q \
		-n 2 --dist loadfile tests/adapters

$(ADAPTERS): pyproject.toml constraints.txt constraints-adapters.txt $(SOURCES)
	test -x $(ADAPTERS_VENV)/bin/python || $(PYTHON) -m venv $(ADAPTERS_VENV)
	rm -rf build
	DS_BUILD_OPS=0 $(ADAPTERS_VENV)/bin/python -m pip install -q -c constraints.txt \
		-c constraints-adapters.txt . accelerate bitsandbytes deepspeed peft pytest pytest-xdist \
		torchao transformers
	touch $@
