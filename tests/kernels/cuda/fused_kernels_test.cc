// Kernels that make a row, rotate and quantize it at once: bit for bit what the separate kernels make.
#include "absl/strings/str_cat.h"
#include "formats/base/hadamard.h"
#include "kernels/cuda/copy.h"
#include "kernels/cuda/device.h"
#include "kernels/gatedmulquant_s8r_f32/gatedmulquant_s8r_f32_cuda.h"
#include "kernels/hadamardquant_s8r_f32/hadamardquant_s8r_f32_cuda.h"
#include "kernels/kernel_check.h"
#include "kernels/normquant_s8r_f32/normquant_s8r_f32_cuda.h"
#include "tests/kernels/cuda/cuda_kit.h"

namespace spikefold::kernels {
namespace {

using cuda::Array;
using cuda::Ok;
using cuda::TheStream;
namespace quantize = quantize_s8r_f32;
namespace hadamard = hadamard_f32_f32;

// Codes and what goes with them, of one side.
struct Codes {
  Codes(int64_t rows, int64_t width, const std::vector<int32_t>& kept_columns)
      : m(rows),
        k(width),
        stride((width + 15) / 16 * 16),
        q(rows * stride),
        scale(rows),
        kept_x(rows * static_cast<int64_t>(kept_columns.size())),
        kept(kept_columns),
        is_kept(Flags(width, kept_columns)),
        counters(std::vector<uint64_t>{0, 0, 0}) {}
  static std::vector<uint8_t> Flags(int64_t k, const std::vector<int32_t>& columns) {
    std::vector<uint8_t> flags(static_cast<size_t>(k), 0);
    for (const int32_t c : columns) flags[static_cast<size_t>(c)] = 1;
    return flags;
  }
  quantize::CudaParams Params(const float* x, float static_scale) const {
    return {.m = m,
            .k = k,
            .q_stride = stride,
            .x = x,
            .static_scale = static_scale,
            .is_kept = kept.size() > 0 ? is_kept.data() : nullptr,
            .num_kept = kept.size(),
            .kept = kept.data(),
            .q = q.data(),
            .scale = scale.data(),
            .kept_x = kept_x.data(),
            .counters = reinterpret_cast<quantize::CudaCounters*>(counters.data())};
  }
  int64_t m, k, stride;
  Array<int8_t> q;
  Array<float> scale, kept_x;
  Array<int32_t> kept;
  Array<uint8_t> is_kept;
  Array<uint64_t> counters;
};

void Compare(const std::string& name, const Codes& fused, const Codes& apart,
             const Array<float>& fused_floats, const Array<float>& floats, CheckReport& report) {
  report.CompareExact(absl::StrCat(name, " codes"), fused.q.Read(), apart.q.Read());
  report.CompareExact(absl::StrCat(name, " scales"), fused.scale.Read(), apart.scale.Read());
  report.CompareExact(absl::StrCat(name, " kept"), fused.kept_x.Read(), apart.kept_x.Read());
  report.CompareExact(absl::StrCat(name, " floats"), fused_floats.Read(), floats.Read());
  CHECK(fused.counters.Read() == apart.counters.Read());
}

struct Case {
  int64_t m, k;
  int64_t block = 0;  // of the rotation; 0: none
  float static_scale = 0;
  bool shift = false;
  bool keeps = true;  // columns
};
const std::vector<Case> kCases = {{1, 576},
                                  {3, 100, 0, 0.03f},
                                  {70, 576, 576},
                                  {5, 1536, 1536, 0.05f},
                                  {2, 2048, 256},
                                  {3, 576, 0, 0.02f, true},
                                  {7, 576, 0, 0, true},
                                  {70, 4096},  // rows that threads do not keep
                                  {2, 8704},
                                  {5, 1536, 512, 0.05f, true},
                                  {66, 576, 64, 0, true},
                                  {2, 14336, 14336},
                                  {2, 28672, 28672},  // more shared memory than some devices have
                                  {2, 12000},       // just below the shared memory that need not be asked for
                                  {3, 9728, 9728},  // 76 x 128: a table that no thread holds
                                  {3, 4096, 0, 0, true, false},
                                  {66, 1540, 0, 0.05f, true, false},
                                  {67, 14336, 0, 0, false, false},
                                  {2, 640, 640, 0, false, false}};

// The shift of a case; empty: none.
std::vector<float> ShiftOf(const Case& c) { return c.shift ? RandomFloats(c.k, 8) : std::vector<float>(); }
// Rows on the host, after what a kernel of its own takes off.
void Shift(const std::vector<float>& by, const Case& c, const Array<float>& rows) {
  if (by.empty()) return;
  std::vector<float> host = rows.Read();
  for (size_t i = 0; i < host.size(); ++i) host[i] -= by[i % by.size()];
  const Array<float> device_by(by);
  Ok(cuda::SubtractFromRows(device_by.data(), c.m, c.k, rows.data(), TheStream()));
  CHECK(rows.Read() == host);
}

TEST_CASE("A norm that quantizes equals the norm, the rotation and the quantizer", "[gpu][fused]") {
  CheckReport report;
  for (const Case& c : kCases) {
    if (!quantize::Fits(c.k, cuda::MaxSharedBytes())) continue;
    for (const bool sandwich : {false, true}) {
      const std::vector<float> h = RandomFloats(c.m * c.k, 1), b = RandomFloats(c.m * c.k, 2);
      const Array<float> gain(RandomFloats(c.k, 3)), branch_gain(RandomFloats(c.k, 4)), branch(b);
      const Array<float> residual_fused(h), residual(h), y_fused(c.m * c.k), y(c.m * c.k);
      const std::vector<int32_t> kept = c.keeps ? std::vector<int32_t>{0, 7} : std::vector<int32_t>();
      const Codes fused(c.m, c.k, kept), apart(c.m, c.k, kept);
      hadamard::CudaRotation rotation;
      hadamard::CudaPlan plan;
      if (c.block > 0) {
        Ok(rotation.Set(HadamardFactors(c.block), RandomFloats(c.k, 5), TheStream()));
        plan = rotation.plan();
      }
      norm_f32_f32::CudaParams norm = {.m = c.m,
                                       .k = c.k,
                                       .residual = residual.data(),
                                       .branch = branch.data(),
                                       .branch_gain = sandwich ? branch_gain.data() : nullptr,
                                       .gain = gain.data(),
                                       .eps = 1e-5f,
                                       .y = y.data()};
      Ok(norm_f32_f32::RunCuda(norm, TheStream()));
      Ok(hadamard::RunCuda({.m = c.m, .n = c.k, .plan = plan, .x = y.data()}, TheStream()));
      const std::vector<float> by = ShiftOf(c);
      const Array<float> shift(by);
      Shift(by, c, y);
      Ok(quantize::RunCuda(apart.Params(y.data(), c.static_scale), TheStream()));
      norm.residual = residual_fused.data();
      norm.y = y_fused.data();
      Ok(normquant_s8r_f32::RunCuda({.norm = norm,
                                     .rotation = plan,
                                     .shift = c.shift ? shift.data() : nullptr,
                                     .quantize = fused.Params(nullptr, c.static_scale)},
                                    TheStream()));
      const std::string name = absl::StrCat("M=", c.m, " K=", c.k, " block=", c.block);
      Compare(name, fused, apart, y_fused, y, report);
      report.CompareExact(absl::StrCat(name, " residual"), residual_fused.Read(), residual.Read());
    }
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("A gated product that quantizes equals the product, the rotation and the quantizer",
          "[gpu][fused]") {
  CheckReport report;
  for (const Case& c : kCases) {
    if (!quantize::Fits(c.k, cuda::MaxSharedBytes())) continue;
    const Array<float> gate(RandomFloats(c.m * c.k, 1)), up(RandomFloats(c.m * c.k, 2)), y_fused(c.m * c.k),
        y(c.m * c.k), turned_fused(RandomFloats(c.m * c.k, 6)), turned(RandomFloats(c.m * c.k, 6));
    const std::vector<int32_t> kept = c.keeps ? std::vector<int32_t>{3} : std::vector<int32_t>();
    const Codes fused(c.m, c.k, kept), apart(c.m, c.k, kept), fused2(c.m, c.k, kept), apart2(c.m, c.k, kept);
    hadamard::CudaRotation rotation;
    hadamard::CudaPlan plan;
    if (c.block > 0) {
      Ok(rotation.Set(HadamardFactors(c.block), RandomFloats(c.k, 5), TheStream()));
      plan = rotation.plan();
    }
    gatedmul_f32_f32::Params product = {
        .count = c.m * c.k, .gate = gate.data(), .up = up.data(), .y = y.data()};
    Ok(gatedmul_f32_f32::RunCuda(product, TheStream()));
    Ok(hadamard::RunCuda({.m = c.m, .n = c.k, .plan = plan, .x = y.data()}, TheStream()));
    const std::vector<float> by = ShiftOf(c);
    const Array<float> shift(by);
    const float* const device_shift = c.shift ? shift.data() : nullptr;
    Shift(by, c, y);
    Ok(quantize::RunCuda(apart.Params(y.data(), c.static_scale), TheStream()));
    product.y = y_fused.data();
    Ok(gatedmulquant_s8r_f32::RunCuda({.gatedmul = product,
                                       .rotation = plan,
                                       .shift = device_shift,
                                       .quantize = fused.Params(nullptr, c.static_scale)},
                                      TheStream()));
    const std::string name = absl::StrCat("M=", c.m, " K=", c.k, " block=", c.block);
    Compare(name, fused, apart, y_fused, y, report);
    if (c.block == 0 && !c.shift) continue;
    Ok(hadamard::RunCuda({.m = c.m, .n = c.k, .plan = plan, .x = turned.data()}, TheStream()));
    Shift(by, c, turned);
    Ok(quantize::RunCuda(apart2.Params(turned.data(), c.static_scale), TheStream()));
    Ok(hadamardquant_s8r_f32::RunCuda({.x = turned_fused.data(),
                                       .rotation = plan,
                                       .shift = device_shift,
                                       .quantize = fused2.Params(nullptr, c.static_scale)},
                                      TheStream()));
    Compare(absl::StrCat(name, " turned"), fused2, apart2, turned_fused, turned, report);
  }
  INFO(report.detail);
  CHECK(report.ok());
}

TEST_CASE("Codes do not depend on whether somebody wants the floats, nor on how wide rows are read",
          "[gpu][fused]") {
  CheckReport report;
  const std::vector<Case> cases = {{3, 101},    {70, 576},  {5, 1536, 512}, {2, 12288, 0, 0.02f},
                                   {65, 12288}, {3, 14336}, {16, 4100}};  // rows that a cluster shares
  for (const Case& c : cases) {
    const Array<float> gate(RandomFloats(c.m * c.k, 1)), up(RandomFloats(c.m * c.k, 2)), y(c.m * c.k);
    const Array<float> gain(RandomFloats(c.k, 3)), branch(RandomFloats(c.m * c.k, 4));
    const Array<float> residual(RandomFloats(c.m * c.k, 5)), residual2(RandomFloats(c.m * c.k, 5));
    hadamard::CudaRotation rotation;
    hadamard::CudaPlan plan;
    if (c.block > 0) {
      Ok(rotation.Set(HadamardFactors(c.block), RandomFloats(c.k, 6), TheStream()));
      plan = rotation.plan();
    }
    // One value at a time, as where columns are kept: flags, none of them set.
    const auto narrow = [&](const Codes& codes) {
      quantize::CudaParams p = codes.Params(nullptr, c.static_scale);
      p.is_kept = codes.is_kept.data();
      return p;
    };
    const std::string name = absl::StrCat("M=", c.m, " K=", c.k);
    {
      const Codes with(c.m, c.k, {}), without(c.m, c.k, {});
      gatedmul_f32_f32::Params product = {
          .count = c.m * c.k, .gate = gate.data(), .up = up.data(), .y = y.data()};
      Ok(gatedmulquant_s8r_f32::RunCuda({.gatedmul = product, .rotation = plan, .quantize = narrow(with)},
                                        TheStream()));
      product.y = nullptr;
      Ok(gatedmulquant_s8r_f32::RunCuda(
          {.gatedmul = product, .rotation = plan, .quantize = without.Params(nullptr, c.static_scale)},
          TheStream()));
      Compare(absl::StrCat(name, " gated"), without, with, y, y, report);
    }
    const Codes with(c.m, c.k, {}), without(c.m, c.k, {});
    norm_f32_f32::CudaParams norm = {.m = c.m,
                                     .k = c.k,
                                     .residual = residual.data(),
                                     .branch = branch.data(),
                                     .gain = gain.data(),
                                     .eps = 1e-5f,
                                     .y = y.data()};
    Ok(normquant_s8r_f32::RunCuda({.norm = norm, .rotation = plan, .quantize = narrow(with)}, TheStream()));
    norm.residual = residual2.data();
    norm.y = nullptr;
    Ok(normquant_s8r_f32::RunCuda(
        {.norm = norm, .rotation = plan, .quantize = without.Params(nullptr, c.static_scale)}, TheStream()));
    Compare(absl::StrCat(name, " norm"), without, with, y, y, report);
    report.CompareExact(absl::StrCat(name, " residual"), residual2.Read(), residual.Read());
  }
  INFO(report.detail);
  CHECK(report.ok());
}

}  // namespace
}  // namespace spikefold::kernels
