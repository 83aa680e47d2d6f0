#!/usr/bin/env bash
# The tour on a real model: find the outliers, quantize four ways, measure each against the float model, write one report.
# usage: apps/demo.sh [OUT_DIR=demo] [WINDOWS=20]      WINDOWS: how many windows of 512 tokens each checkpoint is measured on
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:-demo}
windows=${2:-20}
model=models/smollm2-135m-instruct-q4_1.gguf
text=tests/data/wiki.test.raw
started=$SECONDS

bold="" plain=""
if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then bold=$'\033[1m' plain=$'\033[0m'; fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
spikefold() {
  local word line="$ build/spikefold"
  for word in "$@"; do
    if [[ $word == *" "* ]]; then line+=" \"$word\""; else line+=" $word"; fi
  done
  printf '%s\n' "$line"
  build/spikefold "$@"
}

names=(w8a8 w8a8-static-unprotected w8a8-static w4a16)
mkdir -p "$out"
(cd "$out" && rm -rf scan report.html "${names[@]}" "${names[@]/%/.eval.json}")  # of an earlier run; nothing else

say "1. Where are the outliers of SmolLM2-135M?"
spikefold scan "$model" -o "$out/scan"

say "2. Quantize it: INT8 with a scale for each token; INT8 with constant scales, first unprotected, then with the outliers treated; INT4 weights."
spikefold quantize "$model" --scan "$out/scan" --scheme w8a8 -o "$out/w8a8"
spikefold quantize "$model" --scan "$out/scan" --scheme w8a8-static --outliers none -o "$out/w8a8-static-unprotected"
spikefold quantize "$model" --scan "$out/scan" --scheme w8a8-static --outliers auto -o "$out/w8a8-static"
spikefold quantize "$model" --scan "$out/scan" --scheme w4a16 -o "$out/w4a16"

say "3. What did it cost? Each checkpoint runs its integer kernels beside the float model on $windows windows of text it was not calibrated on."
evals=()
for name in "${names[@]}"; do
  spikefold eval "$out/$name" --reference "$model" --text "$text" --windows "$windows" --context 512 -o "$out/$name.eval.json"
  evals+=("$out/$name.eval.json")
done

say "4. Does it still speak?"
spikefold generate "$out/w8a8-static" -p "The capital of France is" --max-tokens 24

say "5. Accuracy against bits"
spikefold report "${evals[@]}" --scan "$out/scan" -o "$out/report.html"

printf '\nThe demo took %d s. Open %s in a browser.\n' $((SECONDS - started)) "$out/report.html"
