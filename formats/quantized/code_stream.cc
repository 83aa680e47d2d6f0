#include "formats/quantized/code_stream.h"

namespace spikefold {
namespace {

constexpr int kWordBits = 32;

// Bits [at, at + bits) of the stream.
int Element(const int32_t* words, int64_t word_stride, int64_t at, int bits) {
  const int64_t word = at / kWordBits;
  const int offset = static_cast<int>(at % kWordBits);
  uint64_t two = static_cast<uint32_t>(words[word * word_stride]);
  if (offset + bits > kWordBits) {
    two |= uint64_t{static_cast<uint32_t>(words[(word + 1) * word_stride])} << kWordBits;
  }
  return static_cast<int>((two >> offset) & ((1u << bits) - 1));
}

// Codes of widths that divide a word, from all words that are full of codes. Returns their number.
template <int kBits>
int64_t UnpackWords(const int32_t* words, int64_t count, int8_t* codes) {
  constexpr int kPerWord = kWordBits / kBits, kZero = 1 << (kBits - 1);
  constexpr uint32_t kMask = (uint32_t{1} << kBits) - 1;
  const int64_t num_words = count / kPerWord;
  for (int64_t w = 0; w < num_words; ++w) {
    const uint32_t word = static_cast<uint32_t>(words[w]);
    for (int i = 0; i < kPerWord; ++i) {
      codes[w * kPerWord + i] = static_cast<int8_t>(static_cast<int>((word >> (kBits * i)) & kMask) - kZero);
    }
  }
  return num_words * kPerWord;
}

template <int kBits>
int64_t PackWords(const int8_t* codes, int64_t count, int32_t* words) {
  constexpr int kPerWord = kWordBits / kBits, kZero = 1 << (kBits - 1);
  const int64_t num_words = count / kPerWord;
  for (int64_t w = 0; w < num_words; ++w) {
    uint32_t word = 0;
    for (int i = 0; i < kPerWord; ++i) {
      word |= static_cast<uint32_t>(codes[w * kPerWord + i] + kZero) << (kBits * i);
    }
    words[w] = static_cast<int32_t>(word);
  }
  return num_words;
}

}  // namespace

int64_t StreamWords(int bits, int64_t count) { return (count * bits + kWordBits - 1) / kWordBits; }

void PackStream(int bits, const int8_t* codes, int64_t count, int64_t stride, int32_t* words,
                int64_t word_stride) {
  const int64_t num_words = StreamWords(bits, count), elements = num_words * kWordBits / bits;
  const int zero = 1 << (bits - 1);
  uint64_t window = 0;  // bits that are not yet in a word
  int filled = 0;
  int64_t word = 0;
  if (stride == 1 && word_stride == 1) {
    if (bits == 2) word = PackWords<2>(codes, count, words);
    if (bits == 4) word = PackWords<4>(codes, count, words);
    if (bits == 8) word = PackWords<8>(codes, count, words);
  }
  for (int64_t i = word * kWordBits / bits; i < elements; ++i) {
    const uint64_t stored = static_cast<uint64_t>((i < count ? codes[i * stride] : 0) + zero);
    window |= stored << filled;
    filled += bits;
    if (filled < kWordBits) continue;
    words[word++ * word_stride] = static_cast<int32_t>(static_cast<uint32_t>(window));
    window >>= kWordBits;
    filled -= kWordBits;
  }
  if (word < num_words) words[word * word_stride] = static_cast<int32_t>(static_cast<uint32_t>(window));
}

int64_t UnpackStream(int bits, const int32_t* words, int64_t word_stride, int64_t count, int64_t stride,
                     int8_t* codes) {
  const int64_t stream_bits = StreamWords(bits, count) * kWordBits;
  const int zero = 1 << (bits - 1);
  int64_t done = 0;
  if (stride == 1 && word_stride == 1) {
    if (bits == 2) done = UnpackWords<2>(words, count, codes);
    if (bits == 4) done = UnpackWords<4>(words, count, codes);
    if (bits == 8) done = UnpackWords<8>(words, count, codes);
  }
  for (int64_t i = done; i < count; ++i) {
    codes[i * stride] = static_cast<int8_t>(Element(words, word_stride, i * bits, bits) - zero);
  }
  for (int64_t i = count; i * bits < stream_bits; ++i) {
    const int64_t left = stream_bits - i * bits;
    const int width = left < bits ? static_cast<int>(left) : bits;
    if (Element(words, word_stride, i * bits, width) != (width == bits ? zero : 0)) return i;
  }
  return -1;
}

}  // namespace spikefold
