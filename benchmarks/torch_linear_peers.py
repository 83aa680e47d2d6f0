#!/usr/bin/env python3
"""PyTorch's products with INT8 and 4-bit weights beside Spikefold's, by turns.

usage: torch_linear_peers.py CUDA_BENCH [--m 1,16,64,1024] [--shape NxK,..] [--rounds 7] [--commit C]

For developers; needs PyTorch with CUDA. torch._int_mm (INT8 codes to int32, without scales; needs more than 16 rows) and
the same with a pass for the scales, torch._weight_int4pack_mm (groups of 128, bf16 rows; "tinygemm") and bf16 torch.mm,
each as a graph of at least 50 launches over weights that exceed the caches, as cuda_bench times its own. Around them
cuda_bench runs for the same shape; both name bf16, by cuBLASLt, which ties the two tables together. With --commit also
prints lines for benchmarks/history/<device>.csv.
"""
import argparse
import csv
import io
import statistics
import subprocess

import torch

LEAST_BYTES = 256 << 20  # of weights that launches take by turns
LEAST_LAUNCHES = 50
GROUP = 128


def recorded(run, copies):
    """A graph of launches run(0), run(1), .., and their number."""
    launches = -(-LEAST_LAUNCHES // copies) * copies
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        run(0)
    side.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(launches):
            run(i % copies)
    return graph, launches


def timed(graph, launches):
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    graph.replay()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) * 1e3 / launches


def contenders(m, n, k):
    """Of each way: its name, the bytes of its weights, how it runs with one of its copies, and how many there are."""
    copies = max(2, -(-LEAST_BYTES // (n * k)))
    x16 = torch.randn(m, k, device="cuda", dtype=torch.bfloat16)
    w16 = torch.randn(copies, n, k, device="cuda", dtype=torch.bfloat16)
    yield "torch bf16 mm", 2 * n * k, lambda i: torch.mm(x16, w16[i].t()), copies
    if m > 16:
        x8 = torch.randint(-127, 128, (m, k), device="cuda", dtype=torch.int8)
        w8 = torch.randint(-127, 128, (copies, n, k), device="cuda", dtype=torch.int8)
        x_scale = torch.rand(m, 1, device="cuda")
        w_scale = torch.rand(1, n, device="cuda")
        yield "torch _int_mm", n * k, lambda i: torch._int_mm(x8, w8[i].t()), copies
        yield ("torch _int_mm + scales", n * k,
               lambda i: (torch._int_mm(x8, w8[i].t()) * x_scale * w_scale).to(torch.bfloat16), copies)
    four = max(2, -(-2 * LEAST_BYTES // (n * k)))
    codes = torch.randint(0, 256, (four, n, k // 2), device="cuda", dtype=torch.uint8)
    packed = [torch._convert_weight_to_int4pack(codes[i], 8) for i in range(four)]
    scales_and_zeros = torch.rand(k // GROUP, n, 2, device="cuda").to(torch.bfloat16)
    yield ("torch _weight_int4pack_mm", n * k // 2 + n * k // GROUP * 4,
           lambda i: torch._weight_int4pack_mm(x16, packed[i], GROUP, scales_and_zeros), four)


def ours(bench, m, n, k):
    """Lines of cuda_bench."""
    only = "w8a8,w4a16" if m <= 16 else "w8a8,w4a16 f32 few,w4a16 f32 many"
    out = subprocess.run([bench, "--m", str(m), "--shape", f"{n}x{k}", "--rounds", "5", "--only", only, "--csv"],
                         check=True, capture_output=True, text=True).stdout
    lines = [line for line in out.splitlines() if line and not line.startswith("#")]
    return {row["kernel"]: float(row["us"]) for row in csv.DictReader(io.StringIO("\n".join(lines)))}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("bench")
    parser.add_argument("--m", default="1,16,64,1024")
    parser.add_argument("--shape", default="4096x4096,28672x4096,4096x14336")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--commit")
    args = parser.parse_args()
    print(f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}, medians of {args.rounds} rounds")
    for shape in args.shape.split(","):
        n, k = map(int, shape.split("x"))
        for m in map(int, args.m.split(",")):
            before = ours(args.bench, m, n, k)
            graphs, size = {}, {}
            for name, weight_bytes, run, copies in contenders(m, n, k):
                try:
                    graphs[name] = recorded(run, copies)
                except RuntimeError as error:
                    print(f"{name}, M={m}: {str(error).splitlines()[0]}")
                    torch.cuda.synchronize()
                    continue
                size[name] = weight_bytes
            times = {name: [] for name in graphs}
            for _ in range(args.rounds + 1):  # the first warms up
                for name, graph in graphs.items():
                    times[name].append(timed(*graph))
            after = ours(args.bench, m, n, k)
            medians = {name: statistics.median(us[1:]) for name, us in times.items()}
            del graphs
            torch.cuda.empty_cache()
            peer = medians["torch bf16 mm"]
            print(f"M={m} {n}x{k}{'':20}{'us':>10}{'over bf16':>11}")
            for name, us in medians.items():
                print(f"  {name:34}{us:10.2f}{peer / us:11.3f}")
                if args.commit:
                    rate, tera = size[name] / us * 1e-3, 2 * m * n * k / us * 1e-6
                    print(f"csv {args.commit},{name},{m},{n},{k},0,{us:.2f},{rate:.0f},,{tera:.1f},{peer / us:.3f}")
            for name in before:
                us = (before[name] + after[name]) / 2
                print(f"  {name:34}{us:10.2f}{(before['bf16'] + after['bf16']) / 2 / us:11.3f}")


main()
