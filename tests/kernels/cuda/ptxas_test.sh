#!/usr/bin/env bash
# Compiles the kernels for sm_90a and reads what ptxas says of them: none may spill, and wgmma may not be serialized, which ptxas only
# notes and -Werror does not see. Needs nvcc, no GPU.
# usage: ptxas_test.sh NVCC SOURCE_DIR
set -euo pipefail
nvcc=$1 source=$2 failed=0
for file in "$source"/kernels/*/*_sm90.cu; do
  says=$("$nvcc" -std=c++20 -O3 -fmad=false -gencode=arch=compute_90a,code=sm_90a -I"$source" -Xptxas -v -cubin -o /dev/null "$file" 2>&1) ||
    { echo "$says" >&2; exit 1; }
  if grep -E 'C75[0-9]{2}|[1-9][0-9]* bytes (stack frame|spill)' <<<"$says" >&2; then
    echo "$file: see above" >&2
    failed=1
  fi
  grep -q 'Compiling entry function' <<<"$says" || { echo "$file: ptxas reported nothing" >&2; failed=1; }
done
exit $failed
