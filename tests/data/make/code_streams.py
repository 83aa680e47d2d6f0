"""Prints the words of tests/formats/quant_format_test.cc: codes of 2 to 6 bits as one little-endian bit stream, packed by
numpy.packbits (numpy 2.4)."""
import numpy

COUNT = 37

for bits in (2, 3, 4, 5, 6):
    unsigned = (numpy.arange(COUNT) * 7 + 3) % (1 << bits)
    words = -(-COUNT * bits // 32)
    whole = words * 32 // bits  # elements of padding hold code 0, what is left of the last word zero bits
    unsigned = numpy.concatenate([unsigned, numpy.full(whole - COUNT, 1 << (bits - 1))])
    stream = (unsigned[:, None] >> numpy.arange(bits) & 1).astype(numpy.uint8).ravel()
    stream = numpy.concatenate([stream, numpy.zeros(words * 32 - stream.size, numpy.uint8)])
    packed = numpy.packbits(stream, bitorder="little").view("<u4")
    print(bits, ", ".join(f"0x{word:08x}" for word in packed))
