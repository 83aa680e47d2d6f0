#!/usr/bin/env python3
"""Makes tests/data/rounding/gptq.safetensors: GPTQ in plain numpy (float64), as its paper (2210.17323) has it.

usage: gptq_reference.py OUT_FILE          (numpy, safetensors)
Inverse Hessian, its upper Cholesky factor, one column after the other; static groups; kept columns removed. The order of
rounding is by descending diagonal. No code of the fixture lies within 1e-4 of a tie, so an implementation in float32 must
reproduce all of them.
"""
import sys

import numpy as np
from safetensors.numpy import save_file

N, K, T = 24, 128, 192
CASES = {  # name: bits, symmetric, group, kept columns, seed
    "sym4": (4, True, 32, [], 1),
    "asym3": (3, False, 64, [5, 77], 2),
    "asym2": (2, False, 16, [], 3),
    "sym8": (8, True, K, [127], 4),
}


def bf16(x):
    bits = np.float32(x).view(np.uint32).astype(np.uint64)
    return ((((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16) << 16).astype(np.uint32)).view(np.float32)


def group_scales(w, bits, symmetric):
    """[rows, group] -> scale, zero: nothing clips, zero is an integer of the code range, scales are bf16."""
    lo, hi = (-127 if symmetric and bits == 8 else -2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if symmetric:
        return bf16((np.abs(w).max(axis=1).astype(np.float64) / hi)).astype(np.float64), np.zeros(len(w)), lo, hi
    low, high = np.minimum(w.min(axis=1), 0).astype(np.float64), np.maximum(w.max(axis=1), 0).astype(np.float64)
    scale = bf16((high - low) / (hi - lo)).astype(np.float64)
    return scale, np.clip(np.rint(lo - low / scale), lo, hi), lo, hi


def gptq(w, h, bits, symmetric, group, kept):
    scales, zeros = np.zeros((N, K // group)), np.zeros((N, K // group))
    plain = w.copy()
    plain[:, kept] = 0
    for g in range(K // group):
        scales[:, g], zeros[:, g], lo, hi = group_scales(plain[:, g * group:(g + 1) * group], bits, symmetric)
    free = np.array([j for j in range(K) if j not in kept])
    order = free[np.argsort(-np.diag(h)[free], kind="stable")]
    damped = h[np.ix_(order, order)] + 0.01 * np.mean(np.diag(h)) * np.eye(len(order))
    upper = np.linalg.cholesky(np.linalg.inv(damped)).T
    work, codes = w[:, order].astype(np.float64), np.repeat(zeros, group, axis=1)
    nearest_tie = 1.0
    for j, column in enumerate(order):
        s, z = scales[:, column // group], zeros[:, column // group]
        place = work[:, j] / s + z
        inside = (place > lo - 0.5) & (place < hi + 0.5)
        nearest_tie = min(nearest_tie, *np.abs(np.abs(place[inside] % 1) - 0.5))
        codes[:, column] = np.clip(np.rint(place), lo, hi)
        error = (work[:, j] - s * (codes[:, column] - z)) / upper[j, j]
        work[:, j:] -= np.outer(error, upper[j, j:])
    return codes, scales, zeros, nearest_tie


tensors = {}
for name, (bits, symmetric, group, kept, seed) in CASES.items():
    while True:
        rng = np.random.default_rng(seed)
        mix = rng.standard_normal((K, K)) / np.sqrt(K) + 0.5 * np.eye(K)
        x = ((rng.standard_normal((T, K)) @ mix) * np.exp(rng.standard_normal(K))).astype(np.float32)
        w = rng.standard_normal((N, K)).astype(np.float32)
        h = x.astype(np.float64).T @ x.astype(np.float64)
        codes, scales, zeros, tie = gptq(w, h, bits, symmetric, group, kept)
        if tie > 1e-4:
            break
        seed += 100
    dequantized = np.repeat(scales, group, axis=1) * (codes - np.repeat(zeros, group, axis=1))
    dequantized[:, kept] = w[:, kept]
    error = (w - dequantized).astype(np.float64)
    loss = np.trace(error @ h @ error.T) / np.trace(w.astype(np.float64) @ h @ w.astype(np.float64).T)
    print(f"{name}: nearest tie {tie:.1e}, relative error {loss:.5f}, seed {seed}")
    tensors |= {f"{name}.x": x, f"{name}.w": w, f"{name}.codes": codes.astype(np.int8),
                f"{name}.scales": scales.astype(np.float32), f"{name}.zeros": zeros.astype(np.int8),
                f"{name}.kept": np.array(kept, dtype=np.int32), f"{name}.loss": np.array([loss], dtype=np.float64),
                f"{name}.grid": np.array([bits, symmetric, group], dtype=np.int32)}
save_file(tensors, sys.argv[1])
