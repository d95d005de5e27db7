# Two commands need nothing but Python 3.11 or newer and make: `make demo` and `make test`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test bench bench-full lint schemas wheel clean

$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "XAI-MoE-Audio needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install -e ".[dev]"
	touch $(INSTALLED)

# make demo DATASET=folder [METADATA=table.csv] [OUT=runs/demo] [FORCE=1]; without a folder, sonar scenes are made up.
demo: $(INSTALLED)
	$(BIN)/xaimoe-audio demo $(if $(DATASET),--dataset "$(DATASET)") $(if $(METADATA),--metadata "$(METADATA)") $(if $(OUT),--out "$(OUT)") $(if $(FORCE),--force)

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses=auto --maxprocesses=8 --dist=loadfile --no-loadscope-reorder --cov --cov-report=term-missing:skip-covered
	$(BIN)/python -m coverage report --include="runtime/*,exporter/*" --fail-under=90 --format=total

# Timings of a bundle, in three to four minutes; by default of sonar scenes. make bench BUNDLE=folder [JSON=file]
# bench-full takes longer over each. Peers and real clips are there if their folders are (XAIMOE_PEERS, XAIMOE_DATA).
BENCH_BUNDLE := $(or $(BUNDLE),runs/bench/every)
BENCH := OMP_NUM_THREADS=1 XAIMOE_BUNDLE="$(BENCH_BUNDLE)" $(BIN)/python -m pytest benchmarks -o python_files='bench_*.py' \
	-o python_functions='bench_*' -o pythonpath=benchmarks --benchmark-columns=median,iqr,min,max,rounds --benchmark-sort=name \
	$(if $(JSON),--benchmark-json="$(JSON)")

bench: $(INSTALLED) $(BENCH_BUNDLE)/manifest.json
	$(BENCH) --benchmark-max-time=0.25 --benchmark-min-rounds=5

bench-full: $(INSTALLED) $(BENCH_BUNDLE)/manifest.json
	$(BENCH) --benchmark-max-time=3 --benchmark-min-rounds=20

runs/bench/every/manifest.json: | $(INSTALLED)
	$(BIN)/xaimoe-audio demo --budget latency --epochs 3 --out runs/bench --force
	$(BIN)/xaimoe-audio export --ckpt runs/bench/best.pt --out runs/bench/every --precision fp32,int8 --fused

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The published JSON Schemas, made from the types.
schemas: $(INSTALLED)
	$(BIN)/python -c 'from xaimoe_runtime.published import write_schemas; write_schemas()'

wheel: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist .

clean:
	rm -rf $(VENV) dist build runs .coverage .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
