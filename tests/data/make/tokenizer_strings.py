#!/usr/bin/env python3
"""Writes the adversarial strings of the tokenizer tests: u32 little-endian length and bytes, one after another.

usage: tokenizer_strings.py WIKI_TEST_RAW OUT

The first 1,800 strings are valid UTF-8, the last 200 are not (never a sequence above U+10FFFF: llama.cpp refuses
those). Python's own random numbers and the Unicode ranges below only; the file is the same on every machine.
"""
import random
import struct
import sys

SCRIPTS = [
    (0x20, 0x7E), (0xA0, 0xFF), (0x100, 0x24F), (0x250, 0x2AF), (0x300, 0x36F), (0x370, 0x3FF), (0x400, 0x52F),
    (0x531, 0x58F), (0x591, 0x5F4), (0x600, 0x6FF), (0x700, 0x74F), (0x780, 0x7B1), (0x7C0, 0x7FA), (0x900, 0x97F),
    (0x980, 0x9FE), (0xA01, 0xA76), (0xA81, 0xAFF), (0xB01, 0xB77), (0xB82, 0xBFA), (0xC00, 0xC7F), (0xC80, 0xCF2),
    (0xD00, 0xD7F), (0xD81, 0xDF4), (0xE01, 0xE5B), (0xE81, 0xEDF), (0xF00, 0xFDA), (0x1000, 0x109F), (0x10A0, 0x10FF),
    (0x1100, 0x11FF), (0x1200, 0x137C), (0x13A0, 0x13FD), (0x1400, 0x167F), (0x1680, 0x169C), (0x16A0, 0x16F8),
    (0x1780, 0x17F9), (0x1800, 0x18AA), (0x1C80, 0x1C8A), (0x1D00, 0x1DBF), (0x1E00, 0x1EFF), (0x1F00, 0x1FFE),
    (0x2000, 0x206F), (0x2070, 0x209C), (0x20A0, 0x20C0), (0x2100, 0x218B), (0x2190, 0x23FF), (0x2460, 0x24FF),
    (0x2500, 0x27BF), (0x2C60, 0x2C7F), (0x2E00, 0x2E5D), (0x2E80, 0x2FD5), (0x3000, 0x303F), (0x3041, 0x30FF),
    (0x3105, 0x312F), (0x3131, 0x318E), (0x31F0, 0x33FF), (0x3400, 0x34FF), (0x4E00, 0x52FF), (0x9F00, 0x9FFF),
    (0xA000, 0xA48C), (0xA4D0, 0xA4FF), (0xA640, 0xA69F), (0xA720, 0xA7FF), (0xAB30, 0xAB6B), (0xAC00, 0xAFFF),
    (0xE000, 0xE0FF), (0xF900, 0xFAD9), (0xFB00, 0xFB4F), (0xFB50, 0xFDFF), (0xFE00, 0xFE0F), (0xFE20, 0xFE6B),
    (0xFEFF, 0xFEFF), (0xFF01, 0xFFEE), (0xFFF9, 0xFFFD), (0x10000, 0x100FA), (0x10330, 0x1034A), (0x10400, 0x1049D),
    (0x10480, 0x104A9), (0x1123F, 0x11240), (0x11F02, 0x11F59), (0x12000, 0x120FF), (0x13000, 0x130FF),
    (0x13441, 0x13446), (0x1B132, 0x1B155), (0x1D2C0, 0x1D2D3), (0x1D400, 0x1D7FF), (0x1DF25, 0x1DF2A),
    (0x1E030, 0x1E06D), (0x1E4D0, 0x1E4F9), (0x1F000, 0x1F0F5), (0x1F100, 0x1F1FF), (0x1F300, 0x1F64F),
    (0x1F680, 0x1F6FC), (0x1F900, 0x1FAFF), (0x1FBF0, 0x1FBF9), (0x20000, 0x200FF), (0x2EBF0, 0x2EC20),
    (0x31350, 0x31380), (0xE0001, 0xE007F), (0xF0000, 0xF000F), (0x10FFF0, 0x10FFFF),
]
SPACES = [" ", "  ", "   ", "\t", "\n", "\r", "\r\n", "\n\n", "\v", "\f", "\x1c", "\x1f", "\x85", "\u00a0", "\u1680", "\u180e",
          "\u2000", "\u2003", "\u2009", "\u200a", "\u200b", "\u2028", "\u2029", "\u202f", "\u205f", "\u2060", "\u3000", "\ufeff"]
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>", "<unk>", "<pad>", "<bos>", "<eos>", "<mask>", "[multimodal]",
           "<unused0>", "<unused42>", "<unused100>", "<0x0A>", "<0x41>", "<0xFF>", "<0x-1>", "<repo_name>", "<file_sep>",
           "<start_of_turn>", "<end_of_turn>", "<|eot_id|>", "<|begin_of_text|>", "<fim_prefix>", "\u2581", "\u2581\u2581", "\u2581the",
           "\u0120", "\u0120the", "\u010a", "<|im_start", "im_end|>", "<<|im_end|>>", "<table>", "<td>", "</p>", "<h1>"]
