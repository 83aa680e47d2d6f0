#!/usr/bin/env python3
"""Prints the expectations of tests/formats/trellis_test.cc: trellis codes decoded in plain integers, as
formats/quantized/trellis.h and docs/native_format.md have them.

usage: trellis_levels.py
"""
ROWS, COLUMNS, SEGMENT = 300, 3, 256


def level(state):
    x = (state * 0x2FE26EDD + 0xB98068F3) % 2**32
    return max(-127, (sum(x.to_bytes(4, "little")) - 509) // 4)


for bits in range(2, 7):
    total, last = 0, []
    for column in range(COLUMNS):
        history = ""  # the bits of a segment's codes, one after the other
        for row in range(ROWS):
            if row % SEGMENT == 0:
                history = "0" * 12
            code = (row * row * 5 + row * 3 + column * 7) % 2**bits
            history += format(code, f"0{bits}b")
            value = level(int(history[-12:], 2))
            total += value * (row * COLUMNS + column + 1)
            if row in (0, 1, 255, 256):
                last.append(value)
    print(f"      {{{bits}, {total}, {{{', '.join(map(str, last))}}}}},")
