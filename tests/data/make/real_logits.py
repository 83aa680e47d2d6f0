#!/usr/bin/env python3
"""Float32 logits of a real GGUF model, computed by transformers from the dequantized weights.

usage: real_logits.py MODEL.gguf LLAMA_TOKENIZE OUT.safetensors

Two prompts of 64 tokens, ids from llama.cpp's llama-tokenize (transformers rebuilds some tokenizers of GGUF files
wrongly, while its weights and graphs are right). Per prompt p in a, b:
  ids_p       int32 [64]
  positions   int32 [4]
  logits_p    float32 [4, V]  the first V = 8192 logits at those positions
  max_p, argmax_p, lse_p      float32 / int32 / float32 [64]: largest logit, its id, log(sum(exp(logits)))
  nll_p       float32 [63]    -log p(next token)

Made with torch 2.11, transformers 5.24, gguf 0.19; llama.cpp of the commit named in the peers' page.
"""
import json
import os
import pathlib
import subprocess
import sys

import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

PROMPTS = {
    "a": "The lighthouse stood at the end of a narrow causeway that the sea covered twice a day. For sixty years its "
         "keeper had written down the hour of every tide, the weight of the oil that was burnt, and the names of the "
         "ships that passed, and in all those years nobody had ever asked to read what he wrote in the seventeen "
         "books.",
    "b": "def mean(values):\n    if not values:\n        raise ValueError(\"no values\")\n    return sum(values) / "
         "len(values)\n\n\nIn 1854, John Snow mapped 578 deaths around a pump in Broad Street, London; the café next "
         "door - \"The Newcastle\" - had lost none of its 70 men, who drank beer. What follows from that?",
}
LENGTH = 64
POSITIONS = [0, 7, 31, 63]
STORED = 8192


def tokenize(binary, model, text):
    out = subprocess.run([binary, "-m", model, "--ids", "--log-disable", "-p", text, "--no-escape"],
                         capture_output=True, check=True, text=True).stdout
    return json.loads(out.strip().splitlines()[-1])


def main():
    model_path, binary, out_path = sys.argv[1:4]
    torch.set_num_threads(int(os.environ.get("THREADS", "2")))
    path = pathlib.Path(model_path)
    model = AutoModelForCausalLM.from_pretrained(str(path.parent), gguf_file=path.name, dtype=torch.float32,
                                                 attn_implementation="eager").eval()
    result = {"positions": torch.tensor(POSITIONS, dtype=torch.int32)}
    for key, text in PROMPTS.items():
        ids = tokenize(binary, model_path, text)
        assert len(ids) >= LENGTH, len(ids)
        ids = torch.tensor([ids[:LENGTH]])
        with torch.no_grad():
            logits = model(ids, use_cache=False).logits[0].double()
        lse = torch.logsumexp(logits, -1)
        result["ids_" + key] = ids[0].to(torch.int32)
        result["logits_" + key] = logits[POSITIONS, :STORED].float().contiguous()
        result["max_" + key] = logits.max(-1).values.float()
        result["argmax_" + key] = logits.argmax(-1).to(torch.int32)
        result["lse_" + key] = lse.float()
        result["nll_" + key] = (lse[:-1] - logits[range(LENGTH - 1), ids[0, 1:]]).float()
        print(key, "mean nll", result["nll_" + key].mean().item(), "max", logits.abs().max().item())
    save_file(result, out_path, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
