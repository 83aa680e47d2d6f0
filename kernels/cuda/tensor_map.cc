#include "kernels/cuda/tensor_map.h"

#include <cuda_runtime.h>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/cuda/status.h"

namespace spikefold::kernels::cuda {
namespace {

constexpr int64_t kBoxBytes = 128;

struct Type {
  CUtensorMapDataType type;
  int64_t bytes;
};
Type TypeOf(Element element) {
  switch (element) {
    case Element::kByte:
      return {CU_TENSOR_MAP_DATA_TYPE_UINT8, 1};
    case Element::kBf16:
      return {CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2};
    case Element::kFloat:
      return {CU_TENSOR_MAP_DATA_TYPE_FLOAT32, 4};
    case Element::kWord64:
      break;
  }
  return {CU_TENSOR_MAP_DATA_TYPE_UINT64, 8};
}

// The driver's function, so that nothing links against the driver.
absl::StatusOr<decltype(&cuTensorMapEncodeTiled)> Encoder() {
  static void* function = nullptr;
  if (function == nullptr) {
    cudaDriverEntryPointQueryResult found;
    SF_RETURN_IF_ERROR(ToStatus(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, 12000,
                                                                 cudaEnableDefault, &found),
                                "cuTensorMapEncodeTiled"));
    if (found != cudaDriverEntryPointSuccess || function == nullptr) {
      function = nullptr;
      return absl::UnimplementedError("backend \"cuda\": the driver has no tensor maps; update it");
    }
  }
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

}  // namespace

absl::StatusOr<CUtensorMap> MakeTensorMap(const MatrixView& v) {
  SF_ASSIGN_OR_RETURN(const auto encode, Encoder());
  const Type type = TypeOf(v.element);
  const int64_t box_bytes = v.box_bytes > 0 ? v.box_bytes : kBoxBytes;
  const cuuint64_t dims[2] = {static_cast<cuuint64_t>(v.columns), static_cast<cuuint64_t>(v.rows)};
  const cuuint64_t strides[1] = {static_cast<cuuint64_t>(v.stride)};
  const cuuint32_t box[2] = {static_cast<cuuint32_t>(box_bytes / type.bytes),
                             static_cast<cuuint32_t>(v.box_rows)};
  const cuuint32_t steps[2] = {1, 1};
  CUtensorMap map;
  const CUresult result = encode(
      &map, type.type, 2, const_cast<void*>(v.data), dims, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
      v.box_bytes > 0 ? CU_TENSOR_MAP_SWIZZLE_NONE : CU_TENSOR_MAP_SWIZZLE_128B,
      v.read_once ? CU_TENSOR_MAP_L2_PROMOTION_L2_256B : CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result == CUDA_SUCCESS) return map;
  return absl::InvalidArgumentError(
      absl::StrCat("CUDA: a tensor map of [", v.rows, ", ", v.columns, "], stride ", v.stride,
                   " bytes, boxes of ", v.box_rows, " rows: refused with code ", static_cast<int>(result),
                   "; the data must be aligned and the stride a multiple of 16"));
}

absl::StatusOr<CUtensorMap> MapOfRows(Element element, const void* data, int64_t rows, int64_t columns,
                                      int64_t box_rows) {
  return MakeTensorMap({.element = element,
                        .data = data,
                        .rows = rows,
                        .columns = columns,
                        .stride = columns * TypeOf(element).bytes,
                        .box_rows = box_rows});
}

}  // namespace spikefold::kernels::cuda
