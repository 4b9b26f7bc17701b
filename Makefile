# Each target does its own set-up: tests/setup says what it installs. Run them as root: they make network namespaces.

PYTHON ?= python3
export PYTHON
export MIRRORD_REQUIRE_NATIVE = 1
unexport PYTHONDONTWRITEBYTECODE # what each of some thousand interpreters would compile again

DIST ?= dist
FUZZ_SECONDS ?= 600
SHORT_FUZZ_SECONDS ?= 3
SOAK_MINUTES ?= 120
KILLS ?= 1000

native = $(wildcard mirrord/dataplane/native/*.[ch] mirrord/dataplane/native/*/*.[ch])
c = $(shell find mirrord bench tests -name '*.[ch]')
ready = .venv/.ready
vendored = mirrord/console/page/vendor/pinned.json

help:
	@echo "make venv      .venv with mirrord, mirrorctl, the native core, and the tools of the other targets"
	@echo "make demo      a client, a source and a collector: see mirrored packets arrive"
	@echo "make test      every test"
	@echo "make lint      ruff, mypy, the page's types, clang-format, C warnings"
	@echo "make wheel     the source archive and the wheel, in dist/"
	@echo "make deb       the Debian package, in dist/"
	@echo "make pristine  the Debian package in a minimal Debian 12, which it fetches"
	@echo "make booted    the Debian package under systemd as PID 1, in a Debian 12, which it fetches"
	@echo "make docs      the configuration reference and man pages, out of the code"
	@echo "make bench     what it costs, measured"
	@echo "make vm-test   what only another kernel, or a NIC with a driver, has: in machines of QEMU's; it fetches a Debian 12"
	@echo "make migrated  VMs that migrate live, under iperf3, between two hosts of a cluster"
	@echo "make sanitize  the frame tests, with the native core under ASan and UBSan, and a short fuzz"
	@echo "make fuzz      every fuzz target, FUZZ_SECONDS=600 each"
	@echo "make soak      SOAK_MINUTES=120 of mixed traffic and changes"
	@echo "make kill      the daemon killed at KILLS=1000 random moments"

venv: $(vendored) $(ready)
	@:

$(ready): pyproject.toml setup.py mirrord/__init__.py tests/setup $(native)
	@tests/setup venv
	@touch $@

$(vendored): packaging/vendored.py tests/setup
	@tests/setup console
	@touch $@

demo: venv
	@tests/setup demo
	@.venv/bin/python -m tests.demo

# Four processes share what may be two cores, of a machine that others may be on: what failed runs once more, by itself, and the
# page above tells of it. A fault fails again. No test was chosen (5): nothing to run.
again = || { status=$$?; [ $$status = 5 ] || { echo "what failed above runs once more, by itself:"; \
	.venv/bin/python -m pytest --last-failed --last-failed-no-failures none; }; }

test: venv
	@tests/setup test
	.venv/bin/python -m pytest -n 4 --dist worksteal -m "not alone" --cov --cov-report=term $(if $(PYTEST_ARGS),--cov-fail-under=0) \
		$(PYTEST_ARGS) $(again)
	.venv/bin/python -m pytest -m alone $(PYTEST_ARGS) $(again) # rates and times are in these: without coverage's tracer

lint: venv
	@tests/setup lint
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target lint-python lint-page lint-c

lint-python:
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy

lint-page:
	node build/typescript/tsc.js -p mirrord/console

lint-c:
	.venv/bin/clang-format --dry-run --Werror $(c)
	CFLAGS=-Werror .venv/bin/python setup.py -q build_ext --force --build-lib build/lint --build-temp build/lint

wheel: venv $(vendored)
	rm -f $(DIST)/mirrord-*.whl $(DIST)/mirrord-*.tar.gz
	.venv/bin/python -m build --outdir $(DIST)
	PATH=$(CURDIR)/.venv/bin:$$PATH auditwheel repair --wheel-dir $(DIST) $(DIST)/mirrord-*-linux_*.whl # says which glibc it needs
	rm $(DIST)/mirrord-*-linux_*.whl

deb: wheel
	packaging/debian/build $(DIST)/mirrord-*.whl $(DIST)

pristine: venv
	@tests/setup pristine
	.venv/bin/python -m pytest tests/netns/test_packages.py -k debian --pristine build/bookworm

booted: venv
	@tests/setup booted
	.venv/bin/python -m pytest tests/booted.py --booted build/booted

docs: venv
	.venv/bin/python -m docs.generate

bench: venv
	@tests/setup bench
	.venv/bin/python -m bench

vm-test: venv
	@tests/setup vm
	.venv/bin/python -m pytest tests/vm tests/vm/appliance.py

migrated: venv
	@tests/setup test
	.venv/bin/python -m pytest tests/migrated.py

sanitize: venv
	@tests/setup fuzz
	@$(MAKE) --no-print-directory --jobs 2 --output-sync=target sanitize-tests sanitize-fuzz

sanitize-tests:
	tests/sanitize

sanitize-fuzz:
	tests/fuzz/fuzz $(SHORT_FUZZ_SECONDS) forward decapsulation filters

fuzz: venv
	@tests/setup fuzz
	@.venv/bin/python -c "import atheris" 2>/dev/null || .venv/bin/python -m pip install --quiet atheris==3.0.0
	tests/fuzz/fuzz $(FUZZ_SECONDS)

soak: venv
	@tests/setup bench
	.venv/bin/python -m bench.soak --minutes $(SOAK_MINUTES)

kill: venv
	@tests/setup test
	.venv/bin/python -m pytest tests/netns/test_crash.py tests/scenarios/test_cluster_faults.py -k "random or kills" --kills $(KILLS) --timeout 0

clean:
	rm -rf .venv build dist *.egg-info mirrord/dataplane/*.so

.PHONY: help venv demo test lint lint-python lint-page lint-c wheel deb pristine booted docs bench vm-test migrated sanitize sanitize-tests sanitize-fuzz fuzz soak kill clean
