# The verbs of this repository. Each sets up what it needs in .venv; nothing is installed anywhere else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
SOURCES := $(wildcard native/*.pyx native/*.pxd native/*.py proto/*.proto) setup.py pyproject.toml

.PHONY: help demo test check build bench-codec codec-prior bench-plan bench-engine bench-agent bench-fleet bench-writes bench-rules \
  fault-agent fault-sessions fuzz clean

help:
	@echo "make demo    the whole way on this machine: simulated meters to a consumer   ARGS=\"--duration 30s --outage 8s\""
	@echo "make test    all tests   ARGS=\"-k name\""
	@echo "make check   ruff, mypy --strict, import rules"
	@echo "make bench-plan   wire time of the read plan beside Telegraf's optimisations"
	@echo "make bench-engine the line engine beside libmodbus, pymodbus, minimalmodbus (8 min; apt install libmodbus-dev)"
	@echo "make bench-fleet  one controller and 10,000 gateways with mutual TLS, on this machine (18 min)"
	@echo "make bench-agent  the whole agent beside ThingsBoard IoT Gateway: cost, rate, delay, memory, backlog (11 min)"
	@echo "make bench-writes what a day of readings writes to an SD card (3 min)"
	@echo "make bench-rules  what rules and deadbands cost a scan (1 min)"
	@echo "make fault-agent  kill -9, lost brokers, partitions, full disks, damaged files: the account must come out (13 min)"
	@echo "make fault-sessions 100,000 gateways come and go at a controller, and leave nothing behind (12 min)"
	@echo "make fuzz    native parsers under libFuzzer with sanitizers, a million executions each (20 min; apt install clang)"
	@echo "make bench-codec  bytes a reading beside Sparkplug, zstd, Gorilla, Chimp, pcodec, Parquet (needs PARKFLEET_DATA)"
	@echo "make codec-prior  trains the codec's prior anew: another codec (needs PARKFLEET_DATA)"
	@echo "make build   wheel and sdist in dist/"
	@echo "make clean   remove everything that was built"

$(READY): $(SOURCES)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "ParkFleet needs Python 3.11 or newer; $(PYTHON) is older. Try: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null && command -v cc >/dev/null && \
	  test -f "$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h" || \
	  { echo "Missing: a C compiler, Python's headers or venv. On Debian: sudo apt install gcc python3-dev python3-venv"; exit 1; }
	@echo "setting up $(VENV) and compiling: a minute or two, once (log: build/setup.log)"
	@mkdir -p build
	@{ test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); } && \
	  { $(BIN)/python -m pip install --quiet --upgrade pip && \
	    $(BIN)/python -m pip install --quiet --editable '.[dev]' && \
	    $(BIN)/python setup.py --quiet build_ext --inplace; } > build/setup.log 2>&1 || \
	  { cat build/setup.log; echo "set-up failed; mend what the log says and run make again"; exit 1; }
	@touch $@

demo: $(READY)
	@$(BIN)/parkfleet demo $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest $(ARGS)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python tests/import_rules.py

bench-plan: $(READY)
	$(BIN)/python -m tests.benchmarks.bench_plan

bench-engine: $(READY)
	@$(BIN)/python -c 'import minimalmodbus' 2>/dev/null || $(BIN)/python -m pip install --quiet minimalmodbus
	$(BIN)/python -m tests.benchmarks.bench_engine

bench-fleet: $(READY)
	$(BIN)/python -m tests.benchmarks.bench_fleet

# ThingsBoard IoT Gateway installs pymodbus by itself when it starts; the version it wants is installed beforehand.
build/thingsboard/.ready:
	$(PYTHON) -m venv build/thingsboard
	build/thingsboard/bin/pip install --quiet thingsboard-gateway==3.8.5 pymodbus==3.9.2 pyserial pyserial-asyncio
	@touch $@

bench-agent: $(READY) build/thingsboard/.ready
	$(BIN)/python -m tests.benchmarks.bench_agent $(ARGS)

bench-writes: $(READY)
	$(BIN)/python -m tests.benchmarks.bench_writes

bench-rules: $(READY)
	$(BIN)/python -m tests.benchmarks.bench_rules

fault-agent: $(READY)
	$(BIN)/python -m tests.faults.fault_agent

fault-sessions: $(READY)
	$(BIN)/python -m tests.faults.fault_sessions $(ARGS)

fuzz: $(READY)
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(BIN)/python -m pip install --quiet atheris
	$(BIN)/python -m tests.fuzz $(ARGS)

bench-codec: $(READY)
	@$(BIN)/python -c 'import brotli, zstandard, pcodec, pyarrow, numpy' 2>/dev/null || \
	  $(BIN)/python -m pip install --quiet brotli zstandard pcodec pyarrow numpy
	$(BIN)/python -m tests.benchmarks.bench_codec

codec-prior: $(READY)
	$(BIN)/python -m tests.benchmarks.train_prior

build: $(READY)
	$(BIN)/python -m build --outdir dist .

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name '__pycache__' -prune -exec rm -rf {} + -o \( -name '*.so' -o -name '*_pb2*.py*' \) -exec rm -f {} +
