#!/usr/bin/env bash
# usage: run.sh BUILD_DIR SECONDS [TARGET...]     Runs the fuzzers, all or those named, SECONDS each, from the committed seeds and what
# earlier runs found. An input that breaks a target lies in BUILD_DIR/findings; it becomes a seed in tests/fuzz/corpus/TARGET.
set -euo pipefail
build=$(realpath "$1") seconds=$2
shift 2
corpus=$(dirname "$(realpath "$0")")/corpus
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(ls "$corpus")
mkdir -p "$build/findings"
failed=()
for target in "${targets[@]}"; do
  mkdir -p "$build/corpus/$target"
  log=$build/findings/$target.log
  if ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=0 "$build/tests/fuzz/fuzz_$target" -max_total_time="$seconds" -timeout=20 \
      -rss_limit_mb=2048 -max_len=65536 -artifact_prefix="$build/findings/$target-" "$build/corpus/$target" "$corpus/$target" \
      >"$log" 2>&1; then
    echo "fuzz_$target: $(sed -n 's/^Done \(.*\) in .*/\1/p' "$log")"
  else
    echo "fuzz_$target: FAILED; see $log"
    failed+=("$target")
  fi
done
[ ${#failed[@]} -eq 0 ] || { echo "fuzz: ${#failed[@]} targets failed: ${failed[*]}" >&2; exit 1; }
