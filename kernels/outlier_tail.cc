#include "kernels/outlier_tail.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"

namespace spikefold::kernels {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Two columns in one word, the first in the high half; `second` may be absent.
uint32_t Pair(uint16_t first, uint16_t second) { return static_cast<uint32_t>(first) << 16 | second; }
float First(uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }
float Second(uint32_t pair) { return std::bit_cast<float>(pair << 16); }

}  // namespace

size_t PackedKeptWords(int64_t n, int64_t num_kept) {
  return static_cast<size_t>(CeilDiv(n, kPanel) * kPanel * CeilDiv(num_kept, 2));
}

void PackKeptColumns(const uint16_t* kept_w, int64_t n, int64_t num_kept, uint32_t* packed) {
  const int64_t num_pairs = CeilDiv(num_kept, 2);
  std::fill_n(packed, PackedKeptWords(n, num_kept), 0u);
  for (int64_t row = 0; row < n; ++row) {
    const uint16_t* w = kept_w + row * num_kept;
    uint32_t* out = packed + row / kPanel * num_pairs * kPanel + row % kPanel;
    for (int64_t j = 0; j < num_pairs; ++j) {
      out[j * kPanel] = Pair(w[2 * j], 2 * j + 1 < num_kept ? w[2 * j + 1] : uint16_t{0});
    }
  }
}

absl::Status CheckTail(absl::string_view kernel, const OutlierTail& tail) {
  const auto missing = [&](int64_t count, absl::string_view what, absl::string_view buffers) {
    return absl::InvalidArgumentError(
        absl::StrCat(kernel, ": ", count, " ", what, " without buffers; set ", buffers));
  };
  if (tail.num_kept > 0 &&
      (tail.kept_x == nullptr || (tail.kept_w == nullptr && tail.kept_packed == nullptr))) {
    return missing(tail.num_kept, "kept columns", "kept_x and kept_w or kept_packed");
  }
  if (tail.num_super > 0 && (tail.super_x == nullptr || tail.super_slot == nullptr ||
                             tail.super_row == nullptr || tail.super_value == nullptr)) {
    return missing(tail.num_super, "super weights", "super_x, super_slot, super_row and super_value");
  }
  return absl::OkStatus();
}

double ReferenceTail(const OutlierTail& tail, int64_t m, int64_t n) {
  double sum = 0;
  for (int64_t c = 0; c < tail.num_kept; ++c) {
    sum += double{tail.kept_x[m * tail.num_kept + c]} * Bf16ToFloat(tail.kept_w[n * tail.num_kept + c]);
  }
  if (tail.bias != nullptr) sum += tail.bias[n];
  for (int64_t s = 0; s < tail.num_super; ++s) {
    if (tail.super_row[s] != n) continue;
    sum += double{tail.super_value[s]} * tail.super_x[m * tail.super_x_stride + tail.super_slot[s]];
  }
  return sum;
}

TailOperands::TailOperands(const OutlierTail& tail, int64_t m, int64_t n)
    : num_pairs(CeilDiv(tail.num_kept, 2)), w(tail.kept_packed) {
  if (num_pairs == 0) return;
  x.resize(static_cast<size_t>(m * num_pairs));
  for (int64_t row = 0; row < m; ++row) {
    const float* kept = tail.kept_x + row * tail.num_kept;
    uint32_t* out = x.data() + row * num_pairs;
    for (int64_t c = 0; c < tail.num_kept; c += 2) {
      const float second = c + 1 < tail.num_kept ? kept[c + 1] : 0.0f;
      out[c / 2] = Pair(FloatToBf16(kept[c]), FloatToBf16(second));
    }
  }
  if (w == nullptr) {
    w_packed.resize(PackedKeptWords(n, tail.num_kept));
    PackKeptColumns(tail.kept_w, n, tail.num_kept, w_packed.data());
    w = w_packed.data();
  }
}

void AddTail(const OutlierTail& tail, const TailOperands& operands, int64_t m, int64_t n0, int64_t count,
             float* y) {
  const uint32_t* x = operands.x.data() + m * operands.num_pairs;
  const uint32_t* w = operands.w + n0 * operands.num_pairs;
  for (int64_t j = 0; j < operands.num_pairs; ++j) {
    for (int64_t i = 0; i < count; ++i) {
      y[i] += First(x[j]) * First(w[j * kPanel + i]);
      y[i] += Second(x[j]) * Second(w[j * kPanel + i]);
    }
  }
  if (tail.bias == nullptr) return;
  for (int64_t i = 0; i < count; ++i) y[i] += tail.bias[n0 + i];
}

void AddSuperWeights(const OutlierTail& tail, int64_t m_begin, int64_t m_end, int64_t n_begin, int64_t n_end,
                     int64_t n, float* y) {
  for (int64_t s = 0; s < tail.num_super; ++s) {
    const int64_t row = tail.super_row[s];
    if (row < n_begin || row >= n_end) continue;
    for (int64_t m = m_begin; m < m_end; ++m) {
      y[m * n + row] += tail.super_value[s] * tail.super_x[m * tail.super_x_stride + tail.super_slot[s]];
    }
  }
}

}  // namespace spikefold::kernels
