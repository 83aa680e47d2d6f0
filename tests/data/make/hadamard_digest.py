#!/usr/bin/env python3
"""Prints the SHA-256 of all Hadamard tables (tests/formats/hadamard_test.cc), built from the definitions in
formats/base/hadamard.h by other means: characters by Euler's criterion, Kronecker products, circulants as rolled rows."""
import hashlib

WILLIAMSON = {12: (2, 1, (1, 0, 0, 0)), 52: (2, 6, (1, 14, 21, 37)), 92: (5, 11, (15, 699, 860, 1559)), 172: (3, 7, (15, 38, 58, 108))}


def prime(n):
    return n > 1 and all(n % d for d in range(2, int(n**0.5) + 1))


def kron(a, b):
    return [[x * y for x in ra for y in rb] for ra in a for rb in b]


def jacobsthal(q):
    def chi(a):
        return 0 if a % q == 0 else (1 if pow(a, (q - 1) // 2, q) == 1 else -1)

    return [[chi(i - j) for j in range(q)] for i in range(q)]


def bordered(corner, q):
    return [[0] + [1] * q] + [[corner] + row for row in jacobsthal(q)]


def add(a, b):
    return [[x + y for x, y in zip(ra, rb)] for ra, rb in zip(a, b)]


def identity(n):
    return [[int(i == j) for j in range(n)] for i in range(n)]


def williamson(order):
    p = order // 4
    generator, cosets, bits = WILLIAMSON[order]
    circulants = []
    for mask in bits:
        row = [1] * p
        for e in range(p - 1):
            row[pow(generator, e, p)] = 1 if mask >> (e % cosets) & 1 else -1
        assert all(row[d] == row[-d % p] for d in range(p))
        circulants.append([row[-i:] + row[:-i] if i else row for i in range(p)])
    a, b, c, d = circulants
    minus = lambda m: [[-x for x in row] for row in m]
    array = [[a, b, c, d], [minus(b), a, minus(d), c], [minus(c), d, a, minus(b)], [minus(d), minus(c), b, a]]
    return [sum((block[i] for block in blocks), []) for blocks in array for i in range(p)]


def table(n):
    if n & (n - 1) == 0:
        h = [[1]]
        while len(h) < n:
            h = kron([[1, 1], [1, -1]], h)
        return h
    if n in WILLIAMSON:
        return williamson(n)
    if prime(n - 1) and (n - 1) % 4 == 3:
        return add(identity(n), bordered(-1, n - 1))
    q = n // 2 - 1
    if n % 2 == 0 and prime(q) and q % 4 == 1:
        return add(kron(bordered(1, q), [[1, 1], [1, -1]]), kron(identity(q + 1), [[1, -1], [-1, -1]]))
    return None


digest = hashlib.sha256()
orders = []
for order in range(1, 257):
    h = table(order)
    if h is None:
        continue
    assert all(sum(x * y for x, y in zip(h[0], row)) == (order if i == 0 else 0) for i, row in enumerate(h))
    orders.append(order)
    digest.update(bytes(x & 0xFF for row in h for x in row))
print(len(orders), digest.hexdigest())
