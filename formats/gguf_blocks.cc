#include "formats/gguf_blocks.h"

#include <bit>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"
#include "formats/base/vector_clones.h"

// Layouts: ggml-common.h (block_q4_0 ...); order of the float32 operations: ggml's dequantize_row_*.
// Loops have constant counts and no tables, so that the compiler vectorises them.

namespace spikefold {
namespace {

SF_VECTOR_INLINE uint16_t Load16(const uint8_t* p) {
  uint16_t v;
  std::memcpy(&v, p, 2);
  return v;
}
SF_VECTOR_INLINE uint32_t Load32(const uint8_t* p) {
  uint32_t v;
  std::memcpy(&v, p, 4);
  return v;
}

// Branch-free float16 to float32, also for subnormals: the exponent is rebased by a multiplication.
SF_VECTOR_INLINE float HalfAt(const uint8_t* p) {
  const uint32_t h = Load16(p);
  const float magnitude = std::bit_cast<float>((h & 0x7fffu) << 13) * 0x1p112f;
  const uint32_t special = (h & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
  return std::bit_cast<float>(std::bit_cast<uint32_t>(magnitude) | special | (h & 0x8000u) << 16);
}

void DecodeF32(const uint8_t* in, int64_t count, float* out) {
  if (count > 0) std::memcpy(out, in, static_cast<size_t>(count) * 4);  // which takes no null
}
SF_VECTOR_CLONES void DecodeF16(const uint8_t* in, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = HalfAt(in + 2 * i);
}
SF_VECTOR_CLONES void DecodeBf16(const uint8_t* in, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = Bf16ToFloat(Load16(in + 2 * i));
}

// Sixteen at once, in explicit vectors: from loops over nibbles the compiler makes code of half the speed.
using Bytes16 = uint8_t __attribute__((vector_size(16)));
using Ints16 = int32_t __attribute__((vector_size(64)));
using Floats16 = float __attribute__((vector_size(64)));
struct Nibbles {
  Ints16 low, high;
};
SF_VECTOR_INLINE Nibbles NibblesAt(const uint8_t* q) {
  Bytes16 both;
  std::memcpy(&both, q, sizeof both);
  return {__builtin_convertvector(both & 15, Ints16), __builtin_convertvector(both >> 4, Ints16)};
}
SF_VECTOR_INLINE void Store16(const Floats16& values, float* out) {
  std::memcpy(out, &values, sizeof values);
}

SF_VECTOR_CLONES void DecodeQ4_0(const uint8_t* in, int64_t num_blocks, float* out) {
  for (int64_t b = 0; b < num_blocks; ++b, in += 18, out += 32) {
    const float d = HalfAt(in);
    const Nibbles q = NibblesAt(in + 2);
    Store16(d * __builtin_convertvector(q.low - 8, Floats16), out);
    Store16(d * __builtin_convertvector(q.high - 8, Floats16), out + 16);
  }
}

SF_VECTOR_CLONES void DecodeQ4_1(const uint8_t* in, int64_t num_blocks, float* out) {
  for (int64_t b = 0; b < num_blocks; ++b, in += 20, out += 32) {
    const float d = HalfAt(in), m = HalfAt(in + 2);
    const Nibbles q = NibblesAt(in + 4);
    Store16(d * __builtin_convertvector(q.low, Floats16) + m, out);
    Store16(d * __builtin_convertvector(q.high, Floats16) + m, out + 16);
  }
}

// The 32 five-bit codes of a Q5_0 or Q5_1 block: bit e of `high` is the fifth bit of element e.
SF_VECTOR_INLINE void UnpackFiveBit(uint32_t high, const uint8_t* q, int32_t code[32]) {
  for (int j = 0; j < 16; ++j) {
    code[j] = (q[j] & 15) | static_cast<int32_t>((high >> j & 1) << 4);
    code[16 + j] = (q[j] >> 4) | static_cast<int32_t>((high >> (16 + j) & 1) << 4);
  }
}

SF_VECTOR_CLONES void DecodeQ5_0(const uint8_t* in, int64_t num_blocks, float* out) {
  for (int64_t b = 0; b < num_blocks; ++b, in += 22, out += 32) {
    const float d = HalfAt(in);
    int32_t code[32];
    UnpackFiveBit(Load32(in + 2), in + 6, code);
    for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(code[j] - 16);
  }
}

SF_VECTOR_CLONES void DecodeQ5_1(const uint8_t* in, int64_t num_blocks, float* out) {
  for (int64_t b = 0; b < num_blocks; ++b, in += 24, out += 32) {
    const float d = HalfAt(in), m = HalfAt(in + 2);
    int32_t code[32];
    UnpackFiveBit(Load32(in + 4), in + 8, code);
    for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(code[j]) + m;
  }
}

SF_VECTOR_CLONES void DecodeQ8_0(const uint8_t* in, int64_t num_blocks, float* out) {
  for (int64_t b = 0; b < num_blocks; ++b, in += 34, out += 32) {
    const float d = HalfAt(in);
    const uint8_t* q = in + 2;
    for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(static_cast<int8_t>(q[j]));
  }
}

// scales[16]: low nibble scale, high nibble minimum, of 16 elements each | qs[64] | d | dmin
SF_VECTOR_CLONES void DecodeQ2_K(const uint8_t* in, int64_t num_blocks, float* out) {
  for (int64_t b = 0; b < num_blocks; ++b, in += 84) {
    const float d = HalfAt(in + 80), dmin = HalfAt(in + 82);
    for (int g = 0; g < 16; ++g, out += 16) {
      const float scale = d * static_cast<float>(in[g] & 15), min = dmin * static_cast<float>(in[g] >> 4);
      const uint8_t* q = in + 16 + 32 * (g / 8) + 16 * (g % 2);
      const int shift = 2 * (g % 8 / 2);
      for (int j = 0; j < 16; ++j) out[j] = scale * static_cast<float>(q[j] >> shift & 3) - min;
    }
  }
}

// hmask[32] | qs[64] | scales[12]: sixteen 6-bit scales, low nibbles in bytes 0-7, top pairs in bytes 8-11 |
// d
SF_VECTOR_CLONES void DecodeQ3_K(const uint8_t* in, int64_t num_blocks, float* out) {
  for (int64_t b = 0; b < num_blocks; ++b, in += 110) {
    const float d = HalfAt(in + 108);
    const uint8_t* scales = in + 96;
    for (int g = 0; g < 16; ++g, out += 16) {
      const int low = scales[g % 8] >> (g < 8 ? 0 : 4) & 15;
      const int high = scales[8 + g % 4] >> (2 * (g / 4)) & 3;
      const float scale = d * static_cast<float>((low | high << 4) - 32);
      const uint8_t* q = in + 32 + 32 * (g / 8) + 16 * (g % 2);
      const uint8_t* mask = in + 16 * (g % 2);
      const int shift = 2 * (g % 8 / 2), bit = g / 2;
      for (int j = 0; j < 16; ++j) {
        const int code = (q[j] >> shift & 3) + (mask[j] >> bit & 1) * 4 - 4;  // a clear mask bit means -4
        out[j] = scale * static_cast<float>(code);
      }
    }
  }
}

// The eight 6-bit (scale, minimum) pairs that Q4_K and Q5_K pack into 12 bytes.
SF_VECTOR_INLINE void UnpackScaleMin(const uint8_t* s, int j, int* scale, int* min) {
  if (j < 4) {
    *scale = s[j] & 63;
    *min = s[j + 4] & 63;
  } else {
    *scale = (s[j + 4] & 15) | s[j - 4] >> 6 << 4;
    *min = s[j + 4] >> 4 | s[j] >> 6 << 4;
  }
}

// d | dmin | scales[12] | qs[128]: each 32 bytes hold 64 elements, low nibbles first
SF_VECTOR_CLONES void DecodeQ4_K(const uint8_t* in, int64_t num_blocks, float* out) {
  for (int64_t b = 0; b < num_blocks; ++b, in += 144) {
    const float d = HalfAt(in), dmin = HalfAt(in + 2);
    for (int g = 0; g < 8; ++g, out += 32) {
      int scale = 0, min = 0;
      UnpackScaleMin(in + 4, g, &scale, &min);
      const float ds = d * static_cast<float>(scale), dm = dmin * static_cast<float>(min);
      const uint8_t* q = in + 16 + 32 * (g / 2);
      const int shift = 4 * (g % 2);
      for (int j = 0; j < 32; ++j) out[j] = ds * static_cast<float>(q[j] >> shift & 15) - dm;
    }
  }
}

// d | dmin | scales[12] | qh[32]: bit g of byte j is the fifth bit of element j of group g | qs[128]
SF_VECTOR_CLONES void DecodeQ5_K(const uint8_t* in, int64_t num_blocks, float* out) {
  for (int64_t b = 0; b < num_blocks; ++b, in += 176) {
    const float d = HalfAt(in), dmin = HalfAt(in + 2);
    const uint8_t* high = in + 16;
    for (int g = 0; g < 8; ++g, out += 32) {
      int scale = 0, min = 0;
      UnpackScaleMin(in + 4, g, &scale, &min);
      const float ds = d * static_cast<float>(scale), dm = dmin * static_cast<float>(min);
      const uint8_t* q = in + 48 + 32 * (g / 2);
      const int shift = 4 * (g % 2);
      for (int j = 0; j < 32; ++j) {
        out[j] = ds * static_cast<float>((q[j] >> shift & 15) + (high[j] >> g & 1) * 16) - dm;
      }
    }
  }
}

// ql[128] | qh[64] | scales[16] (int8) | d. Per half: 64 low nibbles, 64 high nibbles; top pairs by 32.
SF_VECTOR_CLONES void DecodeQ6_K(const uint8_t* in, int64_t num_blocks, float* out) {
  for (int64_t b = 0; b < num_blocks; ++b, in += 210) {
    const float d = HalfAt(in + 208);
    for (int g = 0; g < 16; ++g, out += 16) {
      const int half = g / 8, in_half = g % 8;
      const float scale = d * static_cast<float>(static_cast<int8_t>(in[192 + g]));
      const uint8_t* low = in + 64 * half + 16 * (in_half % 4);
      const uint8_t* high = in + 128 + 32 * half + 16 * (in_half % 2);
      const int low_shift = 4 * (in_half / 4), high_shift = 2 * (in_half / 2);
      for (int j = 0; j < 16; ++j) {
        const int code = (low[j] >> low_shift & 15) | (high[j] >> high_shift & 3) << 4;
        out[j] = scale * static_cast<float>(code - 32);
      }
    }
  }
}

constexpr GgmlTypeInfo kTypes[] = {
    {GgmlType::kF32, "F32", 1, 4, DecodeF32},        {GgmlType::kF16, "F16", 1, 2, DecodeF16},
    {GgmlType::kQ4_0, "Q4_0", 32, 18, DecodeQ4_0},   {GgmlType::kQ4_1, "Q4_1", 32, 20, DecodeQ4_1},
    {GgmlType::kQ5_0, "Q5_0", 32, 22, DecodeQ5_0},   {GgmlType::kQ5_1, "Q5_1", 32, 24, DecodeQ5_1},
    {GgmlType::kQ8_0, "Q8_0", 32, 34, DecodeQ8_0},   {GgmlType::kQ2_K, "Q2_K", 256, 84, DecodeQ2_K},
    {GgmlType::kQ3_K, "Q3_K", 256, 110, DecodeQ3_K}, {GgmlType::kQ4_K, "Q4_K", 256, 144, DecodeQ4_K},
    {GgmlType::kQ5_K, "Q5_K", 256, 176, DecodeQ5_K}, {GgmlType::kQ6_K, "Q6_K", 256, 210, DecodeQ6_K},
    {GgmlType::kBF16, "BF16", 1, 2, DecodeBf16},
};

}  // namespace

const GgmlTypeInfo* FindGgmlType(uint32_t id) {
  for (const GgmlTypeInfo& info : kTypes) {
    if (static_cast<uint32_t>(info.type) == id) return &info;
  }
  return nullptr;
}

absl::string_view GgmlTypeName(uint32_t id) {
  // Index = id. Empty: ids that ggml gave up.
  static constexpr const char* kNames[] = {
      "F32",   "F16",    "Q4_0",  "Q4_1", "",     "",        "Q5_0",   "Q5_1",    "Q8_0",  "Q8_1",   "Q2_K",
      "Q3_K",  "Q4_K",   "Q5_K",  "Q6_K", "Q8_K", "IQ2_XXS", "IQ2_XS", "IQ3_XXS", "IQ1_S", "IQ4_NL", "IQ3_S",
      "IQ2_S", "IQ4_XS", "I8",    "I16",  "I32",  "I64",     "F64",    "IQ1_M",   "BF16",  "",       "",
      "",      "TQ1_0",  "TQ2_0", "",     "",     "",        "MXFP4",  "NVFP4",   "Q1_0",  "Q2_0"};
  return id < std::size(kNames) ? kNames[id] : "";
}

std::string DecodedGgmlTypes() {
  std::string list;
  for (const GgmlTypeInfo& info : kTypes) absl::StrAppend(&list, list.empty() ? "" : ", ", info.name);
  return list;
}

}  // namespace spikefold
