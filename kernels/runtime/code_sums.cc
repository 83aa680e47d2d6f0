#include "kernels/runtime/code_sums.h"

#include <numeric>

namespace spikefold {

std::vector<int32_t> CodeSums(absl::Span<const int8_t> codes, int64_t n, int64_t k) {
  std::vector<int32_t> sums;
  for (int64_t i = 0; i < n; ++i) {
    const int8_t* row = codes.data() + i * k;
    sums.push_back(std::accumulate(row, row + k, int32_t{0}));
  }
  return sums;
}

std::vector<float> RowSums(const kernels::GroupWeights& w) {
  const int64_t groups = w.k / w.group;
  std::vector<float> sums;
  for (int64_t n = 0; n < w.n; ++n) {
    double sum = 0;
    for (int64_t g = 0; g < groups; ++g) {
      const int8_t* codes = w.codes + n * w.k + g * w.group;
      const int64_t zero = w.zeros == nullptr ? 0 : w.zeros[n * groups + g];
      const int64_t code_sum = std::accumulate(codes, codes + w.group, int64_t{0});
      sum += double{w.scales[n * groups + g]} * static_cast<double>(code_sum - zero * w.group);
    }
    sums.push_back(static_cast<float>(sum));
  }
  return sums;
}

}  // namespace spikefold
