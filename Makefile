# make serve          the service and its page on http://127.0.0.1:8000 (PORT=9000, HOST=…)
# make serve ARGS=…   anything `steerdeck serve --help` knows, such as ARGS="--model org/name"
# make test           what CI runs: check, then pytest (T="tests/test_edits.py -x" for a part)
# make check          ruff and mypy
# make bench          throughput of a server of its own, or of URL=http://…
# make docker         the image steerdeck:latest
#
# On Linux PyPI's torch is the CUDA build, gigabytes of it. For the CPU build give PyTorch's CPU
# wheel index: make serve TORCH_INDEX=https://…

PYTHON ?= python3
HOST = $(or $(STEERDECK_HOST),127.0.0.1)
PORT = $(or $(STEERDECK_PORT),8000)
TORCH_INDEX ?=
BIN := .venv/bin
E2E := e2e and not slow and not gpu
# A file is one worker's, and they come in the order of tests/conftest.py.
TWO := -n 2 --dist loadfile --no-loadscope-reorder
PIP = $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt

.PHONY: help serve test check bench docker

# libgomp's threads spin while they wait, and starve each other on a busy machine.
OMP_WAIT_POLICY ?= PASSIVE
export OMP_WAIT_POLICY

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

serve: .venv/.serve
	@exec $(BIN)/python -m server serve --host $(HOST) --port $(PORT) $(ARGS)

test: check
ifdef T
	$(BIN)/python -m pytest $(T)
else
	$(BIN)/python -m pytest $(TWO) -m "not slow and not gpu and not e2e"
	$(BIN)/python -m pytest $(TWO) $$(grep -l mark.e2e tests/test_*.py) -m "$(E2E)" # browsers want no others beside them
endif

check: .venv/.dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

bench: .venv/.dev
	$(BIN)/python tests/benchmarks/serve.py $(if $(URL),--url $(URL)) $(ARGS)

docker:
	docker build --build-arg TORCH_INDEX="$(TORCH_INDEX)" -t steerdeck:latest .

# A stamp per set of packages: a second run is instant and needs no network, and an install that was
# interrupted is taken up again. torch comes first, alone, so that nothing else decides which build.
.venv/.serve: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Steerdeck needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	$(BIN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	$(PIP) torch $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
	$(PIP) -e '.[server,ui]'
	@touch $@

.venv/.dev: .venv/.serve
	$(PIP) -e '.[dev]'
	@touch $@
