#!/usr/bin/env bash
# Speed beside llama.cpp on one machine: runs llama-bench and `spikefold bench` by turns (A B A B ...), so that a change of the machine's
# speed hits both, and prints for each pair the medians, their spread and the ratio. Builds and fetches nothing. Needs an idle machine.
#
# usage: benchmarks/llama_cpp_peer.sh BIN_DIR PEER.gguf=OURS [PEER.gguf=OURS ...]
#        BIN_DIR holds llama-bench; OURS is whatever `spikefold bench` takes (a GGUF file or a quantized directory)
# environment: ROUNDS=3 THREADS=2 PREFILL=512 DECODE=64 SPIKEFOLD=build/spikefold
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,8s/^# \{0,1\}//p' "$0" >&2; exit 2; }
bin=$1
shift
rounds=${ROUNDS:-3} threads=${THREADS:-2} prefill=${PREFILL:-512} decode=${DECODE:-64} spikefold=${SPIKEFOLD:-build/spikefold}
[ -x "$bin/llama-bench" ] || { echo "$bin/llama-bench: not found" >&2; exit 2; }
[ -x "$spikefold" ] || { echo "$spikefold: not found; run make build" >&2; exit 2; }

results=$(mktemp)
trap 'rm -f "$results"' EXIT

number() {  # KEY: the number of "KEY": in the JSON on stdin
  sed -n 's/.*"'"$1"'": *\([0-9.eE+-]*\).*/\1/p' | tail -n 1
}
measure_peer() {  # PAIR MODEL
  local line
  "$bin/llama-bench" -m "$2" -t "$threads" -p "$prefill" -n "$decode" -r 1 -o jsonl 2>/dev/null | while read -r line; do
    if [ "$(number n_gen <<<"$line")" = 0 ]; then printf '%s\tprefill\tpeer\t' "$1"; else printf '%s\tdecode\tpeer\t' "$1"; fi
    number avg_ts <<<"$line"
  done >>"$results"
}
measure_ours() {  # PAIR MODEL
  local json
  json=$("$spikefold" bench "$2" --threads "$threads" --prefill "$prefill" --decode "$decode" --repeat 1 --json)
  printf '%s\tprefill\tours\t%s\n' "$1" "$(number prefill_tokens_per_second <<<"$json")" >>"$results"
  printf '%s\tdecode\tours\t%s\n' "$1" "$(number decode_tokens_per_second <<<"$json")" >>"$results"
}

for ((round = 1; round <= rounds; ++round)); do
  for pair in "$@"; do
    echo "round $round of $rounds: $pair" >&2
    measure_peer "$pair" "${pair%%=*}"
    measure_ours "$pair" "${pair#*=}"
  done
done

"$bin/llama-bench" --version 2>&1 | sed -n '1s/^/# llama.cpp /p'
echo "# $("$spikefold" --version | head -n 1)"
echo "# $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $threads threads, $rounds rounds; tokens per second, median (lowest to highest)"
LC_ALL=C sort -t $'\t' -k1,1 -k2,2r -k3,3 -k4,4g "$results" | awk -F '\t' '
function flush_group() {
  if (n == 0) return
  median = n % 2 ? value[(n + 1) / 2] : (value[n / 2] + value[n / 2 + 1]) / 2
  text = sprintf("%.1f (%.1f to %.1f)", median, value[1], value[n])
  if (side == "ours") { ours = median; ours_text = text }
  else { printf "%s\t%s\t%s\t%s\t%.3f\n", pair, phase, text, ours_text, ours / median }
  n = 0
}
BEGIN { print "peer=ours\tphase\tllama.cpp\tspikefold\tours/peer" }
$4 == "" { printf "no number from %s on %s (%s)\n", $3, $1, $2 > "/dev/stderr"; failed = 1; next }
{
  key = $1 FS $2 FS $3
  if (key != last) { flush_group(); last = key }
  pair = $1; phase = $2; side = $3; value[++n] = $4
}
END { flush_group(); exit failed }'
