"""Makes tests/data/compressed_tensors/packed.safetensors: codes and zero points as compressed-tensors 0.20.1 packs them, along rows and
along dimension 0.

    pip install compressed-tensors==0.20.1; python3 compressed_tensors_fixture.py ../compressed_tensors/packed.safetensors
"""
import sys

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import save_file

torch.manual_seed(5)
tensors = {}
for bits in (4, 8):
    low, high = -(1 << (bits - 1)), 1 << (bits - 1)
    codes = torch.randint(low, high, (16, 40), dtype=torch.int8)
    zeros = torch.randint(low, high, (16, 5), dtype=torch.int8)
    tensors[f"w{bits}.codes"] = codes
    tensors[f"w{bits}.packed"] = pack_to_int32(codes, bits)
    tensors[f"w{bits}.zeros"] = zeros
    tensors[f"w{bits}.zeros_packed"] = pack_to_int32(zeros, bits, packed_dim=0).contiguous()
save_file(tensors, sys.argv[1])
