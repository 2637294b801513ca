# Two commands for a fresh machine: `make edge` and `make test`. The rest serves development.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
LOWEST = $(VENV)-lowest
SUITE ?= suites/edge.yaml
# a thread each; what watches the clock runs alone afterwards
SIDE_BY_SIDE = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n logical --maxprocesses 4 --dist worksteal
LONG = benchmarks/faults.py benchmarks/fuzz_agent.py
ALONE = $(BIN)/python -m pytest $$(grep -rlE --include='*.py' "pytest.mark.(lab|clock)" tests)

.PHONY: help edge test test-lowest lint unit soak bench capture compare reproduction published proto clean

help:
	@echo "make edge   install and run $(SUITE)"
	@echo "make test   install and run all checks and tests"
	@echo "make test-lowest  the fast tests with the lowest version that pyproject.toml admits of each dependency"
	@echo "make lint   ruff, mypy, import-linter"
	@echo "make unit   the fast tests alone"
	@echo "make soak   what takes longer than CI has: test-lowest, sixty random kills, boards that fail at random, fuzz"
	@echo "make bench  the speed claims, as ratios taken in one run"
	@echo "make capture OUT=DIR  keep what this version prints and records (runs smoke, edge and more: an hour on two cores)"
	@echo "make compare BEFORE=DIR AFTER=DIR  the differences between two captures"
	@echo "make proto  plugins/harness_remote/agent_pb2.py from agent.proto"
	@echo "make published    check results/published, write results/README.md"
	@echo "make reproduction  docs/reproduction.md, from the papers' suites and results/published"

edge: $(VENV)/.bench
	$(BIN)/harness run $(SUITE)

test: lint
	$(SIDE_BY_SIDE) -m "not soak and not lab and not clock"
	$(ALONE) -m "(lab or clock) and not soak"

test-lowest: $(LOWEST)/.test
	$(MAKE) unit VENV=$(LOWEST)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.test
	$(SIDE_BY_SIDE) -m "not soak and not e2e and not lab and not clock"

soak: $(VENV)/.test test-lowest
	$(BIN)/python -m pytest -m soak --timeout 5400
	for file in $(LONG); do $(BIN)/python $$file || exit 1; done

bench: $(VENV)/.test
	for file in $(filter-out $(LONG), $(wildcard benchmarks/*.py)); do $(BIN)/python $$file || exit 1; done

capture: $(VENV)/.test
	$(BIN)/python tests/regression/capture.py $(OUT) $(addprefix --reference ,$(REFERENCE)) $(addprefix --only ,$(ONLY))

compare: $(VENV)/.test
	$(BIN)/python tests/regression/compare.py $(BEFORE) $(AFTER) $(if $(ONLY),--common)

reproduction: $(VENV)/.bench
	$(BIN)/python docs/reproduction.py results/published > docs/reproduction.md.new
	mv docs/reproduction.md.new docs/reproduction.md

published: $(VENV)/.bench
	@mkdir -p results/published
	$(BIN)/harness results check-submission results/published
	$(BIN)/python docs/published.py results/published > results/README.md.new
	mv results/README.md.new results/README.md

proto: $(VENV)/.test
	PYTHONPATH=plugins $(BIN)/python -m harness_remote.wire.generate

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/.bench: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[test,jetson]'
	@touch $(VENV)/.bench $@

# pip has no option for the lowest versions; uv has
$(LOWEST)/.test: pyproject.toml
	$(PYTHON) -m venv --clear $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --upgrade pip uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[test,jetson]'
	@touch $@

clean:
	rm -rf $(VENV) $(LOWEST) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
