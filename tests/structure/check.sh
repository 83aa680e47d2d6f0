#!/usr/bin/env bash
# usage: check.sh ROOT     Checks the house rules that a compiler cannot: which way includes point, who may use which library, who may
# print, how long a file may be. Prints file:line: rule for each violation and exits 1 if there is any.
set -euo pipefail
cd "$1"
folders=()
for folder in formats kernels calib quant apps tests benchmarks; do
  if [ -d "$folder" ]; then folders+=("$folder"); fi
done
mapfile -t files < <(find "${folders[@]}" -type f \( -name '*.h' -o -name '*.cc' -o -name '*.cu' -o -name '*.cuh' \) | LC_ALL=C sort)
[ ${#files[@]} -gt 0 ] || { echo "$1: no sources found; pass the repository's root" >&2; exit 1; }

awk '
function report(rule) { printf "%s:%d: %s\n", FILENAME, FNR, rule; ++num_violations }
function report_at(file, line, rule) { printf "%s:%d: %s\n", file, line, rule; ++num_violations }

# The layer of a path; an include may go from a layer to itself or to a lower one (kernels and formats: see may_include).
function layer_of(path) {
  if (path ~ /^formats\/base\//) return "base"
  if (path ~ /^formats\//) return "formats"
  if (path ~ /^kernels\/runtime\//) return "runtime"
  if (path ~ /^kernels\//) return "kernels"
  if (path ~ /^calib\//) return "calib"
  if (path ~ /^quant\//) return "quant"
  if (path ~ /^apps\/report\//) return "report"
  if (path ~ /^apps\//) return "apps"
  if (path ~ /^tests\//) return "tests"
  if (path ~ /^benchmarks\//) return "benchmarks"
  return ""
}

BEGIN {
  reach["base"] = " base "
  reach["formats"] = " base formats "
  reach["kernels"] = " base kernels "
  reach["runtime"] = " base formats kernels runtime "
  reach["calib"] = " base formats kernels runtime calib "
  reach["quant"] = " base formats kernels runtime calib quant "
  reach["report"] = " base formats kernels runtime calib quant report "
  reach["apps"] = " base formats kernels runtime calib quant report apps "
  reach["tests"] = " base formats kernels runtime calib quant report apps tests "
  reach["benchmarks"] = " base formats kernels runtime calib quant report apps tests benchmarks "
  max_lines = 600
}

function check_own_include(target, from, to) {
  if (index(reach[from], " " to " ") == 0) {
    report(from " may not include " to " (\"" target "\"); allowed:" reach[from])
    return
  }
  if (from == "quant" && to == "calib" && target !~ /^calib\/(stats|census|evaluate|recalibrate|hessian|nonfinite|self_divergence)\.h$/)
    report("quant takes only stats.h, census.h, evaluate.h, recalibrate.h, hessian.h, nonfinite.h and self_divergence.h from calib, not \"" target "\"")
  if (from == "quant" && to == "kernels" && target !~ /^kernels\/(numeric|matmul_f32_f32_f32\/matmul_f32_f32_f32|trellis_s8_f32\/trellis_s8_f32)\.h$/)
    report("quant takes only numeric.h, the float matmul and the trellis encoder from kernels, not \"" target "\"")
}

function check_library_include(target) {
  if (target ~ /^nlohmann\// && FILENAME != "formats/base/json.cc")
    report("nlohmann is used only in formats/base/json.cc; use formats/base/json.h")
  if (target ~ /^Eigen\// && FILENAME != "quant/rounding/cholesky.cc")
    report("Eigen is used only in quant/rounding/cholesky.cc; use quant/rounding/cholesky.h")
  if (target ~ /^CLI\// && FILENAME !~ /^apps\/spikefold\/(main\.cc|(option_groups|cli_shape|usage_error)\.(h|cc))$/)
    report("CLI11 is used only in apps/spikefold/main.cc, option_groups, cli_shape and usage_error (seven seconds a file)")
  if (target ~ /^(torch|ATen|c10|caffe2)\// && FILENAME !~ /^kernels\/runtime\/torch\//)
    report("LibTorch is used only under kernels/runtime/torch/")
  if (target ~ /^(cuda|cub|cutlass|cute|cooperative_groups|thrust|nv|mma|cublas|curand|nvrtc|driver_types)[a-zA-Z_]*(_[a-z0-9]+)?(\.h|\/)/ && FILENAME !~ /\.cuh?$/ && FILENAME !~ /^kernels\/cuda\//)
    report("CUDA headers are used only in .cu, .cuh and kernels/cuda/")
}

# Comments and string literals removed, so that prose may speak of printf. Raw strings of several lines are kept as they are.
function code_of(line) {
  gsub(/\\./, "", line)
  gsub(/"[^"]*"/, "\"\"", line)
  sub(/\/\/.*/, "", line)
  return line
}

FNR == 1 {
  if (previous_file != "" && previous_is_header && !saw_pragma_once) report_at(previous_file, 1, "header without #pragma once")
  previous_file = FILENAME; previous_is_header = FILENAME ~ /\.(h|cuh)$/; saw_pragma_once = 0; layer = layer_of(FILENAME)
}
/^#pragma once/ { saw_pragma_once = 1 }
FNR == max_lines + 1 { report("file is longer than " max_lines " lines; split it by what changes together") }
/^[ \t]*#[ \t]*include[ \t]*[<"]/ {
  target = $0
  sub(/^[ \t]*#[ \t]*include[ \t]*[<"]/, "", target); sub(/[>"].*/, "", target)
  to = layer_of(target)
  if (target ~ /^\.\.?\//) report("include from the repository root, not \"" target "\"")
  else if (to != "") check_own_include(target, layer, to)
  else if ($0 ~ /"/ && target !~ /^(absl|catch2|CLI|nlohmann|torch|ATen|c10)\//) report("include from the repository root, not \"" target "\"")
  else check_library_include(target)
  next
}
layer !~ /^(report|apps|tests|benchmarks)$/ && /printf|puts|putchar|cout|cerr|clog/ {
  code = code_of($0)
  if (code ~ /(^|[^a-zA-Z0-9_])((f|v|vf)?printf|f?puts|putchar)[ \t]*\(/ || code ~ /std::(cout|cerr|clog)/)
    report("libraries never print; return a Status or call the Progress callback")
}
END {
  if (previous_is_header && !saw_pragma_once) report_at(previous_file, 1, "header without #pragma once")
  if (num_violations > 0) { printf "%d violations of the house rules (docs/contributing.md)\n", num_violations; exit 1 }
}
' "${files[@]}"
echo "structure: ${#files[@]} files keep the house rules"
