#!/usr/bin/env bash
# Fetches LibTorch: the PyPI wheel of PyTorch, without what Python would need beside it, unzipped into deps/ (about 1.3 GB; the folder is
# ignored by git). Where no CUDA 13 run-time library is installed, NVIDIA's two small wheels that libtorch_cpu.so is linked with come too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=2.11.0
fail() { echo "deps-torch: $*" >&2; exit 1; }

. cmake/wheels.sh
command -v unzip >/dev/null || fail "no unzip found; install it with: apt-get install unzip"

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
get() {  # REQUIREMENT PATTERN...: files of a wheel -> deps.partial
  echo "deps-torch: pip download $1"
  download_wheel "$1" "$scratch"
  unzip -q -o "$scratch"/*.whl "${@:2}" -d deps.partial || fail "$1 holds no files like ${*:2}"
}
if grep -qs "^__version__ = '$version[+']" deps/torch/version.py && [ -f deps/torch/lib/libtorch_cpu.so ]; then
  echo "deps-torch: deps/torch $version is there"
  exit 0
fi
rm -rf deps.partial
get "torch==$version" 'torch/version.py' 'torch/include/*' 'torch/lib/*'
if ! ldconfig -p | grep -q 'libcudart\.so\.13' || ! ldconfig -p | grep -q 'libcupti\.so\.13'; then
  get nvidia-cuda-runtime==13.0.96 'nvidia/*/lib/*'
  get nvidia-cuda-cupti==13.0.85 'nvidia/*/lib/*'
fi
mkdir -p deps
rm -rf deps/torch deps/nvidia
mv deps.partial/* deps/
rmdir deps.partial
echo "deps-torch: deps/torch $version; build the plugin with: make torch"
