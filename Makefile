# Every target does its own set-up: a virtual environment in .venv from requirements.lock, then its job.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: setup format check test demo bench soak e2e-vllm compiled pure clean

setup: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install Python 3.11 or run make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies into $(VENV)"
	@$(BIN)/python -m pip install --quiet --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: pure check
	$(BIN)/pytest -n auto tests

demo: $(STAMP)
	$(BIN)/python -m designer.demo

bench: $(STAMP)
	$(BIN)/python -m tests.bench.bench $(BENCH)

# Tests of single parts with stand-ins for others, which compiled code does not take.
STAND_INS := $(addprefix --ignore=tests/gateway/core/,test_lazy_heap.py test_queue.py test_request_state.py)

# The modules that pyproject.toml names as machine code, beside their sources, which they take the place of until
# `make pure`. Needs a C compiler. Then what they must do is asked of them, and that they decide as the sources do.
compiled: $(STAMP)
	$(BIN)/python build_compiled.py
	$(BIN)/python -m tests.bench.same_decisions
	$(BIN)/pytest -n auto -q tests/gateway/http tests/gateway/core tests/gateway/telemetry tests/gateway/test_runtime.py \
		tests/gateway/test_openai_api.py tests/gateway/mockworker tests/twin tests/designer/simulator \
		tests/designer/test_audit.py tests/bench tests/test_build_compiled.py $(STAND_INS)

pure:
	find gateway designer -name '*.so' -delete
	rm -f gateway/machine_code.json ./*__mypyc.*.so

soak: $(STAMP)
	$(BIN)/python -m tests.soak.soak --minutes $(or $(SOAK_MINUTES),5)

# RANVIER_VLLM_SERVE: a command with {port} that serves in the foreground, for servers of the tests' own; or
# RANVIER_VLLM_URL: one or two running servers, which no test ends.
e2e-vllm: $(STAMP)
	@test -n "$$RANVIER_VLLM_SERVE$$RANVIER_VLLM_URL" || { echo "make e2e-vllm: set RANVIER_VLLM_SERVE='vllm serve MODEL --port {port}', or RANVIER_VLLM_URL to running servers" >&2; exit 2; }
	$(BIN)/pytest tests/e2e -k vllm -v -rs

clean:
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .import_linter_cache
