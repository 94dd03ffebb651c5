# `make demo` and `make test` do their own set-up: a virtual environment in .venv with the versions
# in constraints.txt; the extras have environments of their own, with constraints-export.txt and so
# on. Nothing outside this folder is touched.

PYTHON ?= python3
VENV ?= .venv
EXPORT_VENV ?= .venv-export
LITERT_VENV ?= .venv-litert
NEWEST_VENV ?= .venv-newest
OLDEST_VENV ?= .venv-oldest
SUITES_VENV ?= .venv-suites
ZETA_VENV ?= .venv-zeta

# An environment's stamps are written when pip has succeeded, and name the Python it was made with.
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)
DEMO := $(VENV)/.demo-$(VERSION)
TEST := $(VENV)/.test-$(VERSION)
BENCH := $(VENV)/.bench-$(VERSION)
EXPORT := $(EXPORT_VENV)/.done-$(VERSION)
LITERT := $(LITERT_VENV)/.done-$(VERSION)
NEWEST := $(NEWEST_VENV)/.done-$(VERSION)
OLDEST := $(OLDEST_VENV)/.done-$(VERSION)
SUITES := $(SUITES_VENV)/.done-$(VERSION)
ZETA := $(ZETA_VENV)/.done-$(VERSION)
# What pip does is shown the first time.
install = @PYTHON="$(PYTHON)" .ci/install $(@D) $(if $(wildcard $@),-q)

BIN := $(VENV)/bin
# The browser of `make test-site`.
CHROMIUM ?= $(shell command -v chromium || command -v chromium-browser || command -v google-chrome)
SOURCES := $(shell find __init__.py __main__.py py.typed registry blocks projectors checkpoints models export compare testing zeta cli -name "*.py" -o -name "*.in")
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -c tests/pytest.ini --rootdir tests -q
TWO := -n 2 --dist loadfile
CORE := -c tests/pytest.ini --rootdir tests -q $(TWO) -m "not slow"
TORCH := $(shell grep '^torch==' constraints.txt)
# Of the steps of `make test-all`, that which runs most tests.
TESTS := pytest
COVERAGE := --cov --cov-report=term:skip-covered

.PHONY: help demo test test-all lint types pytest coverage test-slow test-threads test-isa test-clone \
	package test-oldest test-newest test-models test-adapters test-export test-litert vectors-proof train \
	test-train test-serving test-distributed test-zeta docs test-site bench bench-check clean
.NOTPARALLEL:

help:  ## List these targets.
	@sed -n 's/^\([a-z-]*\):.*  ## /\1\t/p' Makefile | expand -t 14

demo: $(DEMO)  ## Project a photograph with three projectors.
	$(BIN)/python examples/demo.py

test: lint types pytest  ## The gates of every change: under 6 minutes on two idle cores.

test-all:  ## Every gate, with the minutes of each.
	@.ci/steps demo lint types $(TESTS) package test-oldest test-newest test-slow test-threads \
		test-isa test-models test-export vectors-proof test-litert test-zeta test-adapters train test-train \
		test-serving test-distributed docs test-site

lint: $(TEST)  ## ruff, on code and format; codespell, on everything; the workflows' schema.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

types: $(TEST)  ## mypy on the installed package, as a user's type checker sees it.
	$(BIN)/mypy --config-file pyproject.toml -p mobilevlm
	$(BIN)/mypy --config-file pyproject.toml examples/acme-blocks/src

pytest: $(TEST)  ## Doctests, then all tests but the slow ones.
	$(PYTEST) --doctest-modules --pyargs mobilevlm
	$(PYTEST) $(TWO) -m "not slow" $(PYTEST_OPTIONS) tests

coverage: $(TEST)  ## The tests of make pytest; fail below the branch coverage in pyproject.toml.
	$(PYTEST) $(TWO) -m "not slow" $(COVERAGE) tests

test-slow: $(TEST)  ## The slow tests, and the random ones with many more examples.
	$(PYTEST) $(TWO) -m "slow or hypothesis" --hypothesis-profile=many tests

