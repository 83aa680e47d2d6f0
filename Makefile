# Each target says in its comment what it leaves behind; `make demo` is the whole tour.
JOBS ?= 2

build:  ## build/spikefold, optimised
	cmake --preset release && cmake --build --preset release -j$(JOBS)

models:  ## models/*.gguf, checked by SHA-256
	cmake/models.sh

.PHONY: build models
