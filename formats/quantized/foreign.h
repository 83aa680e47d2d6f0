// Weights as other tools quantize them: GPTQ, AWQ, compressed-tensors. They are only read here, and at once
// become float32: w = scale * (code - zero). Configuration and shapes must agree on bits and groups: shapes
// alone do not tell 7 bits from 8, nor where groups end when K is no multiple of them.
//
//   GPTQ        qweight I32 [K*b/32, N], low bits first along K; qzeros I32 [K/g, N*b/32] along N; scales
//               [K/g, N]; g_idx I32 [K]: the group of a column (absent: k / g; K/g is rounded up). "gptq"
//               stores zero - 1, wrapped to b bits, "gptq_v2" zero.
//   AWQ         qweight I32 [K, N/8], qzeros I32 [K/g, N/8], both along N, nibble i of a word being column
//               (0, 2, 4, 6, 1, 3, 5, 7)[i] of its eight; scales [K/g, N].
//   compressed  weight_packed I32 [N, K*b/32] or weight I8 [N, K]; weight_scale [N, K/g], [N, 1] or [1];
//               weight_zero_point packed along N, or I8 as the scale; weight_g_idx I32 [K].
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "formats/base/json.h"
#include "formats/tensor.h"
#include "formats/weight_rows.h"

namespace spikefold {

enum class ForeignLayout { kGptq, kGptqV2, kAwq, kCompressedTensors };

// What a quantization_config says. Unimplemented, naming the layout: methods, checkpoint formats and packings
// that are not in the table above (3-bit GPTQ, AWQ for other kernels than "gemm", floats of 4 or 8 bits), and
// transforms of the activations, which make another function of the weights. DataLoss: a malformed one.
struct ForeignCodes {
  int bits = 4;            // 2, 4, 8
  int64_t group_size = 0;  // columns; 0: one group a row
  bool assumed = false;    // no group_size was said, and 128 is the tools' default
};
struct ForeignConfig {
  ForeignLayout layout = ForeignLayout::kGptq;
  std::string name;                 // "GPTQ", "AWQ", ...: for people
  std::vector<ForeignCodes> codes;  // all that it names; shapes say which of them a linear has
};
absl::StatusOr<ForeignConfig> ParseForeignConfig(const Json& quantization_config, absl::string_view where);

// Reads "<module>.<suffix>"; has() says whether there is such a tensor.
struct ForeignParts {
  std::function<bool(absl::string_view suffix)> has;
  std::function<absl::StatusOr<Tensor>(absl::string_view suffix)> read;
};
// The suffix that shows that a linear is quantized, of which there may be none: "qweight", "weight_packed",
// "weight" (as I8: `dtype`).
const std::vector<std::string>& ForeignSuffixes(ForeignLayout layout);

// Of [n, k]; the parts as stored stay in memory. DataLoss: shapes that contradict each other, [n, k] or the
// configuration, groups out of range; Unimplemented: numbers of bits that are not 2, 4 or 8.
absl::StatusOr<std::unique_ptr<WeightRows>> OpenForeign(const ForeignConfig& config,
                                                        const ForeignParts& parts, absl::string_view module,
                                                        int64_t n, int64_t k);
// All of it, float32 [n, k].
absl::StatusOr<Tensor> DequantizeForeign(const ForeignConfig& config, const ForeignParts& parts,
                                         absl::string_view module, int64_t n, int64_t k);

}  // namespace spikefold
