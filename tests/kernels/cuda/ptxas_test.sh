#!/usr/bin/env bash
# Compiles the hot kernels and reads what ptxas says of them and what it made: none may spill, wgmma may not be serialized (ptxas only
# notes that, and -Werror does not see it), and each kernel has the tensor core and copy instructions of opcodes.txt, no more and no less.
# Needs nvcc and readelf, no GPU and no disassembler.
# usage: ptxas_test.sh NVCC SOURCE_DIR             compares
#        ptxas_test.sh NVCC SOURCE_DIR --update    writes opcodes.txt anew
set -euo pipefail
nvcc=$1 source=$2 failed=0
table=$source/tests/kernels/cuda/opcodes.txt
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Instructions are 16 bytes; the low 12 bits of their first word are the operation.
count_opcodes() {  # CUBIN: lines "kernel opcode count"
  readelf -SW "$1" 2>/dev/null | sed 's/^ *\[ *[0-9]*\] *//' | awk '$1 ~ /^\.text\./ {print substr($1, 7), $4, $5}' |
    while read -r name offset size; do
      od -An -v -t x8 -w16 -j "$((16#$offset))" -N "$((16#$size))" "$1" |
        awk -v name="$(c++filt "$name" | sed 's/^void //; s/(anonymous namespace):://g; s/spikefold::kernels:://g; s/([^()]*)\([0-9]\)/\1/g; s/(.*//; s/ //g')" '
          BEGIN {
            split("237 IMMA 23c HMMA 9f1 IGMMA df1 IGMMA 9f0 HGMMA df0 HGMMA 5b4 UTMALDG 3b5 UTMASTG fae LDGSTS 983 LDL 387 STL", pairs, " ")
            for (i = 1; i in pairs; i += 2) names[pairs[i]] = pairs[i + 1]
          }
          { op = substr($1, 14, 3); if (op in names) count[names[op]]++ }
          END { for (op in count) print name, op, count[op] }'
    done
}

# What has wgmma is for sm_90a; the rest of the list feeds mma.sync.
for file in "$source"/kernels/*/*_sm90.cu "$source"/kernels/{matmul_f32_s8r_s8c,matmul_f32_f32_s4g}/*_sm80.cu \
  "$source"/kernels/*/*_{row,decode}_sm80.cu; do
  arch=90
  [[ $file == *_sm90.cu ]] && arch=90a
  cubin=$work/$(basename "$file").cubin
  says=$("$nvcc" -std=c++20 -O3 -fmad=false -gencode=arch=compute_$arch,code=sm_$arch -I"$source" -Xptxas -v -cubin -o "$cubin" "$file" 2>&1) ||
    { echo "$says" >&2; exit 1; }
  if grep -E 'C75[0-9]{2}|[1-9][0-9]* bytes (stack frame|spill)' <<<"$says" >&2; then
    echo "$file: see above" >&2
    failed=1
  fi
  grep -q 'Compiling entry function' <<<"$says" || { echo "$file: ptxas reported nothing" >&2; failed=1; }
  count_opcodes "$cubin" >>"$work/opcodes"
done

version="# $("$nvcc" --version | sed -n 's/.*, V\([0-9.]*\).*/nvcc \1/p')"
{ echo "$version"; LC_ALL=C sort "$work/opcodes"; } >"$work/table"
if [ "${3:-}" = --update ]; then
  cp "$work/table" "$table"
elif [ "$(head -n 1 "$table")" != "$version" ]; then
  echo "opcodes.txt is of another compiler ($(head -n 1 "$table")); this is $version: not compared"
elif ! diff -u "$table" "$work/table" >&2; then
  echo "$table: the kernels' instructions are others; if that is meant: ptxas_test.sh NVCC SOURCE_DIR --update" >&2
  failed=1
fi
exit $failed
