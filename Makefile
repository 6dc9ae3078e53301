# Everything sets itself up: the only thing needed is a Python 3.11 or newer.
PYTHON ?= python3
BIN := .venv/bin
TPSCOPE := $(BIN)/tpscope

.PHONY: compare report study experiments bench test check sweep clean
.DEFAULT_GOAL := help

help:
	@echo "make compare   Llama-3.1-8B at TP=2: NeMo AutoModel 0.7.0 beside Axolotl 0.19.0 (sets everything up)"
	@echo "make test      set up and run the tests"
	@echo "make check     lint, types, and whether generated documents match the recorded runs"
	@echo "make study     run what the study needs and write docs/analysis and specs/"
	@echo "make report    the whole study with TP=2 and 8, as Markdown and as one page, into out/"
	@echo "make experiments   choosing a plan, edge cases, styles in plain PyTorch: measured again on this machine, into results/"
	@echo "make bench     rehearse the GPU benchmark on this CPU: small models, two gloo ranks, rows into out/"
	@echo "make sweep     catalog x framework versions (x scenarios, proved: an hour) into results/, and the pages from it"

.venv/ready: pyproject.toml constraints.txt
	@echo "setting up .venv: torch 2.13.0 (about 200 MB, CPU), transformers and tools (about 100 MB)"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --progress-bar on --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable . --group dev
	@touch $@

compare: .venv/ready
	@echo "installing the two frameworks, about 2.7 GB on disk, once"
	@$(TPSCOPE) frameworks install nemo@0.7.0 axolotl@0.19.0
	@$(TPSCOPE) compare llama-3.1-8b --tp 2 --with nemo@0.7.0 --with axolotl@0.19.0 \
	    --html out/compare.html --json out/compare.json

report: .venv/ready
	$(TPSCOPE) report -o out

study: .venv/ready
	$(BIN)/python -m tpscope.report.study

experiments: .venv/ready
	$(BIN)/python -m tpscope.report.experiments.cost
	$(BIN)/python -m tpscope.report.experiments.complexity
	$(BIN)/python -m tpscope.report.experiments.edges
	$(BIN)/python -m tpscope.report.experiments.styles
	$(BIN)/python -m tpscope.report.study --generate

bench: .venv/ready
	$(BIN)/python -m torch.distributed.run --nproc-per-node 2 --max-restarts 2 -m tpscope.bench \
	    --rehearse --with transformers@5.23.0 --tiers 0 --repeats 3 --out out/bench-rehearsal.jsonl

test: .venv/ready
	$(BIN)/python -m pytest -q -n 2

check: .venv/ready
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests
	$(BIN)/mypy
	$(BIN)/python -m tpscope.report.study --check
	$(BIN)/python -m tpscope.report.pages --check

sweep: .venv/ready
	$(BIN)/python -m tpscope.report.sweep
	$(BIN)/python -m tpscope.report.prove_sweep
	$(BIN)/python -m tpscope.plan.sweep
	$(BIN)/python -m tpscope.report.engine_sweep
	$(TPSCOPE) prove --self-test --full --fresh --json results/selftest.json
	$(BIN)/python -m tpscope.report.guide_record
	$(BIN)/python -m tpscope.report.guidance
	TPSCOPE_SWEEP=1 $(BIN)/python -m pytest -q tests/migrate
	TPSCOPE_SWEEP=1 $(BIN)/python -m pytest -q -m sweep
	$(BIN)/python -m tpscope.report.experiments.price
	$(BIN)/python -m tpscope.report.study --generate
	$(BIN)/python -m tpscope.report.pages

clean:
	rm -rf .venv out