EMOJI = ["\U0001F468\u200d\U0001F469\u200d\U0001F467\u200d\U0001F466", "\U0001F44D\U0001F3FD", "\U0001F3F3\ufe0f\u200d\U0001F308",
         "\U0001F1E9\U0001F1EA", "\U0001F1FA", "1\ufe0f\u20e3", "\u2764\ufe0f", "\U0001F9D1\u200d\U0001F680",
         "\U0001F3F4\U000E0067\U000E0062\U000E0065\U000E006E\U000E0067\U000E007F", "\u263a", "\U0001FAE0"]
CONTRACTIONS = ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'RE", "'Ve", "'LL", "'\u017f", "'\u017fs", "\u2019s", "''s", "'", "'x", "'r", "'l"]
NUMBERS = ["0", "12", "123", "1234", "1234567890", "3.14159", "1,000,000", "-5", "\u0661\u0662\u0663", "\u00bd", "\u00b2\u00b3", "\u2167", "\u2460\u2461",
           "\u096a\u096b", "\uff11\uff12", "\U0001D7D8\U0001D7D9", "\u3007", "\u4e00\u4e8c", "1a2b3c", "0x1F"]
CODE = ["def f(x):\n    return x**2\n", "if (a && b) {\n\t\tc++;\n}\r\n", "#include <vector>", "SELECT * FROM t WHERE a='b';", "https://a.b/c?d=e&f=%20#g",
        "{\"k\": [1, 2.5e-3, null]}", "\\n\\t\\\\", "a_b_c camelCase SCREAMING_SNAKE kebab-case", "==========", "----->", "...", "?!?!", "/* */", "$x = `ls`;"]
COMBINING = ["e\u0301", "\u00e9", "a\u0300\u0301\u0302", "\u0301", "n\u0303", "\u1112\u1161\u11ab", "\ud55c", "\u0915\u094d\u0937", "o\u0308\u0304", "\u0344", "\u212b", "\u2126",
             "\uac00\u11a8", "\u0b47\u0b56", "q\u0323\u0307", "q\u0307\u0323", "\ufb01", "\u1e9b\u0323"]
CONTROL = [chr(c) for c in range(32)] + ["\x7f", "\x80", "\x9f", "\u200e", "\u200f", "\u202e", "\ufffe", "\uffff", "\U0001ffff"]


def chars(r, lo, hi, n):
    return "".join(chr(r.randint(lo, hi)) for _ in range(n))


def words(r, text):
    start = r.randrange(len(text) - 200)
    return text[start:start + r.randint(5, 120)]


