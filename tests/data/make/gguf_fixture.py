#!/usr/bin/env python3
"""A GGUF file with random blocks of every decoded type and what the `gguf` package decodes them to.

usage: gguf_fixture.py OUT.gguf

For each type T a tensor "T" [rows, 256] of random blocks and a float32 tensor "T.values" of the same shape; one metadata
key of every value type. Scales are finite float16, among them subnormal, zero and negative ones.

Made with gguf 0.19, numpy 2.4.
"""
import sys

import gguf
import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType as T

# type -> byte offsets of the float16 fields of a block
SCALES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q2_K: [80, 82], T.Q3_K: [108],
          T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208]}
ROWS = 6


def main():
    rng = np.random.default_rng(7)
    writer = gguf.GGUFWriter(sys.argv[1], "fixture")
    writer.add_uint8("t.u8", 200)
    writer.add_int8("t.i8", -100)
    writer.add_uint16("t.u16", 60000)
    writer.add_int16("t.i16", -30000)
    writer.add_uint32("t.u32", 4000000000)
    writer.add_int32("t.i32", -2000000000)
    writer.add_uint64("t.u64", 2**64 - 1)
    writer.add_int64("t.i64", -(2**62))
    writer.add_float32("t.f32", 0.5)
    writer.add_float64("t.f64", 0.1)
    writer.add_bool("t.bool", True)
    writer.add_string("t.str", "grüße")
    writer.add_array("t.ints", [1, -2, 3])
    writer.add_array("t.floats", [0.25, -4.0])
    writer.add_array("t.bools", [True, False, True])
    writer.add_array("t.strs", ["a", "", "\u2581the"])

    for qtype, fields in SCALES.items():
        block, block_bytes = GGML_QUANT_SIZES[qtype]
        num_blocks = ROWS * 256 // block
        raw = rng.integers(0, 256, (num_blocks, block_bytes), dtype=np.uint8)
        for offset in fields:
            scale = rng.normal(0, 0.05, num_blocks).astype(np.float16)
            scale[:4] = [0.0, 3e-7, -5e-6, 700.0]  # zero, subnormals, large
            raw[:, offset:offset + 2] = scale.view(np.uint8).reshape(-1, 2)
        raw = raw.reshape(ROWS, -1)
        values = gguf.quants.dequantize(raw, qtype).astype(np.float32)
        assert values.shape == (ROWS, 256) and np.isfinite(values).all()
        writer.add_tensor(qtype.name, raw, raw_dtype=qtype)
        writer.add_tensor(qtype.name + ".values", values)

    # Every float16 but NaN and infinity; a sample of bfloat16.
    half = np.arange(65536, dtype=np.uint32).astype(np.uint16)
    half = half[(half & 0x7C00) != 0x7C00][::7]
    half = half[: half.size // 256 * 256].reshape(-1, 256)
    writer.add_tensor("F16", half.view(np.float16))
    writer.add_tensor("F16.values", half.view(np.float16).astype(np.float32))
    brain = rng.normal(0, 1, (ROWS, 256)).astype(np.float32).view(np.uint32) >> 16
    brain = brain.astype(np.uint16)
    writer.add_tensor("BF16", brain.view(np.uint8).reshape(ROWS, -1), raw_dtype=T.BF16)
    writer.add_tensor("BF16.values", (brain.astype(np.uint32) << 16).view(np.float32))

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
