#!/usr/bin/env python3
"""Trains one small tokenizer.json per family and records what the `tokenizers` library (0.23.3) makes of the
adversarial strings.

usage: tokenizer_json_fixtures.py CALIBRATION_TEXT STRINGS_BIN OUT_DIR

Writes OUT_DIR/FAMILY.tokenizer.json and OUT_DIR/expected_json.json: per family and per parse_special the SHA-256
of the id stream (for each valid UTF-8 string: i32 count, i32 ids, little-endian), the number of ids, the number of strings
that decode to themselves, and the ids of a few strings.
"""
import hashlib
import json
import os
import random
import struct
import sys

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SHOWN = ["Hello world! 123", "It's 'LL 3,000", " \n\n x\t", "\u00e9e\u0301 \u4e2d\u6587 \U0001F600", "<|im_start|>a</s> b", "\u2581the \u2581", "a tokenless b"]


def byte_level(steps, use_regex):
    bl = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)
    return pre_tokenizers.Sequence(steps + [bl]) if steps else bl


def train(tokenizer, text, vocab_size, initial, special):
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=initial, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(text, trainer)
    return tokenizer


def gpt2(text):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = byte_level([], True)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    return train(t, text, 900, pre_tokenizers.ByteLevel.alphabet(), ["<|endoftext|>"])


def smollm(text):
    t = Tokenizer(models.BPE())
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    t.decoder = decoders.ByteLevel()
    # As the original: bytes that the training text lacks have no token and vanish.
    alphabet = [c for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet())) if i % 11 != 3]
    return train(t, text, 900, alphabet, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<repo_name>"])


def llama3(text):
    t = Tokenizer(models.BPE(ignore_merges=True))
    t.pre_tokenizer = byte_level([pre_tokenizers.Split(Regex(LLAMA3), "isolated")], False)
    t.decoder = decoders.ByteLevel()
    train(t, text, 1000, pre_tokenizers.ByteLevel.alphabet(), [])
    data = json.loads(t.to_str())
    # A token that no merge makes: only ignore_merges finds it.
    data["model"]["vocab"]["\u0120tokenless"] = len(data["model"]["vocab"])
    t = Tokenizer.from_str(json.dumps(data))
    t.add_special_tokens([AddedToken("<|begin_of_text|>", special=True), AddedToken("<|eot_id|>", special=True)])
    bos = t.token_to_id("<|begin_of_text|>")
    t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<|begin_of_text|> $A", pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1", special_tokens=[("<|begin_of_text|>", bos)])])
    return t


def qwen2(text):
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.NFC()
    t.pre_tokenizer = byte_level([pre_tokenizers.Split(Regex(QWEN2), "isolated")], False)
    t.decoder = decoders.ByteLevel()
    t.post_processor = processors.ByteLevel(trim_offsets=False)
    train(t, text, 900, pre_tokenizers.ByteLevel.alphabet(), [])
    t.add_special_tokens([AddedToken("<|endoftext|>", special=True), AddedToken("<|im_start|>", special=True), AddedToken("<|im_end|>", special=True)])
    # Added tokens with every flag; not special, so always looked for.
    t.add_tokens([AddedToken("<table>", lstrip=True, normalized=False), AddedToken("<td>", rstrip=True, normalized=False), AddedToken("</p>", single_word=True, normalized=False),
                  AddedToken("1a2b", normalized=True), AddedToken("o\u0308", normalized=True), AddedToken("<t", normalized=False), AddedToken("ab", single_word=True, normalized=False)])
    return t


BYTES = ["<0x%02X>" % b for b in range(256)]


def spm_train(text, prepend, vocab_size):
    """A vocabulary like SentencePiece's: pieces with the space mark, trained on words with their mark in front."""
    t = Tokenizer(models.BPE())
    t.normalizer = normalizers.Sequence(([normalizers.Prepend("\u2581")] if prepend else []) + [normalizers.Replace(" ", "\u2581")])
    t.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    train(t, text, vocab_size, [], [])
    return json.loads(t.to_str())


