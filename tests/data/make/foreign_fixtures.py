"""Makes tests/data/foreign/: one tiny Llama as five tools' quantized checkpoints, each with the values it stands for.

    gptq      GPTQ "gptq", 4 bits, groups of 16 in activation order    packed by AutoGPTQ 0.7.1's own QuantLinear.pack()
    gptq_v2   GPTQ "gptq_v2", 8 bits, groups of 16                     the same, zeros + 1 as GPTQModel converts them
    awq       AWQ "gemm", 4 bits, groups of 16                         AutoAWQ packs on a GPU host: its published packing, here again
    ct_w4     compressed-tensors pack-quantized, 4 bits, zero points   compressed-tensors 0.20.1's pack_to_int32()
    ct_mixed  compressed-tensors: attention int-quantized per channel, MLP pack-quantized 8 bits, down_proj float

The expected values are scale * (code - zero) of the codes before packing, in float32; AutoGPTQ's own forward pass is compared with them.

    pip install torch numpy safetensors transformers compressed-tensors==0.20.1
    pip download --no-deps auto-gptq==0.7.1 && unzip auto_gptq-*.whl 'auto_gptq/nn_modules/qlinear/*'      # the wheel's Python; no GPU needed
    python3 foreign_fixtures.py ../foreign auto_gptq/nn_modules/qlinear/qlinear_cuda.py
"""
import importlib.util
import json
import os
import sys

import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32
from safetensors.torch import save_file

OUT, QLINEAR = sys.argv[1], sys.argv[2]
HIDDEN, INNER, VOCAB, GROUP = 32, 64, 48, 16
SHAPES = {"self_attn.q_proj": (32, 32), "self_attn.k_proj": (32, 32), "self_attn.v_proj": (32, 32), "self_attn.o_proj": (32, 32),
          "mlp.gate_proj": (INNER, 32), "mlp.up_proj": (INNER, 32), "mlp.down_proj": (32, INNER)}
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 1,
          "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": VOCAB, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
          "max_position_embeddings": 64, "hidden_act": "silu", "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2,
          "torch_dtype": "float16", "attention_bias": False, "mlp_bias": False}
spec = importlib.util.spec_from_file_location("qlinear", QLINEAR)
qlinear = importlib.util.module_from_spec(spec)
spec.loader.exec_module(qlinear)
torch.manual_seed(11)


def floats():
    t = {"model.embed_tokens.weight": torch.randn(VOCAB, HIDDEN).half(), "lm_head.weight": torch.randn(VOCAB, HIDDEN).half(),
         "model.norm.weight": torch.rand(HIDDEN).half()}
    for norm in ("input_layernorm", "post_attention_layernorm"):
        t[f"model.layers.0.{norm}.weight"] = torch.rand(HIDDEN).half()
    return t


def draw(n, k, bits, groups, lowest_zero=1):
    codes = torch.randint(0, 1 << bits, (n, k), dtype=torch.int32)
    zeros = torch.randint(lowest_zero, 1 << bits, (n, groups), dtype=torch.int32)
    scales = (torch.rand(n, groups) * 0.05 + 0.001).half()
    return codes, zeros, scales


def value(codes, zeros, scales, group_of):
    return scales.float()[:, group_of] * (codes - zeros[:, group_of]).float()


def save(name, tensors, expected, quantization):
    os.makedirs(f"{OUT}/{name}", exist_ok=True)
    with open(f"{OUT}/{name}/config.json", "w") as f:
        json.dump({**CONFIG, "quantization_config": quantization}, f, indent=1)
    save_file({k: v.contiguous() for k, v in tensors.items()}, f"{OUT}/{name}/model.safetensors", {"format": "pt"})
    save_file({k: v.contiguous() for k, v in expected.items()}, f"{OUT}/{name}/expected.safetensors")


