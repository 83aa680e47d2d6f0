#include "kernels/hadamard_f32_f32/hadamard_f32_f32.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/base/hadamard.h"
#include "formats/base/status.h"
#include "kernels/cpu/cpu_features.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32_isa.h"

namespace spikefold::kernels::hadamard_f32_f32 {
namespace {

constexpr char kName[] = "hadamard_f32_f32";
constexpr int64_t kChunkElements = 16 << 10;  // about 10 us of one core: long against a hand-over

// The table of an order, made once.
const float* FloatTable(int64_t order) {
  static std::mutex mutex;
  static std::map<int64_t, std::vector<float>> tables;  // never moves its values
  const std::lock_guard<std::mutex> lock(mutex);
  std::vector<float>& table = tables[order];
  if (table.empty()) table = HadamardFactorTable(order);
  return table.data();
}

Plan MakePlan(const Params& p) {
  Plan plan = {.n = p.n, .scale = p.scale, .power = p.factors.back()};
  int64_t stride = plan.power;
  for (size_t i = p.factors.size() - 1; i-- > 0;) {
    plan.tables[plan.num_tables++] = {p.factors[i], stride, FloatTable(p.factors[i]),
                                      IsPairedHadamard(p.factors[i])};
    stride *= p.factors[i];
  }
  return plan;
}

RowsFunction* ChooseRows() {
  if (ActiveIsa() >= Isa::kAvx512) return RowsAvx512;
  return ActiveIsa() >= Isa::kAvx2 ? RowsAvx2 : RowsPlain;
}

void Butterflies(float* x, int64_t n, int64_t power) {
  for (int64_t h = power / 2; h > 0; h /= 2) {
    for (int64_t i = 0; i < n; i += 2 * h) {
      for (int64_t j = i; j < i + h; ++j) {
        const float a = x[j], b = x[j + h];
        x[j] = a + b;
        x[j + h] = a - b;
      }
    }
  }
}

void Multiply(const TablePass& t, float* x, int64_t n) {
  // Of a paired table the sums and the differences of neighbours go through C side by side.
  const int64_t together = t.paired ? 2 : 1, points = t.order / together;
  std::vector<float> in(static_cast<size_t>(t.order));
  for (int64_t group = 0; group < n; group += t.order * t.stride) {
    for (int64_t b = group; b < group + t.stride; ++b) {
      for (int64_t a = 0; a < t.order; ++a) in[static_cast<size_t>(a)] = x[b + a * t.stride];
      for (size_t a = 0; t.paired && a < in.size(); a += 2) {
        const float first = in[a], second = in[a + 1];
        in[a] = first + second;
        in[a + 1] = first - second;
      }
      for (int64_t c = 0; c < t.order; ++c) {
        const int64_t which = c % together;
        float sum = 0;
        for (int64_t a = 0; a < points; ++a) {
          sum += in[static_cast<size_t>(a * together + which)] * t.table[a * points + c / together];
        }
        if (t.paired)
          sum = which == 0 ? sum + in[static_cast<size_t>(c + 1)] : sum - in[static_cast<size_t>(c - 1)];
        x[b + c * t.stride] = sum;
      }
    }
  }
}

}  // namespace

void RowsPlain(const Plan& plan, float* x, int64_t num_rows) {
  for (float* row = x; row < x + num_rows * plan.n; row += plan.n) {
    for (int64_t i = 0; i < plan.n; ++i) row[i] *= plan.scale[i];
    Butterflies(row, plan.n, plan.power);
    for (int t = 0; t < plan.num_tables; ++t) Multiply(plan.tables[t], row, plan.n);
  }
}

absl::Status Supports(const Params& p) {
  if (p.m < 1 || p.n < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat(kName, ": shape M=", p.m, " N=", p.n, " is empty; each must be at least 1"));
  }
  if (p.x == nullptr || p.scale == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": x or scale is null; set both"));
  }
  bool known = !p.factors.empty() && p.factors.size() <= kMaxTables + 1 && IsPowerOfTwo(p.factors.back());
  int64_t rest = p.n;
  for (size_t i = 0; known && i < p.factors.size(); ++i) {
    const bool last = i + 1 == p.factors.size();
    known = last || (HasHadamardTable(p.factors[i]) && !IsPowerOfTwo(p.factors[i]));
    known = known && rest % p.factors[i] == 0;
    if (known) rest /= p.factors[i];
  }
  if (known) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(kName, ": factors ", absl::StrJoin(p.factors, " x "), " for N=", p.n, "; up to ",
                   kMaxTables, " table orders, then a power of two, whose product divides N, are needed"));
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  const Plan plan = MakePlan(p);
  RowsFunction* rows = ChooseRows();
  pool.ParallelFor(p.m, std::max<int64_t>(1, kChunkElements / p.n),
                   [&](int64_t begin, int64_t end) { rows(plan, p.x + begin * p.n, end - begin); });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::hadamard_f32_f32
