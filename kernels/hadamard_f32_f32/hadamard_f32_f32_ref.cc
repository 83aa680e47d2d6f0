#include "formats/base/hadamard.h"
#include "formats/base/status.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32.h"

namespace spikefold::kernels::hadamard_f32_f32 {
namespace {

// Entry (i, j) of the Kronecker product: the digits of i and j, last factor first.
int Entry(absl::Span<const int64_t> factors, int64_t i, int64_t j) {
  int sign = 1;
  for (size_t f = factors.size(); f-- > 0;) {
    const int64_t order = factors[f], a = i % order, c = j % order;
    if (f + 1 == factors.size()) {
      if (__builtin_parityll(static_cast<uint64_t>(a & c)) != 0) sign = -sign;
    } else {
      sign *= HadamardTable(order)[static_cast<size_t>(a * order + c)];
    }
    i /= order;
    j /= order;
  }
  return sign;
}

}  // namespace

absl::Status Reference(const Params& p) {
  SF_RETURN_IF_ERROR(Supports(p));
  int64_t block = 1;
  for (const int64_t f : p.factors) block *= f;
  std::vector<double> in(static_cast<size_t>(block));
  std::vector<int8_t> h(static_cast<size_t>(block * block));
  for (int64_t i = 0; i < block * block; ++i) {
    h[static_cast<size_t>(i)] = static_cast<int8_t>(Entry(p.factors, i / block, i % block));
  }
  for (int64_t at = 0; at < p.m * p.n; at += block) {
    float* x = p.x + at;
    const float* scale = p.scale + at % p.n;
    for (int64_t i = 0; i < block; ++i) {
      in[static_cast<size_t>(i)] = static_cast<double>(x[i]) * static_cast<double>(scale[i]);
    }
    for (int64_t j = 0; j < block; ++j) {
      double sum = 0;
      for (int64_t i = 0; i < block; ++i) {
        sum += in[static_cast<size_t>(i)] * h[static_cast<size_t>(i * block + j)];
      }
      x[j] = static_cast<float>(sum);
    }
  }
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::hadamard_f32_f32
