#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/kernel_check.h"
#include "kernels/quantize_s8r_f32/quantize_s8r_f32.h"

namespace spikefold::kernels::quantize_s8r_f32 {
namespace {

struct Case {
  int64_t m, k, num_kept, num_super;
  float static_scale = 0, spike_threshold = 0;
  int64_t max_spike_rows = 0;
  int bits = 8;
  bool symmetric = true;
  int64_t group = 0;
  int static_zero = 0;
};

// 4 bits, zero points, groups.
void AddForms(std::vector<Case>& cases) {
  for (const int bits : {8, 4}) {
    for (const bool symmetric : {true, false}) {
      for (const int64_t k : {1, 15, 16, 33, 130, 576}) {
        cases.push_back(
            {.m = 23, .k = k, .num_kept = k % 3, .num_super = k % 2, .bits = bits, .symmetric = symmetric});
      }
      cases.push_back({.m = 40,
                       .k = 96,
                       .num_kept = 5,
                       .static_scale = bits == 8 ? 0.015f : 0.25f,
                       .spike_threshold = 50,
                       .max_spike_rows = 2,
                       .bits = bits,
                       .symmetric = symmetric,
                       .static_zero = symmetric   ? 0
                                      : bits == 8 ? -77
                                                  : 5});
      if (bits == 8 && !symmetric) continue;
      cases.push_back({.m = 23, .k = 96, .num_kept = 5, .bits = bits, .symmetric = symmetric, .group = 32});
      cases.push_back({.m = 40,
                       .k = 256,
                       .num_kept = 1,
                       .num_super = 2,
                       .spike_threshold = 50,
                       .max_spike_rows = 2,
                       .bits = bits,
                       .symmetric = symmetric,
                       .group = 128});
    }
  }
}

// Odd lengths around registers; rows of zeros, of ties and of spikes are planted in Operands.
std::vector<Case> Cases() {
  std::vector<Case> cases;
  for (const int64_t k : {1, 7, 8, 9, 15, 16, 17, 31, 33, 63, 64, 65, 127, 257, 576, 1536}) {
    cases.push_back(
        {.m = k % 9 + 1, .k = k, .num_kept = k % 3 == 0 ? std::min<int64_t>(k, 16) : 0, .num_super = k % 2});
  }
  cases.push_back({.m = 129, .k = 576, .num_kept = 64, .num_super = 2});
  cases.push_back({.m = 65, .k = 96, .num_kept = 1, .static_scale = 0.01f});  // saturates
  cases.push_back(
      {.m = 65, .k = 96, .num_kept = 5, .num_super = 1, .spike_threshold = 50, .max_spike_rows = 4});
  cases.push_back({.m = 65, .k = 96, .static_scale = 0.02f, .spike_threshold = 50, .max_spike_rows = 2});
  cases.push_back({.m = 20, .k = 40, .spike_threshold = 50, .max_spike_rows = 0});
  AddForms(cases);
  return cases;
}

struct Operands {
  Operands(const Case& c, uint64_t seed) : shape(c), x(RandomFloats(c.m * c.k, seed)) {
    const auto at = [&](int64_t m, int64_t k) -> float& { return x[static_cast<size_t>(m * c.k + k)]; };
    for (int64_t m = 0; m < c.m; ++m) {
      if (m % 11 == 3) std::fill_n(&at(m, 0), c.k, 0.0f);
      if (m % 11 == 5) std::fill_n(&at(m, 0), c.k, -0x1p-130f);
      if (m % 11 == 7) {  // scale 1: every second value is a tie
        for (int64_t k = 0; k < c.k; ++k) at(m, k) = static_cast<float>(k % 255 - 127) / 2;
        at(m, c.k - 1) = 127;
      }
      if (m % 11 == 9) {  // one sign: 0 is the end of the range
        for (int64_t k = 0; k < c.k; ++k) at(m, k) = m % 2 == 0 ? std::fabs(at(m, k)) : -std::fabs(at(m, k));
      }
      if (c.spike_threshold > 0 && m % 8 == 1) at(m, m % c.k) = 300;
    }
    for (int64_t i = 0; i < c.num_kept; ++i) {
      kept.push_back(static_cast<int32_t>(i * c.k / c.num_kept));
      for (int64_t m = 0; m < c.m; ++m) at(m, kept.back()) *= 40;  // what they are kept for
    }
    for (int64_t i = 0; i < c.num_super; ++i) super.push_back(static_cast<int32_t>((c.k - 1) / (i + 1)));
  }
  Case shape;
  std::vector<float> x;
  std::vector<int32_t> kept, super;
};

struct Result {
  std::vector<int8_t> q;
  std::vector<float> scale, kept_x, super_x;
  std::vector<int32_t> zero, spike_rows, counts;  // spikes, missed, saturated
};

template <typename Function>
Result Compute(const Operands& o, Function run) {
  const Case& c = o.shape;
  Result r{.q = std::vector<int8_t>(o.x.size(), 99),
           .scale = std::vector<float>(static_cast<size_t>(c.m * (c.group > 0 ? c.k / c.group : 1)),
                                       std::nanf("")),
           .kept_x = std::vector<float>(static_cast<size_t>(c.m * c.num_kept), std::nanf("")),
           .super_x = std::vector<float>(static_cast<size_t>(c.m * c.num_super), std::nanf("")),
           .zero = std::vector<int32_t>(static_cast<size_t>(c.m), 999),
           .spike_rows = std::vector<int32_t>(static_cast<size_t>(c.max_spike_rows), -1)};
  int64_t spikes = 0, missed = 0, saturated = 0;
  const absl::Status status = run(Params{.m = c.m,
                                         .k = c.k,
                                         .x = o.x.data(),
                                         .bits = c.bits,
                                         .symmetric = c.symmetric,
                                         .group = c.group,
                                         .static_scale = c.static_scale,
                                         .static_zero = c.static_zero,
                                         .num_kept = c.num_kept,
                                         .kept = o.kept.data(),
                                         .num_super = c.num_super,
                                         .super = o.super.data(),
                                         .spike_threshold = c.spike_threshold,
                                         .max_spike_rows = c.max_spike_rows,
                                         .q = r.q.data(),
                                         .scale = r.scale.data(),
                                         .zero = c.group == 0 ? r.zero.data() : nullptr,
                                         .kept_x = r.kept_x.data(),
                                         .super_x = r.super_x.data(),
                                         .spike_rows = r.spike_rows.data(),
                                         .num_spike_rows = &spikes,
                                         .num_missed = &missed,
                                         .num_saturated = &saturated});
  for (const int64_t count : {spikes, missed, saturated}) r.counts.push_back(static_cast<int32_t>(count));
  if (!status.ok()) r.counts.clear();
  return r;
}

}  // namespace

CheckReport Check(ThreadPool& pool, Fault fault) {
  CheckReport report;
  uint64_t seed = 5000;
  for (const Case& c : Cases()) {
    Operands o(c, ++seed);
    const Result expected = Compute(o, Reference);
    // One step of the code of one value.
    if (fault == Fault::kOneElement) o.x[0] += expected.scale[0];
    const Result actual = Compute(o, [&](const Params& p) { return Run(p, pool); });
    if (expected.counts.empty() || actual.counts.empty()) return {};
    const std::string name = absl::StrCat(c.symmetric ? "s" : "u", c.bits, " M=", c.m, " K=", c.k,
                                          " group=", c.group, " r=", c.num_kept, " super=", c.num_super);
    report.CompareExact(absl::StrCat(name, " scale"), actual.scale, expected.scale);
    report.CompareExact(absl::StrCat(name, " zero"), actual.zero, expected.zero);
    report.CompareExact(absl::StrCat(name, " codes"), actual.q, expected.q);
    report.CompareExact(absl::StrCat(name, " kept"), actual.kept_x, expected.kept_x);
    report.CompareExact(absl::StrCat(name, " super"), actual.super_x, expected.super_x);
    report.CompareExact(absl::StrCat(name, " spike rows"), actual.spike_rows, expected.spike_rows);
    report.CompareExact(absl::StrCat(name, " spikes, missed, saturated"), actual.counts, expected.counts);
  }
  return report;
}

void Benchmark(Bench& bench) {
  const auto time = [&](const Case& c, absl::string_view form) {
    const Operands o(c, 1);
    std::vector<int8_t> q(o.x.size());
    std::vector<float> scale(o.x.size()), kept_x(static_cast<size_t>(c.m * c.num_kept));
    std::vector<int32_t> zero(static_cast<size_t>(c.m));
    const Params params{.m = c.m,
                        .k = c.k,
                        .x = o.x.data(),
                        .bits = c.bits,
                        .symmetric = c.symmetric,
                        .group = c.group,
                        .num_kept = c.num_kept,
                        .kept = o.kept.data(),
                        .q = q.data(),
                        .scale = scale.data(),
                        .zero = c.symmetric ? nullptr : zero.data(),
                        .kept_x = kept_x.data()};
    const double elements = static_cast<double>(c.m * c.k);
    bench.Time(absl::StrCat("M=", c.m, " K=", c.k, " r=", c.num_kept, form), 2 * elements, 5 * elements,
               [&] { (void)Run(params, bench.pool()); });
  };
  for (const int64_t num_kept : {0, 16, 64}) {
    for (const int64_t k : {576, 1536}) {
      for (const int64_t m : {1, 512}) {
        time({.m = m, .k = k, .num_kept = num_kept, .num_super = 0}, "");
        if (num_kept > 0) continue;
        time({.m = m, .k = k, .num_kept = 0, .num_super = 0, .symmetric = false}, " u8r");
        time({.m = m, .k = k, .num_kept = 0, .num_super = 0, .bits = 4, .group = 64}, " s4g64");
      }
    }
  }
}

}  // namespace spikefold::kernels::quantize_s8r_f32
