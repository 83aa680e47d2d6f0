#!/usr/bin/env bash
# usage: run.sh BUILD_DIR SECONDS [TARGET...]     Runs the fuzzers, all or those named, SECONDS each, from the committed seeds and what
# earlier runs found. An input that breaks a target lies in BUILD_DIR/findings; it becomes a seed in tests/fuzz/corpus/TARGET.
# FUZZ_JOBS: so many at a time (1). FUZZ_SEED: the same mutations again (0: others each time). FUZZ_TIMEOUT: seconds after which an input counts as one that hangs (20).
set -euo pipefail
build=$(realpath "$1") seconds=$2
shift 2
corpus=$(dirname "$(realpath "$0")")/corpus
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(ls "$corpus")
mkdir -p "$build/findings"

run_target() {  # NAME
  local target=$1 log=$build/findings/$1.log
  mkdir -p "$build/corpus/$target"
  if SPIKEFOLD_FUZZ_TARGET=$target ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=0 "$build/tests/fuzz/fuzz" \
      -seed="${FUZZ_SEED:-0}" -max_total_time="$seconds" -timeout="${FUZZ_TIMEOUT:-20}" -rss_limit_mb=2048 -max_len=65536 \
      -artifact_prefix="$build/findings/$target-" "$build/corpus/$target" "$corpus/$target" >"$log" 2>&1; then
    echo "$target: $(sed -n 's/^Done \(.*\) in .*/\1/p' "$log")"
  else
    echo "$target: FAILED; see $log"
    return 1
  fi
}
export -f run_target
export build seconds corpus
printf '%s\n' "${targets[@]}" | xargs -P "${FUZZ_JOBS:-1}" -I{} bash -c 'run_target {}' ||
  { echo "fuzz: not all of ${#targets[@]} targets passed" >&2; exit 1; }
