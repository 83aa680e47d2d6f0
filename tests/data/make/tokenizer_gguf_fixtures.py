#!/usr/bin/env python3
"""Turns the small tokenizer.json fixtures into GGUF vocabularies and records what llama.cpp makes of the texts.

usage: tokenizer_gguf_fixtures.py LLAMA_IDS WIKI_TEST_RAW DIR SMOLLM2_GGUF GEMMA3_GGUF

LLAMA_IDS is llama_ids.cc, compiled. DIR holds strings.bin and the *.tokenizer.json of tokenizer_json_fixtures.py. Writes
DIR/FAMILY.vocab.gguf and DIR/expected_gguf.json: per model, text and parse_special the number of ids and the SHA-256 of
LLAMA_IDS's output, and the ids of a few strings. Needs the PyPI package gguf 0.19.
"""
import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile

import gguf

SHOWN = ["Hello world! 123", "It's 'LL 3,000", " \n\n x\t", "\u00e9e\u0301 \u4e2d\u6587 \U0001F600", "<|im_start|>a</s> b", "\u2581the \u2581"]


def write_vocab(path, data, model, pre):
    vocab = dict(data["model"]["vocab"])
    kinds = {t: gguf.TokenType.NORMAL for t in vocab}
    for token in data["added_tokens"]:
        vocab[token["content"]] = token["id"]
        kinds[token["content"]] = gguf.TokenType.CONTROL if token["special"] else gguf.TokenType.USER_DEFINED
    tokens = sorted(vocab, key=vocab.get)
    merges = data["model"]["merges"]
    merges = [m if isinstance(m, str) else " ".join(m) for m in merges]
    w = gguf.GGUFWriter(path, "llama")
    w.add_tokenizer_model(model)
    w.add_tokenizer_pre(pre)
    w.add_token_list(tokens)
    if model == "llama":
        for t in tokens:
            if len(t) == 6 and t.startswith("<0x"):
                kinds[t] = gguf.TokenType.BYTE
        kinds["<unk>"] = gguf.TokenType.UNKNOWN
        rank = {m.replace(" ", ""): -float(i) for i, m in reversed(list(enumerate(merges)))}
        w.add_token_scores([rank.get(t, -1e6) for t in tokens])
        w.add_unk_token_id(0)
        w.add_bos_token_id(1)
        w.add_eos_token_id(2)
    else:
        w.add_token_merges(merges)
    w.add_token_types([kinds[t] for t in tokens])
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()


def ids_of(oracle, model, path, form, parse_special):
    out = subprocess.run([oracle, model, path, form, str(int(parse_special))], stdout=subprocess.PIPE, check=True).stdout
    pos, rows = 0, []
    while pos < len(out):
        n, = struct.unpack_from("<i", out, pos)
        assert n >= 0, "the oracle refused a string"
        rows.append(list(struct.unpack_from("<%di" % n, out, pos + 4)))
        pos += 4 + 4 * n
    return {"ids": sum(map(len, rows)), "sha256": hashlib.sha256(out).hexdigest()}, rows


def main():
    oracle, wiki, where, smollm2, gemma3 = sys.argv[1:]
    models = {"smollm2": smollm2, "gemma3": gemma3}
    for name, model, pre in (("gpt2", "gpt2", "gpt-2"), ("llama3", "gpt2", "llama-bpe"), ("qwen2", "gpt2", "qwen2"), ("llama2", "llama", "default")):
        path = os.path.join(where, name + ".vocab.gguf")
        write_vocab(path, json.load(open(os.path.join(where, name + ".tokenizer.json"), encoding="utf-8")), model, pre)
        models[name] = path
    with tempfile.NamedTemporaryFile() as f:
        for s in SHOWN:
            f.write(struct.pack("<I", len(s.encode())) + s.encode())
        f.flush()
        out = {}
        for name, path in models.items():
            row = {}
            if name in ("smollm2", "gemma3"):
                row["wiki.test.raw"], _ = ids_of(oracle, path, wiki, "text", False)
            for parse_special in (False, True):
                row["parsed" if parse_special else "plain"], _ = ids_of(oracle, path, os.path.join(where, "strings.bin"), "strings", parse_special)
            _, rows = ids_of(oracle, path, f.name, "strings", True)
            row["shown"] = [[s, ids] for s, ids in zip(SHOWN, rows)]
            out[name] = row
    with open(os.path.join(where, "expected_gguf.json"), "w", encoding="utf-8") as f:
        json.dump(out, f, indent=1, ensure_ascii=True)
        f.write("\n")


main()
