#!/usr/bin/env bash
# Makes the tables of docs/results.md again: scans of several texts, sweeps over benchmarks/recipes/, interventions, caches of few bits.
# usage: benchmarks/results.sh CALIBRATION.txt CODE.txt [OUT=results] [EXPERIMENT ...]
#   CALIBRATION.txt  prose that shares nothing with the evaluation text; cut in five for the spread over calibration texts
#   CODE.txt         source code: the mismatched calibration
#   EXPERIMENT       anatomy e2 e6 e7 e8 e9 e10 e12 bits nothing-online code seeds; all of them without
# WINDOWS (default 20): windows of tests/data/wiki.test.raw a point. Whatever is done already is not done again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
[ $# -ge 2 ] || { sed -n '3,7s/^# //p' "$0" >&2; exit 2; }
prose=$1 code=$2 out=${3:-results}
shift $(($# < 3 ? $# : 3))
experiments=("$@")
[ $# -gt 0 ] || experiments=(anatomy e2 e6 e7 e8 e9 e10 e12 bits nothing-online code seeds)
windows=${WINDOWS:-20}
model=models/smollm2-135m-instruct-q4_1.gguf gemma=models/gemma-3-270m-q4_k_m.gguf text=tests/data/wiki.test.raw
spikefold=${SPIKEFOLD:-build/spikefold}
mkdir -p "$out"

scan() {  # NAME TEXT WINDOWS
  [ -f "$out/$1/outliers.json" ] || "$spikefold" scan "$model" -o "$out/$1" --text "$2" --windows "$3" -q > "$out/$1.txt"
}
# The columns that docs/results.md shows, of a sweep's or of single evaluations' report.csv.
table() {
  awk -F, 'NR == 1 { for (i = 1; i <= NF; ++i) at[$i] = i; print "| recipe | bits | ratio | KLD | same top |"; print "|---|---|---|---|---|"; next }
    { printf "| %s | %.2f | %.4f ± %.4f | %.4f | %.1f %% |\n", $at["name"], $at["bits_linear"], $at["ppl_ratio"], $at["ppl_ratio_se"], $at["kld_mean"], 100 * $at["same_top"] }' "$1"
}
sweep() {  # NAME SCAN RECIPES
  "$spikefold" sweep "$model" --scan "$out/$2" --text "$text" --recipes "$3" --windows "$windows" -o "$out/$1" -q > "$out/$1.txt"
  table "$out/$1/report.csv" | tee "$out/$1.md"
}
cache() {  # NAME OPTIONS...: keys and values of the float model in codes
  local name=$1
  shift
  [ -f "$out/cache/$name.eval.json" ] || "$spikefold" eval "$model" --text "$text" "$@" -o "$out/cache/$name.eval.json" -q > "$out/cache/$name.txt"
}

for experiment in "${experiments[@]}"; do
  printf '\n== %s\n' "$experiment"
  case $experiment in
    e7 | e8 | e10 | bits) scan prose "$prose" 64 ;;
  esac
  case $experiment in
    anatomy)
      [ -f "$out/anatomy/outliers.json" ] || "$spikefold" scan "$model" -o "$out/anatomy" --anatomy --windows 16 --text "$prose" -q > "$out/anatomy.txt"
      [ -f "$out/anatomy-gemma/outliers.json" ] ||
        "$spikefold" scan "$gemma" -o "$out/anatomy-gemma" --anatomy --no-prefix --windows 8 --text "$prose" -q > "$out/anatomy-gemma.txt"
      "$spikefold" compare "$out/anatomy" "$out/anatomy-gemma" | tee "$out/anatomy.md" ;;
    e2) "$spikefold" ablate "$model" --text "$text" --windows 8 -q | tee "$out/e2.md" ;;
    e6)
      for m in "$model" "$gemma"; do "$spikefold" folds "$m" --text "$text" -q; done | tee "$out/e6.txt" ;;
    e7) sweep e7 prose benchmarks/recipes/e7-static.json ;;
    e8) sweep e8 prose benchmarks/recipes/e8-keeping.json ;;
    e10) sweep e10 prose benchmarks/recipes/e10-rotation-prefix.json ;;
    bits) sweep bits prose benchmarks/recipes/bits.json ;;
    e9)
      mkdir -p "$out/cache"
      for form in 8 4 3 2 k4v2 k4rv4 k2rv2; do
        for sinks in 0 1 4; do
          cache "$form-sinks$sinks" --kv "$form" --kv-sinks "$sinks" --kv-recent 16 --protocol llamacpp --windows "$windows"
        done
      done
      "$spikefold" report "$out"/cache/*-sinks?.eval.json -o "$out/e9.csv" -q
      table "$out/e9.csv" | tee "$out/e9.md" ;;
    e12)
      mkdir -p "$out/cache"
      for sinks in 0 1 2 4 8; do
        cache "window128-pinned$sinks" --kv 16 --kv-window 128 --kv-sinks "$sinks" --context 1024 --windows 3
      done
      "$spikefold" report "$out"/cache/window128-*.eval.json -o "$out/e12.csv" -q
      table "$out/e12.csv" | tee "$out/e12.md" ;;
    nothing-online)
      scan prose-128 "$prose" 128
      sweep nothing-online prose-128 benchmarks/recipes/nothing-online.json ;;
    code)
      scan code "$code" 64
      sweep code code benchmarks/recipes/seeds.json ;;
    seeds)
      split -n l/5 -d "$prose" "$out/prose-part"
      for part in 0 1 2 3 4; do
        scan "scan-part$part" "$out/prose-part0$part" 64
        sweep "seeds-part$part" "scan-part$part" benchmarks/recipes/seeds.json
      done ;;
    *) echo "unknown experiment: $experiment" >&2 && exit 2 ;;
  esac
done
