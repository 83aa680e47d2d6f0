// The conformance cases, for implementations that the kernel list does not run: those on a GPU.
#pragma once

#include "absl/functional/function_ref.h"
#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv.h"
#include "kernels/kernel_check.h"

namespace spikefold::kernels::attention_f32_f32_ukv {

struct Shape {
  int64_t m, first, num_heads, num_kv_heads, head_dim;
  int k_bits, v_bits;
  KeyScale scale = KeyScale::kPage;
  bool turned = false;  // keys stored before rotary embedding
  int64_t pinned = 0, recent = 1, window = 0, evict = 0;
};
// The shapes of the conformance test.
absl::Span<const Shape> CheckedShapes();

// What an implementation may be off by beside float32's rounding.
struct Slack {
  double key = 0;    // relative, of each product of a query and a key, rounded independently
  double value = 0;  // relative to the largest value
};
// Calls `run` on a shape's operands and compares with the reference. With a fault one code of a value is
// changed first; false if the shape has none that every row reads.
bool CheckShape(const Shape& shape, uint64_t seed, absl::FunctionRef<absl::Status(const Params&)> run,
                const Slack& slack, Fault fault, CheckReport& report);

}  // namespace spikefold::kernels::attention_f32_f32_ukv
