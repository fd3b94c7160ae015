# Everything happens in .venv; nothing is needed beforehand but Python, a C++ compiler and make.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SOURCES := pyproject.toml CMakeLists.txt constraints.txt $(wildcard src/* csrc/*)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

.PHONY: demo test docs bench lint types cpp-test fuzz wheel clean

demo: $(VENV)/.demo  ## compress a network trained on real data, and show the evidence
	$(BIN)/layermerge demo $(ARGS)

test: $(VENV)/.test  ## run the tests
	$(BIN)/python -m pytest $(ARGS)

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
	$(BIN)/clang-format --dry-run --Werror src/* csrc/* tests/cpp/*

types: $(VENV)/.dev  ## check types
	$(BIN)/mypy

cpp-test: $(VENV)/.dev  ## build and test the core alone: plain, and under sanitisers
	for sanitisers in "" address,undefined thread; do \
	  build=build/cpp-$$(echo $$sanitisers | tr , -); \
	  PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B $$build -DLAYERMERGE_SANITIZE=$$sanitisers && \
	  PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build $$build --parallel 2 && \
	  PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir $$build --output-on-failure || exit 1; \
	done

fuzz:  ## try the solvers and the table reader on random bytes for half a minute (needs clang)
	mkdir -p build/fuzz
	clang++ -std=c++20 -g -O1 -fsanitize=fuzzer,address,undefined -ffp-contract=off -Isrc \
	  -DLAYERMERGE_NO_DISPATCH src/*.cpp tests/fuzz/fuzz_solver.cpp -o build/fuzz/fuzz_solver
	cp -r tests/fuzz/corpus build/fuzz/
	build/fuzz/fuzz_solver -max_total_time=30 -verbosity=0 -artifact_prefix=build/fuzz/ build/fuzz/corpus

wheel: $(VENV)/.dev  ## build the wheel and try its solver where there is no torch
	rm -rf dist build/wheel-venv
	$(PIP) wheel --no-deps --wheel-dir dist .
	$(PYTHON) -m venv build/wheel-venv
	build/wheel-venv/bin/python -m pip --disable-pip-version-check --quiet install --no-deps dist/*.whl
	build/wheel-venv/bin/python -m pip --disable-pip-version-check --quiet install numpy rich
	cd build && wheel-venv/bin/layermerge solve --budget-ms 300 \
	  --latency ../tests/data/reference/resnet34.s1.time.csv \
	  --importance ../tests/data/reference/resnet34.s1.importance.csv

$(VENV)/.%: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable '.[$*]'
	touch $@

clean:
	rm -rf $(VENV) build dist
