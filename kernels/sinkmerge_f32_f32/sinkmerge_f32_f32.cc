#include "kernels/sinkmerge_f32_f32/sinkmerge_f32_f32.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold::kernels::sinkmerge_f32_f32 {
namespace {

constexpr char kName[] = "sinkmerge_f32_f32";
constexpr int64_t kChunkElements = 16 << 10;

// `weight` [num_sinks] is scratch.
void MergeRow(const Params& p, int64_t m, int64_t head, std::vector<double>& weight) {
  const int64_t d = p.head_dim, row = m * p.num_heads + head;
  const int64_t sink_head = head / (p.num_heads / p.sink_heads);
  const float* q = p.q + row * d;
  const double lse = double{p.lse[row]};
  const double logit = p.logit != nullptr ? double{p.logit[head]} : -std::numeric_limits<double>::infinity();
  double max = std::max(lse, logit);
  for (int64_t s = 0; s < p.num_sinks; ++s) {
    const float* k = p.k + (s * p.sink_heads + sink_head) * d;
    double dot = 0;
    for (int64_t i = 0; i < d; ++i) dot += double{q[i]} * double{k[i]};
    weight[static_cast<size_t>(s)] = dot * double{p.scale};
    max = std::max(max, weight[static_cast<size_t>(s)]);
  }
  if (max == -std::numeric_limits<double>::infinity()) {  // nothing was seen
    std::fill_n(p.o + row * d, d, 0.0f);
    return;
  }
  double total = std::exp(lse - max) + std::exp(logit - max);
  for (int64_t s = 0; s < p.num_sinks; ++s) total += std::exp(weight[static_cast<size_t>(s)] - max);
  const double all = max + std::log(total), own = std::exp(lse - all);
  float* o = p.o + row * d;
  for (int64_t s = 0; s < p.num_sinks; ++s) {
    weight[static_cast<size_t>(s)] = std::exp(weight[static_cast<size_t>(s)] - all);
  }
  for (int64_t i = 0; i < d; ++i) {
    double sum = own > 0 ? own * double{o[i]} : 0.0;
    for (int64_t s = 0; s < p.num_sinks; ++s) {
      sum += weight[static_cast<size_t>(s)] * double{p.v[(s * p.sink_heads + sink_head) * d + i]};
    }
    o[i] = static_cast<float>(sum);
  }
  p.lse[row] = static_cast<float>(all);
}

}  // namespace

absl::Status Supports(const Params& p) {
  if (p.m < 1 || p.num_heads < 1 || p.num_kv_heads < 1 || p.head_dim < 1 || p.num_sinks < 0) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": M=", p.m, " num_heads=", p.num_heads,
                                                   " num_kv_heads=", p.num_kv_heads, " head_dim=", p.head_dim,
                                                   " num_sinks=", p.num_sinks,
                                                   "; each must be at least 1, num_sinks at least 0"));
  }
  if (p.num_heads % p.num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": num_heads=", p.num_heads,
                                                   " is not a multiple of num_kv_heads=", p.num_kv_heads));
  }
  if (p.num_sinks == 0 && p.logit == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": no sink; give keys and values, or logits"));
  }
  if (p.num_sinks > 0 && p.sink_heads != p.num_kv_heads && p.sink_heads != p.num_heads) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": sink_heads=", p.sink_heads,
                                                   "; use num_kv_heads=", p.num_kv_heads,
                                                   " or num_heads=", p.num_heads));
  }
  const bool keys = p.num_sinks == 0 || (p.q != nullptr && p.k != nullptr && p.v != nullptr);
  if (!keys || p.lse == nullptr || p.o == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": q, k, v, lse or o is null; set all five"));
  }
  return absl::OkStatus();
}

absl::Status Run(const Params& params, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(params));
  Params p = params;
  if (p.num_sinks == 0) p.sink_heads = p.num_heads;
  const int64_t width = p.num_heads * p.head_dim;
  pool.ParallelFor(p.m, std::max<int64_t>(1, kChunkElements / width), [&](int64_t begin, int64_t end) {
    std::vector<double> weight(static_cast<size_t>(p.num_sinks));
    for (int64_t m = begin; m < end; ++m) {
      for (int64_t head = 0; head < p.num_heads; ++head) MergeRow(p, m, head, weight);
    }
  });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::sinkmerge_f32_f32
