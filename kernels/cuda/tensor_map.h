// Descriptions of matrices for the copy engine.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "absl/status/statusor.h"

namespace spikefold::kernels::cuda {

enum class Element { kByte, kBf16, kFloat, kWord64 };

// A row-major matrix [rows, columns] whose rows lie `stride` bytes apart, read or written in boxes of
// `box_rows` rows and 128 bytes, swizzled by 128 bytes, or of another width, as they lie. Reads beyond the
// matrix give zeros.
struct MatrixView {
  Element element = Element::kByte;
  const void* data = nullptr;  // device, 16-byte aligned
  int64_t rows = 0, columns = 0;
  int64_t stride = 0;      // bytes; a multiple of 16
  int64_t box_rows = 0;    // at most 256
  int64_t box_bytes = 0;   // a multiple of 16, at most 256 elements; 0: 128, swizzled
  bool read_once = false;  // the L2 cache takes the next 128 bytes of each row along
};
// InvalidArgument: a view that the copy engine cannot take. Unimplemented: no driver.
absl::StatusOr<CUtensorMap> MakeTensorMap(const MatrixView& view);
// The same of rows that lie one after the other. 16 bits are 16 bits to a copy, whatever they mean.
absl::StatusOr<CUtensorMap> MapOfRows(Element element, const void* data, int64_t rows, int64_t columns,
                                      int64_t box_rows);

}  // namespace spikefold::kernels::cuda
