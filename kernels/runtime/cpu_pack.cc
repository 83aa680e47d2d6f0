// Weights of the CPU backend, packed for its kernels.
#include <algorithm>
#include <numeric>
#include <utility>
#include <vector>

#include "formats/base/status.h"
#include "kernels/group_weights.h"
#include "kernels/matmul_f32_f32_f32/matmul_f32_f32_f32.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c.h"
#include "kernels/outlier_tail.h"
#include "kernels/runtime/code_sums.h"
#include "kernels/runtime/cpu_ops.h"
#include "kernels/runtime/two_level.h"

namespace spikefold {
namespace {

namespace f32 = kernels::matmul_f32_f32_f32;
namespace s8c = kernels::matmul_f32_s8r_s8c;

void PackChannels(const CodeMatrix& w, const ActivationFormat& act, LinearWeights& out) {
  out.kind = LinearWeights::Kind::kS8c;
  out.packed = Tensor::ForWeights(DType::kU8, {static_cast<int64_t>(s8c::PackedBytes(w.n, w.k))});
  s8c::Pack(w.codes.data(), w.n, w.k, out.packed.data());
  out.scale.assign(w.scales.begin(), w.scales.end());
  if (HasWideZeros(act)) out.code_sum = CodeSums(w.codes, w.n, w.k);
}

// Groups that lie within those of the activations: their scales are applied to one integer sum.
absl::Status PackInGroups(const CodeMatrix& w, const ActivationFormat& act, LinearWeights& out) {
  const int64_t stored = w.group > 0 ? w.group : w.k;
  const int64_t group = act.group > 0 ? std::gcd(stored, act.group) : stored;
  const std::vector<float> scales = Repeat(w.scales, stored / group);
  const std::vector<int8_t> zeros = Repeat(w.zeros, stored / group);
  const kernels::GroupWeights groups{.n = w.n,
                                     .k = w.k,
                                     .group = group,
                                     .bits = w.format.bits,
                                     .codes = w.codes.data(),
                                     .scales = scales.data(),
                                     .zeros = zeros.empty() ? nullptr : zeros.data()};
  const kernels::GroupLayout layout = LayoutOf(groups);
  SF_RETURN_IF_ERROR(CheckGroupLayout("weights in groups", layout));
  out.kind = LinearWeights::Kind::kGroups;
  out.group = group;
  out.packed = Tensor::ForWeights(DType::kU8, {static_cast<int64_t>(GroupPackedBytes(layout))});
  PackGroups(groups, out.packed.data());
  if (HasWideZeros(act)) out.row_sum = RowSums(groups);
  if (auto levels = TwoLevelsFor(w, act)) out.scale = std::move(levels->scale);
  return absl::OkStatus();
}

}  // namespace

absl::Status CpuOps::PackF32(const Tensor& w, LinearWeights& out) {
  out.kind = LinearWeights::Kind::kF32;
  out.n = w.dim(0);
  out.k = w.dim(1);
  out.packed = Tensor::ForWeights(DType::kF32, {f32::PackedElements(out.n, out.k)});
  const float* rows = w.as<float>().data();
  float* packed = out.packed.as<float>().data();
  pool_.ParallelFor((out.n + f32::kPanel - 1) / f32::kPanel, 16, [&](int64_t begin, int64_t end) {
    const int64_t first = begin * f32::kPanel, last = std::min(end * f32::kPanel, out.n);
    f32::PackRows(rows + first * out.k, first, last - first, out.n, out.k, packed);
  });
  return absl::OkStatus();
}

absl::Status CpuOps::PackCodes(const CodeMatrix& w, const ActivationFormat& act, LinearWeights& out) {
  out.n = w.n;
  out.k = w.k;
  if (w.format != WeightFormat::kS8c || act.group > 0) return PackInGroups(w, act, out);
  PackChannels(w, act, out);
  return absl::OkStatus();
}

absl::Status CpuOps::Prepare(LinearWeights& w) {
  const int64_t r = w.kept_weight.empty() ? 0 : static_cast<int64_t>(w.kept_weight.size()) / w.n;
  if (r == 0 || w.kind == LinearWeights::Kind::kF32) return absl::OkStatus();
  w.kept_packed.resize(kernels::PackedKeptWords(w.n, r));
  kernels::PackKeptColumns(w.kept_weight.data(), w.n, r, w.kept_packed.data());
  return absl::OkStatus();
}

}  // namespace spikefold