test-threads: $(TEST)  ## Each of these tests on four threads at once.
	$(PYTEST) --parallel-threads=4 $(addprefix tests/,blocks/test_blocks.py \
		checkpoints/test_broken_files.py checkpoints/test_model_folders.py \
		checkpoints/test_own_format.py checkpoints/test_safetensors.py projectors/test_documents.py \
		projectors/test_packed.py projectors/test_refused_documents.py \
		projectors/zoo/test_parity.py projectors/zoo/test_zoo.py registry/test_registry.py)

# Whose numbers could depend on the processor.
test-isa: $(TEST)  ## Numbers once more, on a processor that has AVX2 at most.
	ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 MKL_ENABLE_INSTRUCTIONS=AVX2 $(PYTEST) $(TWO) \
		$(addprefix tests/,blocks checkpoints/test_drop_in.py checkpoints/test_models.py \
		export/test_export.py projectors/test_nonfinite.py projectors/test_packed.py \
		projectors/test_projector.py projectors/test_properties.py projectors/zoo)

# Tracing costs about half as much again, so of all runs this one alone measures coverage.
test-clone: $(TEST)  ## Tests of the last commit: in any order, without asserts, with coverage.
	folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && \
	git clone -q . "$$folder/my-clone" && \
	PYTHONOPTIMIZE=1 $(MAKE) -C "$$folder/my-clone" VENV="$(abspath $(VENV))" \
		PYTEST_OPTIONS="--random-order $(COVERAGE)" pytest
	touch -d @0 $(DEMO)

