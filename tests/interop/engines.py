#!/usr/bin/env python3
"""Runs exported SmolLM2 in the engines that it was exported for, and compares what they say with what Spikefold says.

    engines.py llama.cpp BIN_DIR    GGUF: llama.cpp's perplexity against ours, float32 rows of keys and values
    engines.py transformers         compressed-tensors: perplexity against ours; logits against those of the same values as a bfloat16 model

From the repository's root, with build/spikefold and `make models`. Codes are 4 bits in groups of 64 to the nearest, with zero points and without,
so that no scan is needed and a mistake of one code or scale shows. Exit status 1: further apart than LIMIT.

    pip install torch transformers gguf compressed-tensors==0.20.1
"""
import json
import math
import pathlib
import re
import subprocess
import sys
import tempfile

MODEL, TEXT, CHUNKS = "models/smollm2-135m-instruct-q4_1.gguf", "tests/data/wiki.test.raw", 6
LIMIT = 0.002  # of the perplexity
QUANTIZE = ["--scheme", "w4a16", "--rotate", "none", "--outliers", "none", "--rounding", "nearest", "--weight-scales", "absmax"]


def run(*arguments):
    done = subprocess.run([str(a) for a in arguments], capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{arguments}: {done.stderr}")
    return done.stdout + done.stderr if arguments[0] != "build/spikefold" else done.stdout


def ours(model):
    out = run("build/spikefold", "eval", model, "--reference", MODEL, "--text", TEXT, "--protocol", "llamacpp", "--windows", CHUNKS, "--json")
    return json.loads(out)["ppl"]


def verdict(engine, theirs, own):
    apart = theirs / own - 1
    print(f"{engine}: perplexity {theirs:.4f} there, {own:.4f} here: {100 * apart:+.4f} %", flush=True)
    return abs(apart) <= LIMIT


def llama_cpp(work, bin_dir):
    run("build/spikefold", "quantize", MODEL, "-o", work / "q", "--target", "llamacpp", *QUANTIZE)
    run("build/spikefold", "export", work / "q", "--to", "gguf", "-o", work / "q.gguf")
    # Decoded by llama.cpp itself: its 4-bit kernels also round activations.
    run(f"{bin_dir}/llama-quantize", "--allow-requantize", work / "q.gguf", work / "f32.gguf", "F32")
    out = run(f"{bin_dir}/llama-perplexity", "-m", work / "f32.gguf", "-f", TEXT, "-c", 512, "--chunks", CHUNKS, "-t", 2,
              "-ctk", "f32", "-ctv", "f32", "-fa", "off")
    return verdict("llama.cpp", float(re.search(r"PPL = ([\d.]+)", out)[1]), ours(work / "q"))


def transformers(work):
    # compressed-tensors 0.20.1 makes room for zero points as they are before packing, so transformers 5.24 loads packed ones only where it
    # dequantizes each weight as it is read.
    return all([transformers_with(work / "none", "none", {}),
                transformers_with(work / "weights", "weights", {"dequantize": True})])


def transformers_with(work, zero_points, how):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils.quantization_config import CompressedTensorsConfig
    work.mkdir()
    run("build/spikefold", "quantize", MODEL, "-o", work / "q", "--target", "vllm", "--zero-points", zero_points, *QUANTIZE)
    for form in ("compressed-tensors", "safetensors"):
        run("build/spikefold", "export", work / "q", "--to", form, "-o", work / form)
    torch.set_num_threads(2)
    path = pathlib.Path(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
    ids = tokenizer(open(TEXT, encoding="utf-8").read()[:40000], add_special_tokens=False).input_ids
    logits = {}
    for form in ("compressed-tensors", "safetensors"):
        extra = {"quantization_config": CompressedTensorsConfig(**how)} if how and form == "compressed-tensors" else {}
        model = AutoModelForCausalLM.from_pretrained(str(work / form), dtype=torch.float32, **extra)
        with torch.no_grad():
            logits[form] = [model(torch.tensor([ids[c * 512:(c + 1) * 512]])).logits[0] for c in range(CHUNKS)]
    nll = 0.0
    for c, chunk in enumerate(logits["compressed-tensors"]):
        targets = torch.tensor(ids[c * 512 + 257:(c + 1) * 512])
        nll += torch.nn.functional.cross_entropy(chunk[256:511].double(), targets, reduction="sum").item()
    pairs = list(zip(logits["compressed-tensors"], logits["safetensors"]))
    apart = max((a - b).abs().max().item() for a, b in pairs) / max(a.abs().max().item() for a, _ in pairs)
    name = f"transformers, zero points {zero_points}"
    print(f"{name}: logits of codes and of bfloat16 values differ by {apart:.1e} of the largest")
    return verdict(name, math.exp(nll / (255 * CHUNKS)), ours(work / "q")) and apart < 0.03


with tempfile.TemporaryDirectory() as directory:
    place = pathlib.Path(directory)
    good = llama_cpp(place, sys.argv[2]) if sys.argv[1] == "llama.cpp" else transformers(place)
sys.exit(0 if good else 1)
