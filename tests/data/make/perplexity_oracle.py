#!/usr/bin/env python3
"""Makes tests/data/oracle/perplexity.json: llama.cpp's perplexity of the two models' float32 forms.

usage: perplexity_oracle.py BIN_DIR MODELS_DIR TEXT >perplexity.json

BIN_DIR holds llama-quantize and llama-perplexity. Each model is dequantized to float32 and run twice: with llama.cpp's default
float16 KV cache, and with a float32 cache without flash attention, which is the form that a float32 forward pass should meet.
"""
import hashlib
import json
import pathlib
import re
import subprocess
import sys
import tempfile

CASES = [("smollm2-135m-instruct-q4_1.gguf", 100, False), ("gemma-3-270m-q4_k_m.gguf", 20, True)]
CACHES = [("f16", []), ("f32", ["-ctk", "f32", "-ctv", "f32", "-fa", "off"])]
PROTOCOL = ("The text is tokenized as a whole and cut into chunks of 512 ids without overlap. Where the model asks for a first token, it "
            "stands before the text and replaces the first id of every further chunk. The logits at positions 256 to 510 of a chunk "
            "(counted from 0) are scored against the ids at 257 to 511: 255 scores a chunk. cumulative[i] is exp(mean NLL) of chunks 0 to i.")


def command(model, chunks, options, text="wiki.test.raw"):
    return ["llama-perplexity", "-m", model, "-f", text, "-c", "512", "--chunks", str(chunks), "-t", "2", *options]


def parse(output):
    cumulative = [float(value) for _, value in re.findall(r"\[(\d+)\]([\d.]+),", output)]
    final = re.search(r"PPL = ([\d.]+) \+/- ([\d.]+)", output)
    return {"final": float(final[1]), "standard_error": float(final[2]), "cumulative": cumulative}


def case(name, model, chunks, first_token, cache, options, output):
    f32 = name.replace(".gguf", ".f32.gguf")
    result = {"model": name, "model_sha256": hashlib.sha256(model.read_bytes()).hexdigest(), "kv_cache": cache, "first_token": first_token,
              "context": 512, "chunks": chunks, "scores_per_chunk": 255,
              "commands": [f"llama-quantize --allow-requantize {name} {f32} F32", " ".join(command(f32, chunks, options))], **parse(output)}
    assert len(result["cumulative"]) == chunks, (name, cache, len(result["cumulative"]))
    return result


def document(text, version, cases):
    return {"oracle": "llama.cpp as vendored in the source distribution of llama-cpp-python 0.3.36, CPU backend", "oracle_version": version,
            "text": text.name, "text_sha256": hashlib.sha256(text.read_bytes()).hexdigest(), "protocol": PROTOCOL, "cases": cases}


def main():
    bin_dir, models, text = map(pathlib.Path, sys.argv[1:4])
    cases = []
    with tempfile.TemporaryDirectory() as scratch:
        for name, chunks, first_token in CASES:
            f32 = pathlib.Path(scratch) / name
            subprocess.run([bin_dir / "llama-quantize", "--allow-requantize", models / name, f32, "F32"], check=True, stdout=sys.stderr)
            for cache, options in CACHES:
                arguments = command(str(f32), chunks, options, str(text))
                run = subprocess.run([bin_dir / arguments[0], *arguments[1:]], check=True, capture_output=True, text=True)
                cases.append(case(name, models / name, chunks, first_token, cache, options, run.stdout + run.stderr))
    version = subprocess.run([bin_dir / "llama-perplexity", "--version"], capture_output=True, text=True)
    json_text = json.dumps(document(text, (version.stdout + version.stderr).strip(), cases), indent=1)
    print(re.sub(r"\[[^\[\]{}]*\]", lambda array: re.sub(r"\s+", " ", array[0]), json_text))  # an array on one line


if __name__ == "__main__":
    main()
