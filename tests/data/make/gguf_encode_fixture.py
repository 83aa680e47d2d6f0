"""Makes tests/data/gguf/encoded.bin: float32 values and how gguf-py 0.19 rounds them to block types.

Layout: 1024 float32 values, then their blocks as Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, F16 and BF16, one after the other.

    pip install gguf==0.19.0 numpy; python3 gguf_encode_fixture.py ../gguf/encoded.bin
"""
import sys

import numpy as np
from gguf import GGMLQuantizationType as T
from gguf.quants import quantize

rng = np.random.default_rng(7)
values = rng.standard_normal(1024).astype(np.float32) * np.repeat(
    np.float32(2.0) ** rng.integers(-12, 8, 32), 32).astype(np.float32)
values[64:96] = 0  # a block of zeros
values[96:128] = np.abs(values[96:128])  # a block of one sign
values[130] = 40  # an outlier
out = values.tobytes()
for t in (T.Q8_0, T.Q4_0, T.Q4_1, T.Q5_0, T.Q5_1, T.F16, T.BF16):
    out += quantize(values[None], t).tobytes()
open(sys.argv[1], "wb").write(out)
