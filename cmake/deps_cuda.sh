#!/usr/bin/env bash
# Where there is no nvcc 13: fetches NVIDIA's compiler and the static CUDA runtime as PyPI's wheels, unzipped into deps/cuda (about 250 MB; the
# folder is ignored by git). Enough to build --backend cuda, on a machine without a GPU too.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
version=13.0.88
fail() { echo "deps-cuda: $*" >&2; exit 1; }
. cmake/wheels.sh

for nvcc in $(command -v nvcc || true) "${CUDA_PATH:-/usr/local/cuda}/bin/nvcc" deps/cuda/bin/nvcc; do
  found=$("$nvcc" --version 2>/dev/null | sed -n 's/.*, V\([0-9.]*\).*/\1/p' || true)
  if [[ $found == 13.* ]]; then
    echo "deps-cuda: $nvcc $found is there"
    exit 0
  fi
done
command -v unzip >/dev/null || fail "no unzip found; install it with: apt-get install unzip"
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
rm -rf deps.partial
for wheel in nvidia-cuda-nvcc==$version nvidia-nvvm==$version nvidia-cuda-crt==$version nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85; do
  echo "deps-cuda: pip download $wheel"
  download_wheel "$wheel" "$scratch"
  unzip -q -o "$scratch"/*.whl 'nvidia/*' -d deps.partial || fail "$wheel holds no files like nvidia/*"
done
cuda=$(echo deps.partial/nvidia/cu*)
chmod +x "$cuda"/bin/* "$cuda"/nvvm/bin/*  # wheels do not keep it
ln -s lib "$cuda/lib64"                    # where nvcc looks
(cd "$cuda/lib" && ln -sf libcudart.so.* libcudart.so)  # what CMake knows a toolkit by
"$cuda/bin/nvcc" --version >/dev/null || fail "nvcc $version does not run here"
mkdir -p deps
rm -rf deps/cuda
mv "$cuda" deps/cuda
rm -rf deps.partial
echo "deps-cuda: deps/cuda/bin/nvcc $version"
