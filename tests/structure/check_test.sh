#!/usr/bin/env bash
# Plants one violation of each house rule in an otherwise clean tree and requires check.sh to name its file, line and rule.
set -uo pipefail
check=$(cd "$(dirname "$0")" && pwd)/check.sh
tree=$(mktemp -d)
trap 'rm -rf "$tree"' EXIT
failures=0

# expect TITLE FILE CONTENT MESSAGE: FILE with CONTENT makes the check fail with MESSAGE (a substring); without MESSAGE it passes.
expect() {
  local title=$1 file=$2 content=$3 message=${4-} output status
  rm -rf "${tree:?}"/* && mkdir -p "$tree/formats/base" "$tree/$(dirname "$file")"
  printf '#pragma once\n#include <vector>\n#include "absl/status/status.h"\n' >"$tree/formats/base/clean.h"
  printf '%b' "$content" >"$tree/$file"
  output=$(bash "$check" "$tree" 2>&1); status=$?
  if [ -n "$message" ] && { [ $status -eq 0 ] || [[ $output != *"$message"* ]]; } || [ -z "$message" -a $status -ne 0 ]; then
    echo "FAILED: $title"; echo "  exit $status, output: $output"; failures=$((failures + 1))
  fi
}

expect "The clean tree passes" formats/base/more.h '#pragma once\n#include "formats/base/clean.h"\n'
expect "formats may not include kernels" formats/a.cc '\n#include "kernels/numeric.h"\n' 'formats/a.cc:2: formats may not include kernels'
expect "base may not include formats" formats/base/a.cc '#include "formats/tensor.h"\n' 'a.cc:1: base may not include formats'
expect "a kernel may not include a format" kernels/k/k.cc '#include "formats/tensor.h"\n' 'k.cc:1: kernels may not include formats'
expect "a kernel may not include the runtime" kernels/k/k.cc '#include "kernels/runtime/forward.h"\n' 'may not include runtime'
expect "calib may not include quant" calib/c.cc '#include "quant/plan.h"\n' 'c.cc:1: calib may not include quant'
expect "the report may not include the commands" apps/report/r.cc '#include "apps/spikefold/x.h"\n' 'report may not include apps'
expect "a library may not include a test's kit" quant/q.cc '#include "tests/testing/kit.h"\n' 'quant may not include tests'
expect "quant takes three headers of calib" quant/q.cc '#include "calib/observer.h"\n' 'quant takes only stats.h'
expect "quant may take the statistics" quant/q.cc '#include "calib/stats.h"\n#include "kernels/numeric.h"\n'
expect "the runtime may include formats" kernels/runtime/r.cc '#include "formats/model_graph.h"\n'
expect "a sibling include is refused" calib/c.cc '#include "stats.h"\n' 'include from the repository root, not "stats.h"'
expect "a relative include is refused" calib/c.cc '#include "../quant/plan.h"\n' 'include from the repository root'
expect "nlohmann outside json.cc" calib/c.cc '#include <nlohmann/json.hpp>\n' 'c.cc:1: nlohmann is used only in'
expect "CLI11 outside main.cc" apps/spikefold/scan.cc '#include "CLI/CLI.hpp"\n' 'scan.cc:1: CLI11 is used only in'
expect "CLI11 in main.cc" apps/spikefold/main.cc '#include "CLI/CLI.hpp"\n#include <CLI/App.hpp>\n'
expect "CLI11 outside main.cc, in angle brackets" apps/spikefold/scan.cc '#include <CLI/CLI.hpp>\n' 'CLI11 is used only in'
expect "LibTorch outside its plugin" kernels/runtime/r.cc '#include <torch/torch.h>\n' 'LibTorch is used only under'
expect "CUDA headers in C++" kernels/k/k.cc '#include <cuda_runtime.h>\n' 'CUDA headers are used only'
expect "CUDA headers in CUDA" kernels/k/k.cu '#include <cuda_runtime.h>\n#include <cub/cub.cuh>\n'
expect "a library that prints" calib/c.cc 'int f() {\n  std::printf("x");\n}\n' 'c.cc:2: libraries never print'
expect "a library that streams" calib/c.cc 'void f() { std::cerr << 1; }\n' 'libraries never print'
expect "prose and snprintf are no printing" calib/c.cc '// printf("x")\nint a = snprintf(b, 3, "printf(");\n'
expect "an app prints" apps/spikefold/a.cc 'void f() { std::printf("x"); }\n'
expect "a header without pragma once" calib/c.h 'int f();\n' 'c.h:1: header without #pragma once'
expect "a file of 601 lines" calib/c.cc "$(printf 'int a;\\n%.0s' $(seq 601))" 'c.cc:601: file is longer than 600 lines'
expect "a file of 600 lines" calib/c.cc "$(printf 'int a;\\n%.0s' $(seq 600))"

if [ $failures -gt 0 ]; then echo "$failures expectations failed"; exit 1; fi
echo "every planted violation was found"
