#include "formats/base/dtype.h"

#include <array>
#include <cmath>

namespace spikefold {
namespace {

struct Row {
  DType dtype;
  const char* name;
  int bytes;
};
constexpr std::array<Row, 13> kRows = {{{DType::kBool, "BOOL", 1},
                                        {DType::kU8, "U8", 1},
                                        {DType::kI8, "I8", 1},
                                        {DType::kI16, "I16", 2},
                                        {DType::kU16, "U16", 2},
                                        {DType::kF16, "F16", 2},
                                        {DType::kBF16, "BF16", 2},
                                        {DType::kI32, "I32", 4},
                                        {DType::kU32, "U32", 4},
                                        {DType::kF32, "F32", 4},
                                        {DType::kF64, "F64", 8},
                                        {DType::kI64, "I64", 8},
                                        {DType::kU64, "U64", 8}}};

}  // namespace

int64_t DTypeBytes(DType dtype) { return kRows[static_cast<size_t>(dtype)].bytes; }
absl::string_view DTypeName(DType dtype) { return kRows[static_cast<size_t>(dtype)].name; }

std::optional<DType> DTypeFromName(absl::string_view name) {
  for (const Row& row : kRows) {
    if (name == row.name) return row.dtype;
  }
  return std::nullopt;
}

}  // namespace spikefold