def gptq(name, bits, act_order, v2):
    tensors, expected = floats(), {}
    for module, (n, k) in SHAPES.items():
        p = f"model.layers.0.{module}"
        groups = k // GROUP
        codes, zeros, scales = draw(n, k, bits, groups)
        group_of = torch.arange(k) // GROUP
        if act_order:
            group_of = group_of[torch.randperm(k)]
        w = value(codes, zeros, scales, group_of)
        linear = torch.nn.Linear(k, n, bias=False)
        linear.weight.data = w.clone()
        layer = qlinear.QuantLinear(bits, GROUP, k, n, False)
        layer.pack(linear, scales.float().clone(), zeros.float().clone(), group_of.to(torch.int32))
        qzeros = layer.qzeros.clone()
        layer.scales = scales.t().contiguous()
        layer.g_idx = group_of.to(torch.int32)
        got = layer(torch.eye(k).half()).float().t()
        assert (got - w).abs().max() <= w.abs().max() * 2e-3, (p, (got - w).abs().max())
        if v2:
            one = sum(1 << (bits * i) for i in range(32 // bits))
            total = (qzeros.to(torch.int64) & 0xFFFFFFFF) + one
            qzeros = torch.where(total >= 1 << 31, total - (1 << 32), total).to(torch.int32)
        tensors.update({f"{p}.qweight": layer.qweight, f"{p}.qzeros": qzeros, f"{p}.scales": layer.scales, f"{p}.g_idx": layer.g_idx})
        tensors[f"{p}.bias"] = torch.zeros(n).half()  # as AutoGPTQ writes them
        expected[f"{p}.weight"] = w
    save(name, tensors, expected, {"quant_method": "gptq", "bits": bits, "group_size": GROUP, "desc_act": act_order, "sym": False,
                                   "checkpoint_format": "gptq_v2" if v2 else "gptq"})


def awq():
    tensors, expected = floats(), {}
    order = [0, 2, 4, 6, 1, 3, 5, 7]

    def pack(codes):  # [rows, n] -> [rows, n / 8]
        out = torch.zeros(codes.shape[0], codes.shape[1] // 8, dtype=torch.int64)
        for column in range(out.shape[1]):
            for i in range(8):
                out[:, column] |= codes[:, column * 8 + order[i]].to(torch.int64) << (4 * i)
        return torch.where(out >= 1 << 31, out - (1 << 32), out).to(torch.int32)

    for module, (n, k) in SHAPES.items():
        p = f"model.layers.0.{module}"
        codes, zeros, scales = draw(n, k, 4, k // GROUP, 0)
        tensors.update({f"{p}.qweight": pack(codes.t()), f"{p}.qzeros": pack(zeros.t()), f"{p}.scales": scales.t()})
        expected[f"{p}.weight"] = value(codes, zeros, scales, torch.arange(k) // GROUP)
    save("awq", tensors, expected, {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"})


def compressed(name, kind_of, quantization):
    tensors, expected = floats(), {}
    for module, (n, k) in SHAPES.items():
        p = f"model.layers.0.{module}"
        kind, bits = kind_of(module)
        groups = k // GROUP if kind == "group" else 1
        codes, zeros, scales = draw(n, k, bits, groups, 0)
        half = 1 << (bits - 1)
        signed, signed_zeros = (codes - half).to(torch.int8), (zeros - half).to(torch.int8)
        if kind == "float":
            tensors[f"{p}.weight"] = torch.randn(n, k).half()
            expected[f"{p}.weight"] = tensors[f"{p}.weight"].float()
            continue
        tensors[f"{p}.weight_scale"] = scales
        if kind == "int":
            tensors[f"{p}.weight"] = signed
            tensors[f"{p}.input_scale"] = torch.tensor([0.03]).half()
            zeros = torch.full_like(zeros, half)
        else:
            tensors[f"{p}.weight_packed"] = pack_to_int32(signed, bits)
            tensors[f"{p}.weight_shape"] = torch.tensor([n, k])
            if kind == "group":
                tensors[f"{p}.weight_zero_point"] = pack_to_int32(signed_zeros, bits, packed_dim=0)
            else:
                zeros = torch.full_like(zeros, half)
        group_of = torch.arange(k) // (k // groups)
        expected[f"{p}.weight"] = value(codes, zeros, scales, group_of)
    save(name, tensors, expected, {"quant_method": "compressed-tensors", "quantization_status": "compressed", **quantization})


def args(bits, strategy, symmetric, **more):
    return {"num_bits": bits, "type": "int", "symmetric": symmetric, "strategy": strategy, "dynamic": False, **more}


gptq("gptq", 4, True, False)
gptq("gptq_v2", 8, False, True)
awq()
compressed("ct_w4", lambda m: ("group", 4),
           {"format": "pack-quantized", "ignore": ["lm_head"],
            "config_groups": {"group_0": {"targets": ["Linear"], "weights": args(4, "group", False, group_size=GROUP)}}})
compressed("ct_mixed", lambda m: ("int", 8) if "attn" in m else ("float", 8) if "down" in m else ("channel", 8),
           {"format": "mixed-precision", "ignore": ["lm_head", "model.layers.0.mlp.down_proj"],
            "config_groups": {"group_0": {"targets": ["re:.*self_attn.*"], "weights": args(8, "channel", True), "format": "int-quantized",
                                          "input_activations": args(8, "tensor", True)},
                              "group_1": {"targets": ["re:.*(gate|up)_proj"], "weights": args(8, "channel", True), "format": "pack-quantized"}}})
