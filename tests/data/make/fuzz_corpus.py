"""Writes the seeds of the fuzz targets into tests/fuzz/corpus: small valid files of each kind.

usage: fuzz_corpus.py PATH_OF_SPIKEFOLD     (zstd must be installed)
"""
import json
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
CORPUS = ROOT / "fuzz" / "corpus"
DATA = ROOT / "data"


def put(target, name, data):
    folder = CORPUS / target
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def safetensors(tensors, metadata=None):
    header, data = {}, b""
    if metadata:
        header["__metadata__"] = metadata
    for name, dtype, shape, raw in tensors:
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + data


def string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(kind, v):
    formats = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q", 12: "<d"}
    return string(v) if kind == 8 else struct.pack(formats[kind], v)


def gguf(keys, tensors):
    out = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for name, kind, v in keys:
        out += string(name)
        if isinstance(v, list):
            out += struct.pack("<IIQ", 9, kind, len(v)) + b"".join(value(kind, e) for e in v)
        else:
            out += struct.pack("<I", kind) + value(kind, v)
    data = b""
    for name, shape, kind, raw in tensors:
        out += string(name) + struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", n) for n in shape)
        out += struct.pack("<IQ", kind, len(data))
        data += raw + b"\0" * (-len(raw) % 32)
    return out + b"\0" * (-len(out) % 32) + data


def byte_tokenizer(letters):
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    vocab = {c: i for i, c in enumerate(letters)}
    vocab["ab"] = len(vocab)
    return {
        "version": "1.0",
        "added_tokens": [{"id": len(vocab), "content": "<s>", "special": True}],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": r"\p{N}{1,3}| ?\p{L}+|\s+(?!\S)"}, "behavior": "Isolated", "invert": False},
            level]},
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b"]},
    }


def tiny_model(folder):
    """One layer of width 8."""
    rng = random.Random(1)
    letters = "abcdefghijklmnopqrstuvwxyz0123Ġ"
    tokenizer = byte_tokenizer(letters)
    vocab = len(letters) + 2
    d, ff, kv = 8, 16, 4
    shapes = {"model.embed_tokens": [vocab, d], "model.norm": [d], "lm_head": [vocab, d]}
    layer = {"self_attn.q_proj": [d, d], "self_attn.k_proj": [kv, d], "self_attn.v_proj": [kv, d],
             "self_attn.o_proj": [d, d], "mlp.gate_proj": [ff, d], "mlp.up_proj": [ff, d],
             "mlp.down_proj": [d, ff], "input_layernorm": [d], "post_attention_layernorm": [d]}
    shapes.update({"model.layers.0." + name: shape for name, shape in layer.items()})
    tensors = []
    for name, shape in sorted(shapes.items()):
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        raw = b"".join(struct.pack("<f", rng.gauss(0, 0.3)) for _ in range(count))
        tensors.append((name + ".weight", "F32", shape, raw))
    config = {"architectures": ["LlamaForCausalLM"], "hidden_size": d, "intermediate_size": ff,
              "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": vocab,
              "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
              "rope_scaling": {"rope_type": "linear", "factor": 2.0}}
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(safetensors(tensors, {"format": "pt"}))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))


