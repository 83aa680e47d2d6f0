build:
	cmake --preset release && cmake --build --preset release -j2
.PHONY: build
