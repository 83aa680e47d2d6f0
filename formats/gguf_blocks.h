// The block formats of ggml: sizes, names, and decoding to float32. Layouts as in ggml's block definitions.
#pragma once

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace spikefold {

enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ2_K = 10,
  kQ3_K = 11,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30
};

struct GgmlTypeInfo {
  GgmlType type;
  const char* name;    // "Q4_K"
  int block_elements;  // 1, 32 or 256
  int block_bytes;
  // Decodes consecutive blocks: num_blocks * block_elements values, each rounded as ggml rounds it (float32
  // products in ggml's order). `blocks` needs no alignment.
  void (*decode)(const uint8_t* blocks, int64_t num_blocks, float* out);
};

// nullptr: not decoded here.
const GgmlTypeInfo* FindGgmlType(uint32_t id);
// Name of any ggml type id, also of those not decoded ("IQ4_XS"); empty for an id that ggml does not have.
absl::string_view GgmlTypeName(uint32_t id);
// The decoded types, comma-separated, for error texts.
std::string DecodedGgmlTypes();

}  // namespace spikefold
