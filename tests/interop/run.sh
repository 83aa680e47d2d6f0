#!/bin/bash
# Remakes what the tests hold of other tools, by these tools themselves, and compares it to the byte: a peer that changes its layout is found
# here. Then, with build/spikefold and `make models`, exported models run in transformers, and in llama.cpp where LLAMA_CPP_BIN names the folder of
# its programs (engines.py). INTEROP_PYTHON names a Python that has the packages already; otherwise they are installed from PyPI; where they
# cannot be had, the exit status is 77: skipped.
set -euo pipefail
cd "$(dirname "$0")/../.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python=${INTEROP_PYTHON:-}
if [ -z "$python" ]; then
  python=build/interop/bin/python
  python3 -m venv build/interop
  if ! "$python" -m pip install -q torch --index-url https://download.pytorch.org/whl/cpu && ! "$python" -m pip install -q torch; then
    echo "interop: torch cannot be installed here; NOTHING was checked"
    exit 77
  fi
  if ! "$python" -m pip install -q numpy safetensors transformers gguf==0.19.0 compressed-tensors==0.20.1; then
    echo "interop: the peers cannot be installed here; NOTHING was checked"
    exit 77
  fi
fi
if ! "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 -d "$work" auto-gptq==0.7.1; then
  echo "interop: auto-gptq 0.7.1 cannot be had here; NOTHING was checked"
  exit 77
fi
"$python" -m zipfile -e "$work"/auto_gptq-*.whl "$work/wheel"
"$python" tests/data/make/foreign_fixtures.py "$work/foreign" "$work/wheel/auto_gptq/nn_modules/qlinear/qlinear_cuda.py" 2>"$work/log" || { cat "$work/log"; exit 1; }
"$python" tests/data/make/compressed_tensors_fixture.py "$work/packed.safetensors"
"$python" tests/data/make/safetensors_fixture.py "$work/reference.safetensors"
"$python" tests/data/make/gguf_encode_fixture.py "$work/encoded.bin"
diff -r "$work/foreign" tests/data/foreign
cmp "$work/packed.safetensors" tests/data/compressed_tensors/packed.safetensors
cmp "$work/reference.safetensors" tests/data/safetensors/reference.safetensors
cmp "$work/encoded.bin" tests/data/gguf/encoded.bin
echo "interop: AutoGPTQ's, compressed-tensors', safetensors' and gguf-py's files are what the tests hold"
[ -x build/spikefold ] && [ -e models/smollm2-135m-instruct-q4_1.gguf ] || exit 0
"$python" tests/interop/engines.py transformers
[ -z "${LLAMA_CPP_BIN:-}" ] || "$python" tests/interop/engines.py llama.cpp "$LLAMA_CPP_BIN"
