#!/usr/bin/env python3
"""Makes tests/data/safetensors/reference.safetensors with the reference writer (PyPI safetensors).

usage: safetensors_fixture.py OUT_FILE
Element i of a tensor is i + 1 in its type (BOOL: whether i + 1 is odd), so the reader's test needs no second file.
"""
import math
import sys

import torch
from safetensors.torch import save_file

SHAPES = {  # name: (dtype, shape)
    "b.weight": ("BF16", [2, 3]),
    "a.weight": ("BF16", [3]),
    "Z": ("F32", [2, 2]),
    "scalar": ("F32", []),
    "empty": ("F32", [0, 5]),
    "half": ("F16", [3]),
    "double": ("F64", [1]),
    "i64": ("I64", [2]),
    "i32": ("I32", [3]),
    "u32": ("U32", [1]),
    "i16": ("I16", [3]),
    "u16": ("U16", [1]),
    "i8": ("I8", [5]),
    "u8": ("U8", [3]),
    "mask": ("BOOL", [3]),
    "quote\"back\\slash \u00e9": ("U8", [1]),
}
TORCH = {"BF16": torch.bfloat16, "F32": torch.float32, "F16": torch.float16, "F64": torch.float64,
         "I64": torch.int64, "I32": torch.int32, "U32": torch.uint32, "I16": torch.int16, "U16": torch.uint16,
         "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool}


def tensor(dtype, shape):
    values = torch.arange(1, math.prod(shape) + 1, dtype=torch.int64)
    values = (values % 2 == 1) if dtype == "BOOL" else values
    return values.to(TORCH[dtype]).reshape(shape)


save_file({name: tensor(d, s) for name, (d, s) in SHAPES.items()}, sys.argv[1], {"format": "pt"})
