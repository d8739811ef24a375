PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
TOOLS := wrk strace curl etcd redis-server redis-cli redis-benchmark node npm promtool systemd-analyze systemd-sysusers systemd-socket-activate man groff zsh fish chromium
PACKAGES := wrk strace curl etcd-server redis-server redis-tools nodejs npm prometheus systemd man-db groff-base zsh fish chromium
BENCH_TOOLS := wrk redis-server redis-benchmark nutcracker etcd
BENCH_PACKAGES := wrk redis-server redis-tools nutcracker etcd-server

.PHONY: run test test-system test-damage test-growth test-doors test-frames test-openapi test-redis test-backup simulate mutants bench bench-long bench-tools docs man changelog clean

run: $(VENV)/installed
	$(BIN)/twistd -n kvcluster

test: $(VENV)/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -n auto --dist loadfile -m "not system"

test-system: $(VENV)/installed-ui-test
	@for tool in $(TOOLS); do \
		command -v $$tool >/dev/null || { echo "$@ needs $$tool: apt-get install $(PACKAGES)" >&2; exit 1; }; \
	done
	$(BIN)/pytest -n 2 --dist loadfile -m system

# Damages ten thousand bytes, round by round; make test-system does a part of that.
test-damage: $(VENV)/installed-test
	KV_FLIPS=10000 $(BIN)/pytest -s tests/sockets/test_damage.py

# A cluster of a hundred thousand keys grows and shrinks while anything is killed, is healed, and has twenty rounds of
# changes at once; make test-system takes less of each.
test-growth: $(VENV)/installed-test
	KV_GROWTH_KEYS=100000 KV_KEYS=100000 KV_ROUNDS=20 $(BIN)/pytest -s \
		tests/sockets/test_growth.py tests/sockets/test_healing.py tests/sockets/test_changes_at_once.py

# The tests with real daemons once more, without the lane, and over links; then ten thousand spoilt requests and as many
# idle clients.
test-doors: $(VENV)/installed-test
	KVNODE_OPTIONS="--lane false" KVPROXY_OPTIONS="--lane false" \
		$(BIN)/pytest -n auto --dist loadfile -m "not system" tests/sockets
	KVPROXY_OPTIONS="--transport link" $(BIN)/pytest -n auto --dist loadfile -m "not system" tests/sockets
	KV_STREAMS=10000 KV_IDLE=8000 $(BIN)/pytest -s --timeout 900 \
		tests/sockets/test_spoilt_requests.py tests/sockets/test_many_clients.py

# A million spoilt frames: what nodes and proxies say to each other, what lies on their disks, what the commands read.
# Four minutes on two cores; make test does a fiftieth of it.
test-frames: $(VENV)/installed-test
	KV_FRAMES=1000000 $(BIN)/pytest -n auto --timeout 7200 -rP tests/fuzz/test_frames.py

# A million records are backed up, the cluster is wiped, and they are restored onto five nodes instead of three.
test-backup: $(VENV)/installed-test
	KV_BACKUP_KEYS=1000000 $(BIN)/pytest -s tests/sockets/test_restore.py

# Three hundred random requests for each call that /openapi.json describes, beside those for each bound.
test-openapi: $(VENV)/installed-test
	KV_OPENAPI_EXAMPLES=300 KV_OPENAPI_SEED=$${KV_OPENAPI_SEED:-$$(date +%s)} $(BIN)/pytest -s --timeout 7200 \
		tests/sockets/test_openapi.py

# A hundred thousand random commands beside a real Redis, ten thousand spoilt streams of them.
test-redis: $(VENV)/installed-test
	KV_ORACLE_EXAMPLES=1700 $(BIN)/pytest -s --timeout 1800 tests/sockets/test_redis_oracle.py
	KV_STREAMS=10000 $(BIN)/pytest -s --timeout 900 tests/sockets/test_spoilt_commands.py

# Gathers changelog/ into CHANGELOG.md, under the version of now.
changelog:
	$(PYTHON) changelog/gather.py

# Manual pages, made from what the commands know of their options: man --manpath=build/man kvctl
man: $(VENV)/installed
	$(BIN)/kvctl manual build/man

# The release campaign: ten thousand clusters, two million operations and more. Its last lines go into docs/.
simulate: $(VENV)/installed
	$(BIN)/kvctl simulate --seeds 0..10000 --jobs 2

# Looks anew for the first seed that catches each wrong variant.
mutants: $(VENV)/installed-test
	$(BIN)/python -m tests.simulation.mutants 1000

# Ours and its peers under the same load, in some twenty minutes; figures and pictures go to benchmarks/out/.
bench: bench-tools $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.bench

# The same, with five million keys and ten minutes at full load: some forty minutes.
bench-long: bench-tools $(VENV)/installed-bench
	$(BIN)/python -m benchmarks.bench --long

bench-tools:
	@for tool in $(BENCH_TOOLS); do \
		command -v $$tool >/dev/null || { echo "bench needs $$tool: apt-get install $(BENCH_PACKAGES)" >&2; exit 1; }; \
	done

# The pages in docs/ as a site, in build/docs/html; whatever is wrong with a page or a link ends it.
docs: $(VENV)/installed-docs
	$(BIN)/python -m sphinx -E -W --keep-going -q -b html docs build/docs/html
	@echo "build/docs/html/index.html"

# What the daemons wrote (kvcluster/, kvnode-*/, kvproxy-*/) is data, and stays.
clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find benchmarks tests twisted twisted_kv -name __pycache__ -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache

# The stamps say that the environment holds what these two files ask for; the sources themselves are linked (-e).
# An install that was interrupted leaves halves of packages that pip takes for whole: without a stamp all begins anew.
$(VENV)/installed: setup.py pyproject.toml
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e .
	touch $@

$(VENV)/installed-test: $(VENV)/installed
	rm $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e ".[test]"
	touch $(VENV)/installed $@

$(VENV)/installed-ui-test: $(VENV)/installed-test
	$(BIN)/python -m pip install --quiet -e ".[ui-test]"
	touch $@

$(VENV)/installed-bench: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e ".[bench]"
	touch $@

$(VENV)/installed-docs: $(VENV)/installed
	$(BIN)/python -m pip install --quiet -e ".[docs]"
	touch $@