def main():
    tool = pathlib.Path(sys.argv[1]).resolve()
    shutil.rmtree(CORPUS, ignore_errors=True)
    four = struct.pack("<f", 1)
    put("st_header", "two", safetensors([("a", "F32", [1], four), ("b", "BF16", [2, 0], b"")], {"format": "pt"}))
    put("st_header", "types", safetensors([("q", "I8", [3], b"abc"), ("w", "F16", [1, 2], four), ("s", "F64", [], four * 2)]))
    put("st_header", "extra", safetensors([("a", "U8", [1], b"x")]).replace(b'"shape"', b'"x":0,"shape"')[8:])
    put("st_index", "both", '{"metadata":{"total_size":8},"weight_map":{"ta":"a.safetensors","tb":"b.safetensors"}}')
    put("st_index", "parent", '{"weight_map":{"ta":"../a.safetensors"}}')
    scalars = [("general.architecture", 8, "llama"), ("u8", 0, 1), ("i8", 1, -1), ("u16", 2, 2), ("i16", 3, -2),
               ("general.alignment", 4, 32), ("i32", 5, -3), ("f32", 6, 0.5), ("bool", 7, 1), ("u64", 10, 1 << 63),
               ("i64", 11, -4), ("f64", 12, 0.25), ("a8", 8, ["x", "yz"]), ("a6", 6, [1.0, 2.0]), ("a7", 7, [0, 1])]
    put("gguf", "all_types", gguf(scalars, [("t", [8], 0, four * 8), ("q", [32, 2], 2, b"\1" * 36)]))
    pieces = ["<unk>", "<s>", "</s>", "▁", "H", "e", "l", "o", "▁He", "ll", "<0x0A>", "<0xFF>"]
    llama = [("general.architecture", 8, "llama"), ("llama.context_length", 4, 64), ("llama.embedding_length", 4, 8),
             ("llama.block_count", 4, 1), ("llama.feed_forward_length", 4, 16), ("llama.attention.head_count", 4, 2),
             ("llama.attention.head_count_kv", 4, 1), ("llama.attention.layer_norm_rms_epsilon", 6, 1e-5),
             ("llama.rope.freq_base", 6, 10000.0), ("tokenizer.ggml.model", 8, "llama"),
             ("tokenizer.ggml.tokens", 8, pieces), ("tokenizer.ggml.scores", 6, [float(-i) for i in range(len(pieces))]),
             ("tokenizer.ggml.token_type", 5, [2, 3, 3, 1, 1, 1, 1, 1, 1, 1, 6, 6]),
             ("tokenizer.ggml.bos_token_id", 4, 1), ("tokenizer.ggml.eos_token_id", 4, 2)]
    put("gguf", "sentencepiece", gguf(llama, []))
    bpe = [("general.architecture", 8, "llama"), ("tokenizer.ggml.model", 8, "gpt2"), ("tokenizer.ggml.pre", 8, "smollm"),
           ("tokenizer.ggml.tokens", 8, ["<s>", "H", "e", "He", "Ġ", "1"]), ("tokenizer.ggml.merges", 8, ["H e"]),
           ("tokenizer.ggml.token_type", 5, [3, 1, 1, 1, 1, 1]), ("tokenizer.ggml.bos_token_id", 4, 0)]
    put("gguf", "byte_level", gguf(bpe, []))
    rng = random.Random(2)
    for kind, size in {0: 4, 1: 2, 2: 18, 3: 20, 6: 22, 7: 24, 8: 34, 12: 144, 13: 176, 14: 210, 30: 2}.items():
        put("gguf_blocks", f"type{kind}", bytes([kind]) + rng.randbytes(2 * size))
    byte_level = json.dumps(byte_tokenizer("abcdefghij 0123Ġ"))
    put("tokenizer_json", "byte_level", byte_level + "\0ab 123  x<s>")
    metaspace = {"added_tokens": [{"id": 0, "content": "<unk>", "special": True}],
                 "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
                 "pre_tokenizer": None, "post_processor": None,
                 "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                             {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
                 "model": {"type": "BPE", "unk_token": "<unk>", "fuse_unk": True, "byte_fallback": True,
                           "vocab": {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "▁a": 4, "<0x0A>": 5, "<0xC3>": 6}, "merges": [["▁", "a"]]}}
    put("tokenizer_json", "metaspace", json.dumps(metaspace) + "\0a b\nÃ")
    put("tokenizer_json", "backtracking", byte_level.replace(json.dumps(r"\p{N}{1,3}| ?\p{L}+|\s+(?!\S)"), '"(a+)+$"') + "\0" + "a" * 60 + "b")
    put("tokenize", "words", "The capital  of\tFrance is 12345, isn't it?\r\n\n  ")
    put("tokenize", "scripts", "naïve 你好 こんにちは 🎉‍ \u0301\u180e <|begin_of_text|></s>")
    put("tokenize", "bytes", b"a\xff\xc3(\xed\xa0\x80\xf4\x90\x80\x80\0z")
    for family in ["llama", "llama_bias", "mistral", "qwen2", "qwen3", "gemma3"]:
        put("config_json", family, (DATA / "tiny" / family / "config.json").read_bytes())
    put("recipe", "small", '{"scheme":"w4a16"}')
    put("recipe", "large", '{"scheme":"w4a8","group_size":32,"outliers":"keep","keep":["*.layers.1.*"],"head_bits":8,"seed":7}')
    put("pack_round_trip", "bits4", bytes(range(64)))
    put("pack_round_trip", "bits3", b"\1" + rng.randbytes(77))
    with tempfile.TemporaryDirectory() as name:
        here = pathlib.Path(name)
        tiny_model(here / "m")
        (here / "text").write_text("".join(rng.choice("abcdefgh ") for _ in range(400)))

        def run(*arguments):
            subprocess.run([str(tool), *arguments], check=True, cwd=here, stdout=subprocess.DEVNULL)

        run("scan", "m", "-o", "scan", "--text", "text", "--windows", "2", "--length", "16")
        run("plan", "m", "--scan", "scan", "--scheme", "w8a8-static", "-o", "plan.json")
        run("quantize", "m", "--scan", "scan", "--scheme", "w8a8-static", "--kv", "8", "-o", "q")
        put("outliers", "tiny", (here / "scan/outliers.json").read_bytes())
        put("plan", "tiny", (here / "plan.json").read_bytes())
        put("sidecar", "tiny", (here / "q/spikefold.json").read_bytes())
        raw = subprocess.run(["zstd", "-dc", here / "scan/scan.spike"], check=True, stdout=subprocess.PIPE).stdout
        put("scan_spike", "tiny", raw)
        (here / "short").write_bytes(b"abc" * 50)
        frame = subprocess.run(["zstd", "-c", here / "short"], check=True, stdout=subprocess.PIPE).stdout
        put("zstd_cache", "short", frame)
        put("zstd_cache", "two", frame * 2)
        put("zstd_cache", "bomb", bytes.fromhex("28b52ffde4") + struct.pack("<Q", 1 << 23) + b"\3\0\4x" * 8)
    # A journal's hashes are XXH3, which Python lacks; the fuzzer's harness adds records itself.
    put("journal", "empty_object", "0000000000000000 {}\n")


main()
