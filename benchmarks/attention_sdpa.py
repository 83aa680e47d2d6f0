#!/usr/bin/env python3
"""Decode attention over quantized pages beside PyTorch's scaled_dot_product_attention in bf16, by turns.

usage: attention_sdpa.py ATTENTION_BENCH [--sequences 16] [--context 8192] [--heads 32/8] [--rounds 7] [--commit C]

For developers; needs PyTorch with CUDA. Prints tokens and microseconds of every form, and with --commit lines for
benchmarks/history/<device>.csv. SDPA in three ways, each with every backend that takes it: enable_gqa, keys and
values expanded to all heads, and the heads of a group as query rows of one head. The fastest is the peer.
"""
import argparse
import statistics
import subprocess
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

HEAD_DIM = 128
LAUNCHES = 20


def timed(run):
    run()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(LAUNCHES):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1e3 / LAUNCHES


def peers(args, heads, kv_heads):
    make = lambda *shape: torch.randn(*shape, device="cuda", dtype=torch.bfloat16)
    q = make(args.sequences, heads, 1, HEAD_DIM)
    k, v = (make(args.sequences, kv_heads, args.context, HEAD_DIM) for _ in range(2))
    wide_k, wide_v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
    rows = q.view(args.sequences, kv_heads, heads // kv_heads, HEAD_DIM)
    ways = {
        "enable_gqa": lambda: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        "expanded": lambda: F.scaled_dot_product_attention(q, wide_k, wide_v),
        "heads as rows": lambda: F.scaled_dot_product_attention(rows, k, v),
    }
    found = {}
    for way, run in ways.items():
        for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH):
            def call(run=run, backend=backend):
                with sdpa_kernel(backend):
                    return run()
            try:
                call()
            except RuntimeError:
                continue
            found[f"sdpa {way}, {backend.name.split('_')[0].lower()}"] = call
    return found


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("--sequences", type=int, default=16)
    parser.add_argument("--context", type=int, default=8192)
    parser.add_argument("--heads", default="32/8")
    parser.add_argument("--splits", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--commit")
    args = parser.parse_args()
    heads, kv_heads = map(int, args.heads.split("/"))
    calls = peers(args, heads, kv_heads)
    ours = subprocess.Popen(
        [args.bench, "--sequences", str(args.sequences), "--context", str(args.context), "--heads", args.heads,
         "--splits", str(args.splits)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    times, cache = {}, {}
    for turn in range(args.rounds + 1):
        for name, call in calls.items():
            times.setdefault(name, []).append(timed(call))
        torch.cuda.synchronize()
        print(file=ours.stdin, flush=True)
        while line := ours.stdout.readline().strip():
            name, size, us, splits = line.split()
            times.setdefault(f"{name}, {splits} splits", []).append(float(us))
            cache[f"{name}, {splits} splits"] = int(size)
        if ours.poll() is not None:
            sys.exit("attention_bench ended")
    ours.stdin.close()
    medians = {name: statistics.median(us[1:]) for name, us in times.items()}
    named = [us for name, us in medians.items() if name.startswith("sdpa") and "rows" not in name]
    peer, strongest = min(named), min(us for name, us in medians.items() if name.startswith("sdpa"))
    bf16_bytes = 4 * args.sequences * args.context * kv_heads * HEAD_DIM
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}: {args.sequences} sequences of {args.context}, "
          f"{heads}/{kv_heads} heads of {HEAD_DIM}, medians of {args.rounds} rounds")
    print(f"{'':44}{'tokens/s':>10}{'us':>10}{'GB/s':>8}{'of SDPA':>9}{'of fastest':>11}")
    for name, us in sorted(medians.items(), key=lambda item: item[1]):
        size = cache.get(name, bf16_bytes)
        print(f"{name:44}{args.sequences / us * 1e6:10.0f}{us:10.2f}{size / us * 1e-3:8.0f}{us / peer:9.3f}"
              f"{us / strongest:11.3f}")
    if not args.commit:
        return
    ops = 4 * args.sequences * args.context * heads * HEAD_DIM
    for name, us in medians.items():
        size = cache.get(name, bf16_bytes)
        words = name.replace(",", "")
        print(f"csv {args.commit},attention {words},{args.sequences},{args.context},{HEAD_DIM},0,{us:.2f},{size / us * 1e-3:.0f},,"
              f"{ops / us * 1e-6:.1f},{peer / us:.3f}")


main()
