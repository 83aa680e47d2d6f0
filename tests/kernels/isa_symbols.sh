#!/usr/bin/env bash
# usage: isa_symbols.sh LIBRARY     Fails if an object compiled for AVX2 or AVX-512 defines a weak symbol (an inline function or
# template that stayed out of line): the linker keeps one copy for the whole program, and on an older CPU that copy may fault.
set -euo pipefail
nm --defined-only "$1" | awk '
  /:$/ { object = $0; isa = object ~ /_avx(2|512[a-z0-9]*)\.cc\.o:$/; num_objects += isa }
  $3 ~ /^DW\.ref\./ { next }  # a pointer that exception tables share, no code
  isa && $2 ~ /^[WVuw]$/ { print object, $3; ++num_weak }
  END {
    if (num_objects == 0) { print "no AVX objects found"; exit 1 }
    exit num_weak > 0
  }' | c++filt
