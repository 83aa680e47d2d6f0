# `make deps demo` is the whole tour on a fresh Debian 12; docs/building.md says more.
JOBS ?= 2
.DEFAULT_GOAL := build
SOURCE_DIRS := formats kernels calib quant apps tests benchmarks
SOURCES = $(shell find $(SOURCE_DIRS) -name "*.h" -o -name "*.cc" -o -name "*.cu" -o -name "*.cuh")

help:            ## this list
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 25

deps:            ## Debian packages (installing needs root; checking does not)
	@cmake/deps.sh

deps-torch:      ## LibTorch from PyPI into deps/, for the plugin (1.3 GB)
	@cmake/deps_torch.sh

deps-cuda:       ## nvcc 13 and the CUDA runtime from PyPI into deps/cuda, where there is no CUDA Toolkit (270 MB)
	@cmake/deps_cuda.sh

cuda-check: deps-cuda ## what knows CUDA: compiled for every card, and what the compiler says of it; needs no GPU
	cmake --preset cuda
	cmake --build --preset cuda -j$(JOBS) --target spikefold_cuda spikefold_runtime_cuda
	ctest --test-dir build-cuda -R cuda_ptxas --output-on-failure --no-tests=error

configure:
	cmake --preset release

build: configure ## build/spikefold, optimised
	cmake --build --preset release -j$(JOBS) --target spikefold

torch: deps-torch ## the LibTorch plugin beside build/spikefold
	cmake --preset release -DSPIKEFOLD_TORCH=ON
	cmake --build --preset release -j1 --target spikefold_torch

models:          ## models/*.gguf, each checked by its SHA-256
	@cmake/models.sh

test: deps        ## build and run every test but the slow ones
	@$(MAKE) --no-print-directory configure models
	cmake --build --preset release -j$(JOBS)
	ctest --preset release -j$(JOBS)

demo: deps       ## scan, quantize four ways, evaluate, report.html
	@$(MAKE) --no-print-directory build models
	@apps/demo.sh

results: build models ## the tables of docs/results.md: make results PROSE=calibration.txt CODE=code.txt
	@benchmarks/results.sh $(PROSE) $(CODE)

asan: models     ## unit tests under AddressSanitizer and UndefinedBehaviorSanitizer
	cmake --preset asan-ubsan
	cmake --build --preset asan-ubsan -j$(JOBS)
	ctest --preset asan-ubsan -j$(JOBS)

interop:         ## remake the fixtures of other tools with these tools, from PyPI, and compare
	@tests/interop/run.sh

tsan: models     ## unit tests under ThreadSanitizer
	cmake --preset tsan
	cmake --build --preset tsan -j$(JOBS)
	ctest --preset tsan -j$(JOBS)

FUZZ_SECONDS ?= 30
fuzz:            ## libFuzzer on every parser, FUZZ_SECONDS each (30)
	cmake --preset fuzz
	cmake --build --preset fuzz -j$(JOBS)
	@FUZZ_JOBS=$(JOBS) tests/fuzz/run.sh build-fuzz $(FUZZ_SECONDS)

coverage:        ## lines of formats/ that its tests reach, as a table and build-coverage/coverage.html
	cmake --preset coverage
	cmake --build --preset coverage -j$(JOBS)
	find build-coverage -name '*.gcda' -delete
	build-coverage/tests/formats/formats_test && build-coverage/tests/fuzz/fuzz_corpus_test
	gcovr --root . --filter formats/ --exclude-throw-branches --exclude-unreachable-branches --sort-percentage \
	  --print-summary --html build-coverage/coverage.html --fail-under-line 90 build-coverage

format:          ## rewrite the sources with clang-format
	clang-format -i $(SOURCES)

format-check:    ## fail on a source that clang-format would change
	@clang-format --dry-run --Werror $(SOURCES) && echo "format: $(words $(SOURCES)) files are formatted"

structure-check: ## include directions, sizes, who may print
	@tests/structure/check.sh .

tidy:            ## clang-tidy on every source (without g++'s compiled headers and its own warnings)
	cmake --preset dev
	cmake --build --preset dev --target spikefold_version_file
	run-clang-tidy -quiet -p build-dev -extra-arg=-Wno-error -j$(JOBS) '^$(CURDIR)/($(subst $() ,|,$(SOURCE_DIRS)))/.*\.cc$$'

package: build   ## build/*.deb: the tool, and what building against it needs; with an SBOM
	cmake --build --preset release -j$(JOBS)
	cmake/sbom.sh build/spikefold $$(build/spikefold --version | cut -d' ' -f2) > build/described/sbom.spdx.json
	cd build && cpack -G DEB

clean:           ## remove builds and demo results (models stay)
	rm -rf build build-* demo

.PHONY: help deps deps-torch deps-cuda cuda-check configure build torch models test demo results asan tsan fuzz coverage interop format \
  format-check structure-check tidy package clean