# setuptools would take what an earlier build left.
package: $(TEST)  ## Build dist/, check it, and try the wheel where nothing else is installed.
	rm -rf build dist *.egg-info
	$(BIN)/python -m build --no-isolation
	rm -rf build *.egg-info
	$(BIN)/twine check --strict dist/*
	$(PYTEST) tests/extras/package

# Old releases use what newer ones deprecate.
test-oldest: $(OLDEST)  ## The core's tests with the oldest versions of what it needs, but torch.
	OMP_NUM_THREADS=1 $(OLDEST_VENV)/bin/pytest $(CORE) -W ignore::DeprecationWarning @tests/core.txt

test-newest: $(NEWEST)  ## The core's tests with the newest versions of what it needs, but torch.
	OMP_NUM_THREADS=1 $(NEWEST_VENV)/bin/pytest $(CORE) @tests/core.txt

# Its tests share no file, so they are dealt out one by one.
test-models: $(TEST)  ## Each projector in each model of docs/models.md, whose table it writes anew.
	$(PYTEST) -n 2 tests/extras/models
	$(BIN)/python tools/models_matrix.py

test-adapters: $(SUITES)  ## PEFT, torchao, bitsandbytes, accelerate and DeepSpeed.
	OMP_NUM_THREADS=1 $(SUITES_VENV)/bin/pytest -c tests/pytest.ini --rootdir tests -q $(TWO) \
		tests/extras/adapters

test-export: $(EXPORT)  ## ONNX, GGUF and ExecuTorch, run in their own runtimes; recipes.
	OMP_NUM_THREADS=1 $(EXPORT_VENV)/bin/pytest -c tests/pytest.ini --rootdir tests -q $(TWO) \
		tests/extras/export

test-litert: $(LITERT)  ## The recipe for LiteRT, which needs an older pydantic.
	OMP_NUM_THREADS=1 $(LITERT_VENV)/bin/pytest -c tests/pytest.ini --rootdir tests -q -p no:anyio \
		tests/extras/export/test_recipes.py -k litert

vectors-proof: $(EXPORT)  ## Test vectors: ports pass, mistakes are caught and named. Under 4 minutes.
	OMP_NUM_THREADS=1 $(EXPORT_VENV)/bin/pytest -c tests/pytest.ini --rootdir tests -q \
		tests/extras/vectors
	OMP_NUM_THREADS=1 $(EXPORT_VENV)/bin/python tests/extras/vectors/proof.py

# The example uses both cores in stage 0, and then one.
train: $(SUITES)  ## Train a small model with a projector; fail unless it learns. Under 5 minutes.
	$(SUITES_VENV)/bin/python examples/train/train.py --tokens 16 --out $(SUITES_VENV)/train

test-train: $(SUITES)  ## The parts of examples/train, with scikit-learn, PEFT and HF Trainer.
	OMP_NUM_THREADS=1 $(SUITES_VENV)/bin/pytest -c tests/pytest.ini --rootdir tests -q $(TWO) \
		tests/extras/train

test-serving: $(SUITES)  ## transformers serve on swapped models, asked by OpenAI's client.
	OMP_NUM_THREADS=1 $(SUITES_VENV)/bin/pytest -c tests/pytest.ini --rootdir tests -q $(TWO) \
		tests/extras/serving

# Its tests start processes of their own, so they run one after the other.
test-distributed: $(SUITES)  ## DDP, FSDP2 and tensor parallelism on 2 and 3 processes. Under 8 minutes.
	OMP_NUM_THREADS=1 $(SUITES_VENV)/bin/pytest -c tests/pytest.ini --rootdir tests -q \
		tests/extras/distributed

test-zeta: $(ZETA)  ## Zeta's modules as blocks, with zetascale itself.
	OMP_NUM_THREADS=1 $(ZETA_VENV)/bin/pytest -c tests/extras/zeta/pytest.ini --rootdir tests/extras/zeta -q \
		tests/extras/zeta

docs: $(SUITES)  ## The site, in build/site/html; every warning is an error. Under 4 minutes.
	OMP_NUM_THREADS=1 $(SUITES_VENV)/bin/python -m sphinx -j 2 -q -W -n --keep-going -b html \
		-d build/site/doctrees docs build/site/html

test-site: $(if $(CHROMIUM),docs)  ## The site in Chromium: links, widths, axe-core, search. Under 4 minutes.
	$(if $(CHROMIUM),SITE=build/site/html CHROMIUM="$(CHROMIUM)" OMP_NUM_THREADS=1 \
		$(SUITES_VENV)/bin/pytest -c tests/pytest.ini --rootdir tests -q $(TWO) tests/extras/site,\
		@echo "test-site: not run: no Chromium (apt-get install chromium)")

bench: $(BENCH)  ## Print the figures of benchmarks/, beside the originals'.
	$(BIN)/python benchmarks/core.py
	$(BIN)/python benchmarks/versus.py --json $(VENV)/versus.json
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/growth.py --picture $(VENV)/growth.png

bench-check: $(TEST)  ## Fail where a projector is slower than its original; needs a quiet machine.
	$(BIN)/python benchmarks/check.py

clean:  ## Remove the environments and what tools have cached.
	rm -rf .coverage .venv .venv-* build dist docs/api *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(DEMO): pyproject.toml constraints.txt $(SOURCES)
	$(install) -c constraints.txt ".[demo]"
	touch $@

$(TEST): $(DEMO)
	$(install) -c constraints.txt pip
	$(install) -c constraints.txt --group test
	touch $@

# The published package has this one's name, so it lies where only the benchmark finds it.
$(BENCH): $(TEST)
	$(install) -c constraints.txt matplotlib
	$(install) --no-deps --target $(VENV)/published mobilevlm==0.0.3
	touch $@

$(EXPORT): pyproject.toml constraints.txt constraints-export.txt $(SOURCES)
	$(install) -c constraints.txt -c constraints-export.txt \
		".[onnx,gguf,executorch]" openvino pytest pytest-xdist transformers
	touch $@

$(LITERT): pyproject.toml constraints-litert.txt $(SOURCES)
	$(install) -c constraints-litert.txt . litert-torch pytest
	touch $@

# DeepSpeed compiles what it needs where it needs it.
$(SUITES): export DS_BUILD_OPS := 0
$(SUITES): pyproject.toml constraints.txt constraints-suites.txt $(SOURCES)
	$(install) -c constraints.txt pip
	$(install) -c constraints.txt -c constraints-suites.txt ".[models,plot]" --group suites
	touch $@

$(OLDEST): pyproject.toml constraints.txt constraints-oldest.txt $(SOURCES)
	$(install) -c constraints.txt pip
	$(install) -c constraints-oldest.txt "$(TORCH)" . --group core
	touch $@

$(NEWEST): pyproject.toml constraints.txt $(SOURCES)
	$(install) -c constraints.txt pip
	$(install) --upgrade --upgrade-strategy eager "$(TORCH)" . --group core
	touch $@

$(ZETA): pyproject.toml constraints-zeta.txt zeta/table.json $(SOURCES)
	$(install) -c constraints-zeta.txt ".[zeta]" pytest
	touch $@