def spm(text, special, unk, added, prepend, vocab_size, tail):
    data = spm_train(text, prepend, vocab_size)
    vocab = {}
    for piece in special + BYTES:
        vocab[piece] = len(vocab)
    for piece, _ in sorted(data["model"]["vocab"].items(), key=lambda kv: kv[1]):
        vocab.setdefault(piece, len(vocab))
    data["model"].update(vocab=vocab, unk_token=unk, byte_fallback=True, fuse_unk=True)
    data["added_tokens"] = [{"id": vocab[s], "content": s, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True} for s in special]
    data.update(tail)
    t = Tokenizer.from_str(json.dumps(data))
    t.add_tokens([AddedToken(a, normalized=False) for a in added])
    return t


def llama2(text):
    fallback = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]
    t = spm(text, ["<unk>", "<s>", "</s>"], "<unk>", [], True, 700, {"pre_tokenizer": None, "decoder": {"type": "Sequence", "decoders": fallback}})
    t.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return t


def llama2_metaspace(text):
    """The newer spelling: no normalizer, a Metaspace that marks only the start of the text; incomplete byte tokens, so unknown ones occur."""
    metaspace = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "first", "split": False}
    t = spm(text, ["<unk>", "<s>", "</s>"], "<unk>", [], True, 700, {"normalizer": None, "pre_tokenizer": metaspace, "decoder": metaspace})
    data = json.loads(t.to_str())
    gone = {"<0x%02X>" % b for b in (0xE4, 0x09, 0xCC, 0xF0)}
    data["model"]["vocab"] = {k: v for k, v in data["model"]["vocab"].items() if k not in gone}
    return Tokenizer.from_str(json.dumps(data))


def gemma(text):
    fallback = [{"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]
    return spm(text, ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"], "<unk>", ["\n" * n for n in range(1, 8)] + [" " * n for n in range(2, 8)] + ["<table>", "<td>"], False, 800,
               {"pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}, "decoder": {"type": "Sequence", "decoders": fallback}})


def read_strings(path):
    raw = open(path, "rb").read()
    pos, strings = 0, []
    while pos < len(raw):
        n, = struct.unpack_from("<I", raw, pos)
        strings.append(raw[pos + 4:pos + 4 + n])
        pos += 4 + n
    valid = []
    for s in strings:
        try:
            valid.append(s.decode())
        except UnicodeDecodeError:
            pass
    return valid


def main():
    random.seed(1)
    text = open(sys.argv[1], encoding="utf-8").read()[:400_000].split("\n")
    strings = read_strings(sys.argv[2])
    out = {}
    for make in (gpt2, smollm, llama3, qwen2, llama2, llama2_metaspace, gemma):
        tokenizer = make(text)
        path = os.path.join(sys.argv[3], make.__name__ + ".tokenizer.json")
        data = json.loads(tokenizer.to_str())
        if make in (gpt2, gemma):  # the older spelling of merges
            data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
        with open(path, "w", encoding="utf-8") as f:
            json.dump(data, f, ensure_ascii=False, separators=(",", ":"))
        tokenizer = Tokenizer.from_file(path)
        row = {}
        for parse_special in (False, True):
            tokenizer.encode_special_tokens = not parse_special
            sha, count = hashlib.sha256(), 0
            dump = open(os.environ["DUMP"] + "/%s.%d" % (make.__name__, parse_special), "wb") if "DUMP" in os.environ else None
            for s in strings:
                ids = tokenizer.encode(s, add_special_tokens=False).ids
                stream = struct.pack("<i%di" % len(ids), len(ids), *ids)
                sha.update(stream)
                count += len(ids)
                if dump:
                    dump.write(stream)
            row["parsed" if parse_special else "plain"] = {"ids": count, "sha256": sha.hexdigest()}
            if parse_special:
                row["shown"] = [[s, tokenizer.encode(s, add_special_tokens=False).ids] for s in SHOWN]
        out[make.__name__] = row
    with open(os.path.join(sys.argv[3], "expected_json.json"), "w", encoding="utf-8") as f:
        json.dump({"strings": len(strings), "families": out}, f, indent=1, ensure_ascii=True)
        f.write("\n")


main()
