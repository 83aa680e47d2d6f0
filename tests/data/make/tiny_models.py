#!/usr/bin/env python3
"""Tiny random models with the logits that transformers computes from them in float32.

usage: tiny_models.py OUT_DIR [LLAMA_CPP_DIR]

One HF directory a case (config.json, model.safetensors) plus expected.safetensors:
  ids_a [24], ids_b [70]        int32 token ids
  logits_a, logits_b            float32 [tokens, vocab], eager attention
  hidden_a                      float32 [layers, 24, hidden]: residual after the embedding and after every layer but
                                the last
With LLAMA_CPP_DIR its own converter (convert_hf_to_gguf) also writes model.gguf, without a vocabulary, so that names, row
permutation and norm gains are checked against the tool that defines them.

Made with torch 2.11, transformers 5.24, safetensors 0.8.
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import save_file
from transformers import (AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, MistralConfig, Qwen2Config,
                          Qwen3Config)

COMMON = dict(bos_token_id=1, eos_token_id=2, pad_token_id=0, max_position_embeddings=256)

CASES = {
    # Llama-3 rope scaling with a short original context so that all three frequency bands exist; untied; bf16.
    "llama": (torch.bfloat16, LlamaConfig(
        vocab_size=128, hidden_size=64, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, tie_word_embeddings=False, rms_norm_eps=1e-5,
        rope_parameters=dict(rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0,
                             high_freq_factor=4.0, original_max_position_embeddings=64), **COMMON)),
    # Every optional bias, linear rope scaling, tied.
    "llama_bias": (torch.float32, LlamaConfig(
        vocab_size=120, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=6,
        num_key_value_heads=3, tie_word_embeddings=True, attention_bias=True, mlp_bias=True,
        rope_parameters=dict(rope_type="linear", rope_theta=5000.0, factor=2.0), **COMMON)),
    # Sliding window on every layer, head_dim != hidden / heads.
    "mistral": (torch.float32, MistralConfig(
        vocab_size=120, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=16, sliding_window=16, rope_parameters=dict(
            rope_type="default", rope_theta=10000.0), **COMMON)),
    # q, k, v biases; the window only from layer 1 on; tied.
    "qwen2": (torch.bfloat16, Qwen2Config(
        vocab_size=160, hidden_size=48, intermediate_size=96, num_hidden_layers=3, num_attention_heads=3,
        num_key_value_heads=1, tie_word_embeddings=True, use_sliding_window=True, sliding_window=16,
        max_window_layers=1, rope_parameters=dict(rope_type="default", rope_theta=1000000.0), **COMMON)),
    # q and k norms, head_dim != hidden / heads, untied.
    "qwen3": (torch.bfloat16, Qwen3Config(
        vocab_size=128, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=24, tie_word_embeddings=False, rope_parameters=dict(
            rope_type="default", rope_theta=1000000.0), **COMMON)),
    # Sandwich norms, two rope bases, five sliding layers to one global, query_pre_attn_scalar != head_dim.
    "gemma3": (torch.bfloat16, Gemma3TextConfig(
        vocab_size=160, hidden_size=40, intermediate_size=56, num_hidden_layers=6, num_attention_heads=4,
        num_key_value_heads=1, head_dim=16, sliding_window=16, query_pre_attn_scalar=20,
        rope_parameters=dict(full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0),
                             sliding_attention=dict(rope_type="default", rope_theta=10000.0)), **COMMON)),
}


def randomize(model, gain_is_offset):
    """Weights large enough that attention is far from uniform and every part of the graph matters."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "norm" in name:
                p.copy_(torch.randn_like(p) * 0.3 + (0.0 if gain_is_offset else 1.0))
            elif name.endswith("bias"):
                p.copy_(torch.randn_like(p) * 0.5)
            elif "embed_tokens" in name:
                p.copy_(torch.randn_like(p) * (0.2 if gain_is_offset else 1.0))
            else:
                p.copy_(torch.randn_like(p) * 1.5 / p.shape[1] ** 0.5)


def make(name, dtype, config, out_dir):
    torch.manual_seed(sum(name.encode()))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    randomize(model, name.startswith("gemma"))
    model = model.to(dtype)
    model.save_pretrained(out_dir)
    # The stored weights are the truth: compute from what a reader gets.
    model = AutoModelForCausalLM.from_pretrained(out_dir, attn_implementation="eager", dtype=torch.float32).eval()
    expected = {}
    for key, count in (("a", 24), ("b", 70)):
        ids = torch.randint(3, config.vocab_size, (1, count))
        ids[0, 0] = 1
        with torch.no_grad():
            result = model(ids, output_hidden_states=True, use_cache=False)
        expected["ids_" + key] = ids[0].to(torch.int32)
        expected["logits_" + key] = result.logits[0].contiguous()
        if key == "a":
            # transformers applies the final norm to its last entry; the others are plain residuals.
            expected["hidden_a"] = torch.stack([h[0] for h in result.hidden_states[:-1]]).contiguous()
    save_file(expected, str(out_dir / "expected.safetensors"), metadata={"format": "pt"})
    spread = expected["logits_b"].std().item()
    print(f"{name}: logits std {spread:.3f}, max {expected['logits_b'].abs().max().item():.3f}")


def convert(out_dir, dtype, llama_cpp):
    sys.path[:0] = [str(llama_cpp), str(llama_cpp / "gguf-py")]
    import gguf
    from conversion import ModelBase, get_model_class

    hparams = ModelBase.load_hparams(out_dir, False)
    model_class = get_model_class(hparams["architectures"][0])
    model_class.set_vocab = lambda self: None
    file_type = gguf.LlamaFileType.ALL_F32 if dtype == torch.float32 else gguf.LlamaFileType.MOSTLY_BF16
    # The Gemma converter counts the tokens of a tokenizer.json to cut padding rows off the embedding.
    tokenizer = out_dir / "tokenizer.json"
    tokenizer.write_text(json.dumps(
        {"model": {"vocab": {str(i): i for i in range(hparams["vocab_size"])}}, "added_tokens": []}))
    instance = model_class(out_dir, file_type, out_dir / "model.gguf")
    instance.write()
    tokenizer.unlink()


def main():
    out = pathlib.Path(sys.argv[1])
    for name, (dtype, config) in CASES.items():
        directory = out / name
        directory.mkdir(parents=True, exist_ok=True)
        make(name, dtype, config, directory)
        (directory / "generation_config.json").unlink(missing_ok=True)
        if len(sys.argv) > 2 and name in ("llama", "llama_bias", "qwen3", "gemma3"):
            convert(directory, dtype, pathlib.Path(sys.argv[2]))


if __name__ == "__main__":
    main()
