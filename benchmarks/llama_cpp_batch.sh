#!/usr/bin/env bash
# Sequences decoded side by side, beside llama.cpp on one machine: runs llama-batched-bench and `spikefold bench --batch` by turns and
# prints the medians of each number of sequences and their ratio. Builds and fetches nothing. Needs an idle machine.
#
# usage: benchmarks/llama_cpp_batch.sh BIN_DIR PEER.gguf=OURS [PEER.gguf=OURS ...]
#        BIN_DIR holds llama-batched-bench; OURS is whatever `spikefold bench` takes
# environment: ROUNDS=3 THREADS=2 BATCHES="1 4 8 16 32" DECODE=32 SPIKEFOLD=build/spikefold
set -euo pipefail
[ $# -ge 2 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 2; }
bin=$1
shift
rounds=${ROUNDS:-3} threads=${THREADS:-2} batches=${BATCHES:-1 4 8 16 32} decode=${DECODE:-32} spikefold=${SPIKEFOLD:-build/spikefold}
[ -x "$bin/llama-batched-bench" ] || { echo "$bin/llama-batched-bench: not found" >&2; exit 2; }
[ -x "$spikefold" ] || { echo "$spikefold: not found; run make build" >&2; exit 2; }

results=$(mktemp)
trap 'rm -f "$results"' EXIT
for ((round = 1; round <= rounds; ++round)); do
  for pair in "$@"; do
    for batch in $batches; do
      # A prompt of one token each; its table's eighth column is the decoded tokens a second of all sequences.
      peer=$("$bin/llama-batched-bench" -m "${pair%%=*}" -t "$threads" -c $((batch * (decode + 8))) -npp 1 -ntg "$decode" -npl "$batch" 2>/dev/null |
        awk -F '|' '$2 + 0 == 1 {print $9 + 0}')
      ours=$("$spikefold" bench "${pair#*=}" --threads "$threads" --prefill 0 --decode "$decode" --repeat 1 --batch "$batch" --json |
        sed -n 's/.*"decode_tokens_per_second": *\([0-9.eE+-]*\).*/\1/p')
      printf '%s\t%s\t%s\t%s\n' "$pair" "$batch" "${peer:-0}" "$ours" >>"$results"
    done
  done
done

echo "# $("$spikefold" --version | head -n 1)"
echo "# $(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -n 1), $threads threads, $rounds rounds of $decode tokens; tokens per second of all sequences, median"
awk -F '\t' '
function median(text,   v, n, i, j, t) {
  n = split(text, v, " ")
  for (i = 2; i <= n; ++i) for (j = i; j > 1 && v[j - 1] > v[j]; --j) { t = v[j]; v[j] = v[j - 1]; v[j - 1] = t }
  return n % 2 ? v[(n + 1) / 2] : (v[n / 2] + v[n / 2 + 1]) / 2
}
{ key = $1 FS $2; if (!(key in peer)) order[++count] = key; peer[key] = peer[key] " " $3 + 0; ours[key] = ours[key] " " $4 + 0 }
END {
  print "peer=ours\tsequences\tllama.cpp\tspikefold\tours/peer"
  for (i = 1; i <= count; ++i) {
    a = median(peer[order[i]]); b = median(ours[order[i]])
    if (a > 0) printf "%s\t%.1f\t%.1f\t%.3f\n", order[i], a, b, b / a
    else { print "no number from llama-batched-bench: " order[i] > "/dev/stderr"; failed = 1 }
  }
  exit failed
}' "$results"