def mixture(r, text):
    parts = []
    for _ in range(r.randint(2, 14)):
        kind = r.randrange(11)
        if kind == 0:
            parts.append(words(r, text)[:30])
        elif kind == 1:
            parts.append(chars(r, *r.choice(SCRIPTS), r.randint(1, 8)))
        else:
            pool = (SPACES, SPECIAL, EMOJI, CONTRACTIONS, NUMBERS, CODE, COMBINING, CONTROL, SPACES)[kind - 2]
            parts.append(r.choice(pool))
    return "".join(parts)


def valid_strings(r, text):
    yield ""
    for pool in (SPACES, SPECIAL, EMOJI, CONTRACTIONS, NUMBERS, CODE, COMBINING, CONTROL):
        for s in pool:
            yield s
            yield "a" + s + "b"
            yield " " + s + " "
    for lo, hi in SCRIPTS:
        yield chars(r, lo, hi, 24)
        yield " ".join(chars(r, lo, hi, r.randint(1, 6)) for _ in range(6))
    for run in ("a", " ", "\n", "\t", "\r\n", "=", "1", "\u00e9", "\u4e2d", "\U0001F600", "ab", "the ", " \n", "'s", "\u0301", "<", "\u00a0", "\u2581"):
        for n in (2, 3, 5, 16, 31, 32, 33, 64, 257):
            yield run * n
    yield "x" * 3000
    yield " " * 3000
    yield "\n" * 1000


def invalid_strings(r, text):
    fixed = [b"\xff", b"\xc0\x80", b"\xc1\xbf", b"\x80", b"\xbf\xbf", b"\xe2\x82", b"\xe2\x82a", b"\xf0\x9f\x98", b"\xf0\x9f\x98 x", b"\xed\xa0\x80", b"\xed\xbf\xbf!",
             b"\xed\xa0\xbd\xed\xb8\x80", b"\xe0\x80\xaf", b"\xf0\x80\x80\xaf", b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80", b"\xfe\xff", b"abc\xc3", b"\xc3(", b"a\xe4\xb8b",
             b"\xc3\xa9\xc3\xc3\xa9", b"\xf4\x8f\xbf\xbf\xbf", b"<|im_start|>\xff<|im_end|>", b"\xe2\x96", b" \xe2\x96 ", b"\xf5\x80", b"\xf7x"]
    yield from fixed
    while True:
        raw = bytearray(mixture(r, text).encode()[:120])
        for _ in range(r.randint(1, 5)):
            at = r.randrange(len(raw) + 1)
            kind = r.randrange(4)
            if kind == 0:
                raw.insert(at, r.choice([0x80, 0xBF, 0xC0, 0xC3, 0xE2, 0xED, 0xF0, 0xFF]))
            elif kind == 1:
                del raw[at:at + 1]
            elif kind == 2:
                raw = raw[:max(1, at)]
            else:
                raw[at:at] = r.choice(fixed)
        yield bytes(raw)


def above_unicode(raw):
    return any(b == 0xF4 and i + 1 < len(raw) and raw[i + 1] >= 0x90 or 0xF5 <= b <= 0xF7 and i + 3 < len(raw) and
               all(c & 0xC0 == 0x80 for c in raw[i + 1:i + 4]) for i, b in enumerate(raw))


def is_valid(raw):
    try:
        raw.decode()
        return True
    except UnicodeDecodeError:
        return False


def main():
    r = random.Random(20260101)
    text = open(sys.argv[1], encoding="utf-8").read()
    strings = []
    for s in valid_strings(r, text):
        strings.append(s.encode())
    assert len(strings) < 1500, len(strings)
    while len(strings) < 1800:
        strings.append((words(r, text) if r.random() < 0.15 else mixture(r, text)).encode())
    for s in invalid_strings(r, text):
        if len(strings) == 2000:
            break
        if not is_valid(s) and not above_unicode(s):
            strings.append(s)
    with open(sys.argv[2], "wb") as out:
        for s in strings:
            out.write(struct.pack("<I", len(s)) + s)


main()
