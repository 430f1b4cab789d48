# The short names of what people do here. Everything real is in CMake and in scripts/.

# Installs what is missing. On a system without apt-get, once all is there: make SETUP=: ...
SETUP ?= scripts/setup.sh
PREFIX ?= /usr/local
BUILD := cmake --build build

.DEFAULT_GOAL := help
.PHONY: help run build test bench install format lint clean setup configure

help: ## what can be made
	@echo "make TARGET, where TARGET is"
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1\t\2/p' Makefile | expand -t 12

run: build ## train a small Mamba on a book for a minute, measure it, let it write
	@scripts/quickstart.sh

build: configure ## set up and build the program, build/adder
	@$(BUILD) --target adder_program

test: configure ## set up, build and run all tests
	@$(BUILD) --target adder_program adder_tests
	@ctest --preset release --parallel $$(nproc)

bench: configure ## build and run the benchmarks
	@$(BUILD) --target adder_program adder_benchmarks
	@scripts/bench.sh

install: configure ## install program, library and headers under PREFIX (/usr/local)
	@$(BUILD) --target adder adder_program
	@cmake --install build --prefix $(PREFIX)

format: ## format the C++ sources in place
	@$(SETUP) format
	@git ls-files -z '*.h' '*.cc' '*.cu' '*.cuh' | xargs -0 -n 32 clang-format -i

lint: configure ## run clang-tidy on all sources, or on FILES="..."
	@$(SETUP) lint
	@scripts/lint.sh $(FILES)

clean: ## remove the build; trained runs stay
	@rm -rf build

setup:
	@$(SETUP) build run

configure: setup
	@test -f build/build.ninja || cmake --preset release
