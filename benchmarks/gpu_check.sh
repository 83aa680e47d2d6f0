#!/usr/bin/env bash
# Quantized models on a GPU beside the CPU: the GPU tests, then for each scheme one file that both run: its integer linears compared bit
# for bit (eval --parity), its perplexity on either, and its speed. For a machine that has a GPU and need not have a compiler: `pack`
# collects what the run needs where it was built.
#
# usage: benchmarks/gpu_check.sh pack BUILD_DIR OUT.tgz             binaries and the libraries that a plain system may lack
#        benchmarks/gpu_check.sh run DIR OUT_DIR TEXT CALIBRATION NAME=MODEL[:SCHEMES] ...
#        DIR holds what was packed (or is a build directory); SCHEMES are names below joined by commas; all of them if none is given
# environment: WINDOWS=20 THREADS=$(nproc) JOBS=4 (at a time) STEPS=tests,parity,accuracy,speed
# Results: a table on stdout, OUT_DIR/results.csv and the documents of each eval beside it.
set -euo pipefail

usage() { sed -n '2,11s/^# \{0,1\}//p' "$0" >&2; exit 2; }

# The quantizations: a name and the options it stands for.
options_of() {
  case $1 in
    w8a8) echo "--scheme w8a8" ;;
    w8a8-keep) echo "--scheme w8a8 --outliers keep --keep-columns 64 --rotate none" ;;
    w8a8-static) echo "--scheme w8a8-static" ;;
    w8a8-static-shift) echo "--scheme w8a8-static --shift mean" ;;
    w4a16) echo "--scheme w4a16" ;;
    w3a16 | w4a4 | w4a4-group) echo "--scheme $1" ;;
    w8a8-static-kv8) echo "--scheme w8a8-static --kv 8" ;;
    w4a4-kv4) echo "--scheme w4a4 --kv 4" ;;
    w4a16-grid) echo "--scheme w4a16 --codes grid" ;;
    w4a8) echo "--scheme w4a8" ;;
    w4a8-static) echo "--scheme w4a8-static" ;;
    w4a8-static-shift) echo "--scheme w4a8-static --shift mean" ;;
    *) echo "gpu_check: unknown quantization $1" >&2; exit 2 ;;
  esac
}
all=w8a8,w8a8-keep,w8a8-static,w8a8-static-shift,w8a8-static-kv8,w4a16,w4a16-grid,w3a16,w4a8,w4a8-static,w4a8-static-shift,w4a4,w4a4-group,w4a4-kv4

pack() {  # BUILD_DIR OUT.tgz
  local dir
  dir=$(mktemp -d)
  trap "rm -rf '$dir'" EXIT
  mkdir "$dir/lib"
  local binary
  for binary in "$1/spikefold" "$1/tests/kernels/cuda/cuda_test" "$1/benchmarks/cuda_bench"; do
    [ -x "$binary" ] || continue
    strip -o "$dir/$(basename "$binary")" "$binary"
    ldd "$binary" | awk '$3 ~ /^\// {print $3}' | grep -Ev '/(libc|libm|libpthread|libdl|librt|libstdc\+\+|libgcc_s|ld-linux.*)\.so' |
      xargs -r cp -Lu -t "$dir/lib"
  done
  cp "$0" "$dir"
  tar -C "$dir" -czf "$2" .
}

number() {  # KEY FILE: the number of the first "KEY":
  sed -n 's/.*"'"$1"'": *\([0-9.eE+-]*\).*/\1/p' "$2" | head -n 1
}

