// The block formats of ggml: sizes, names, and decoding to float32. Layouts as in ggml's block definitions.
#pragma once

#include <cstdint>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

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
  void (*decode)(const uint8_t* block, float* out);  // one block
};

// nullptr: not decoded here.
const GgmlTypeInfo* FindGgmlType(uint32_t id);
// Name of any ggml type id, also of those not decoded ("IQ4_XS", or "type 999").
absl::string_view GgmlTypeName(uint32_t id);

}  // namespace spikefold