run() {  # DIR OUT_DIR TEXT CALIBRATION NAME=MODEL[:SCHEMES] ...
  local dir=$1 out=$2 text=$3 calibration=$4
  shift 4
  export LD_LIBRARY_PATH=$dir/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  local threads=${THREADS:-$(nproc)} windows=${WINDOWS:-20} steps=,${STEPS:-tests,parity,accuracy,speed},
  local spikefold=$dir/spikefold work failed=0
  work=$(mktemp -d)
  trap "rm -rf '$work'" EXIT
  mkdir -p "$out"
  if [[ $steps == *,tests,* && -x $dir/cuda_test ]]; then
    timeout 300 "$dir/cuda_test" >"$out/cuda_test.txt" 2>&1 || failed=1
    tail -n 3 "$out/cuda_test.txt"
  fi
  [[ $steps =~ ,(parity|accuracy|speed), ]] || return $failed
  local entry scheme name model
  local -a jobs=()
  for entry in "$@"; do
    name=${entry%%=*} model=${entry#*=}
    local schemes=$all
    [[ $model == *:* ]] && schemes=${model#*:} && model=${model%%:*}
    "$spikefold" scan "$model" -o "$work/$name.scan" --text "$calibration" --threads "$threads" -q >/dev/null
    for scheme in ${schemes//,/ }; do jobs+=("$name $model $scheme"); done
  done
  # Several at a time: what is compared does not depend on it. Speed is measured after them, one by one.
  local each=$((threads / ${JOBS:-4}))
  export out work text windows steps spikefold each=$((each > 0 ? each : 1))
  export -f compare options_of
  printf '%s\n' "${jobs[@]}" | xargs -P "${JOBS:-4}" -L 1 bash -c 'compare "$@"' _ || failed=1
  echo "model,scheme,parity,different,outputs,ratio_cuda,ratio_cpu,kld_cuda,kld_cpu,ratio_se,prefill_cuda,decode_cuda" >"$out/results.csv"
  local job
  for job in "${jobs[@]}"; do
    # shellcheck disable=SC2086  # three words
    row $job || failed=1
  done
  column -s, -t "$out/results.csv" 2>/dev/null || cat "$out/results.csv"
  return $failed
}

compare() {  # NAME MODEL SCHEME: quantizes and evaluates
  set -euo pipefail
  local q=$work/$1.$3 at=$out/$1.$3 how status=0 backend
  how=$(options_of "$3")
  # shellcheck disable=SC2086  # options are words
  "$spikefold" quantize "$2" --scan "$work/$1.scan" -o "$q" $how --threads "$each" -q >"$at.log" 2>&1 ||
    { echo "$1 $3: quantize: $(tail -n 1 "$at.log")" >&2; return 1; }
  if [[ $steps == *,parity,* ]]; then
    "$spikefold" eval "$q" --backend cuda --parity --text "$text" --windows 2 --threads "$each" --json -q >"$at.parity.json" 2>"$at.log" ||
      { status=1; echo "$1 $3: parity: $(tail -n 1 "$at.log")" >&2; }
  fi
  [[ $steps == *,accuracy,* ]] || return $status
  for backend in cuda cpu; do
    "$spikefold" eval "$q" --reference "$2" --backend $backend --text "$text" --windows "$windows" --threads "$each" -q \
      -o "$at.$backend.json" >"$at.log" 2>&1 || { status=1; echo "$1 $3: $backend: $(tail -n 1 "$at.log")" >&2; }
  done
  return $status
}

row() {  # NAME MODEL SCHEME: measures speed, writes a line of the results
  local at=$out/$1.$3 status=0 parity
  if [[ $steps == *,speed,* && -d $work/$1.$3 ]]; then
    "$spikefold" bench "$work/$1.$3" --backend cuda --prefill 512 --decode 128 --repeat 3 --threads "$threads" --json >"$at.bench.json" \
      2>"$at.log" || { status=1; echo "$1 $3: bench: $(tail -n 1 "$at.log")" >&2; }
  fi
  touch "$at".{parity,cuda,cpu,bench}.json
  parity=$(number different "$at.parity.json")
  echo "$1,$3,$([ "$parity" = 0 ] && echo equal || echo DIFFERENT),$parity,$(number outputs "$at.parity.json"),$(
    number ppl_ratio "$at.cuda.json"),$(number ppl_ratio "$at.cpu.json"),$(number kld_mean "$at.cuda.json"),$(
    number kld_mean "$at.cpu.json"),$(number ppl_ratio_se "$at.cpu.json"),$(
    number prefill_tokens_per_second "$at.bench.json"),$(number decode_tokens_per_second "$at.bench.json")" >>"$out/results.csv"
  return $status
}

case ${1:-} in
  pack) [ $# -eq 3 ] || usage; pack "$2" "$3" ;;
  run) [ $# -ge 6 ] || usage; shift; run "$@" ;;
  *) usage ;;
esac
