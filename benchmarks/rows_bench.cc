// usage: rows_bench [--m M,M,...] [--rounds R] [--csv]
// Times on this GPU what stands between the linears: norms, gated products, rotations and the codes they make
// in the same pass, beside a copy of as many bytes in the same run. Graphs of launches over buffers that
// together exceed the L2 cache (a few rows excepted), kernels by turns, the median of the rounds. Rows of
// Llama-3-8B: 4096 wide, 14336 in its FFN.
#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "benchmarks/cuda_bench_options.h"
#include "benchmarks/cuda_peers.h"
#include "benchmarks/turns.h"
#include "formats/base/hadamard.h"
#include "formats/base/status.h"
#include "formats/base/version.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"
#include "kernels/gatedmul_f32_f32/gatedmul_f32_f32_cuda.h"
#include "kernels/gatedmulquant_s8r_f32/gatedmulquant_s8r_f32_cuda.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32_cuda.h"
#include "kernels/hadamardquant_s8r_f32/hadamardquant_s8r_f32_cuda.h"
#include "kernels/norm_f32_f32/norm_f32_f32_cuda.h"
#include "kernels/normquant_s8r_f32/normquant_s8r_f32_cuda.h"

namespace spikefold::benchmarks {
namespace {

namespace cuda = kernels::cuda;
namespace quantize = kernels::quantize_s8r_f32;
namespace hadamard = kernels::hadamard_f32_f32;

constexpr int64_t kHidden = 4096, kWide = 14336;
constexpr int64_t kLeastBytes = int64_t{256} << 20;  // that launches go around
constexpr float kStaticScale = 0.02f;

struct Contender {
  std::string name;
  int64_t k = 0, bytes = 0;  // bytes that must move
  std::function<absl::Status(int64_t copy)> launch;
  Turns turns;
  double median() const { return turns.median(); }
};

class Bench {
 public:
  Bench(const Options& options, const cuda::DeviceInfo& device, const cuda::Stream& stream)
      : options_(options), device_(device), stream_(stream) {}

  absl::Status Run() {
    std::printf("# %s, driver %d.%d\n", device_.name.c_str(), device_.driver / 1000,
                device_.driver % 1000 / 10);
    if (options_.csv) std::printf("commit,kernel,m,k,us,gbytes_per_s,of_copy\n");
    SF_RETURN_IF_ERROR(SetRotations());
    for (const int64_t m : options_.m) SF_RETURN_IF_ERROR(Rows(m));
    return absl::OkStatus();
  }

 private:
  absl::Status SetRotations() {
    for (const auto& [k, rotation] :
         {std::pair(kHidden, &rotation_hidden_), std::pair(kWide, &rotation_wide_)}) {
      const std::vector<float> scale(static_cast<size_t>(k), 0.01f);
      SF_RETURN_IF_ERROR(rotation->Set(HadamardFactors(k), scale, stream_));
    }
    return absl::OkStatus();
  }

  absl::Status Rows(int64_t m) {
    contenders_.clear();
    const int64_t floats = std::max(CopiesOf(m, kHidden) * kHidden, CopiesOf(m, kWide) * kWide) * m;
    for (cuda::DeviceMemory* memory : {&a_, &b_, &y_}) {
      SF_RETURN_IF_ERROR(memory->Reserve(static_cast<size_t>(floats) * sizeof(float)));
      SF_RETURN_IF_ERROR(FillFloats(memory->as<float>(), floats, 1.0f, 5, stream_));
    }
    SF_RETURN_IF_ERROR(codes_.Reserve(static_cast<size_t>(floats)));
    SF_RETURN_IF_ERROR(scale_.Reserve(static_cast<size_t>(CopiesOf(m, kHidden) * m) * sizeof(float)));
    SF_RETURN_IF_ERROR(gain_.Reserve(kWide * sizeof(float)));
    SF_RETURN_IF_ERROR(FillFloats(gain_.as<float>(), kWide, 1.0f, 6, stream_));
    SF_RETURN_IF_ERROR(counters_.Reserve(sizeof(quantize::CudaCounters)));
    Copy(m, kHidden);
    Copy(m, kWide);
    Norms(m);
    Gates(m);
    Rotations(m);
    return Time(m);
  }

  static int64_t CopiesOf(int64_t m, int64_t k) {
    constexpr int64_t kMost = 1024;
    return std::clamp<int64_t>(kLeastBytes / (m * k * 4), 2, kMost);
  }
  float* At(const cuda::DeviceMemory& memory, int64_t m, int64_t k, int64_t copy) const {
    return memory.as<float>() + copy * m * k;
  }
  quantize::CudaParams Codes(int64_t m, int64_t k, int64_t copy, float static_scale) const {
    return {.m = m,
            .k = k,
            .q_stride = k,
            .static_scale = static_scale,
            .q = codes_.as<int8_t>() + copy * m * k,
            .scale = scale_.as<float>() + copy * m,
            .counters = counters_.as<quantize::CudaCounters>()};
  }
  void Add(std::string name, int64_t k, int64_t bytes, std::function<absl::Status(int64_t)> launch) {
    Contender c;
    c.name = std::move(name);
    c.k = k;
    c.bytes = bytes;
    c.launch = std::move(launch);
    contenders_.push_back(std::move(c));
  }

  void Copy(int64_t m, int64_t k) {
    Add("copy", k, 8 * m * k, [=, this](int64_t copy) {
      return cuda::CopyDevice(At(y_, m, k, copy), At(a_, m, k, copy),
                              static_cast<size_t>(m * k) * sizeof(float), stream_);
    });
  }
  void Norms(int64_t m) {
    constexpr int64_t k = kHidden;
    const auto norm = [=, this](int64_t copy) {
      return kernels::norm_f32_f32::CudaParams{.m = m,
                                               .k = k,
                                               .residual = At(a_, m, k, copy),
                                               .branch = At(b_, m, k, copy),
                                               .gain = gain_.as<float>(),
                                               .eps = 1e-5f,
                                               .y = At(y_, m, k, copy)};
    };
    Add("norm", k, 16 * m * k,
        [=, this](int64_t copy) { return kernels::norm_f32_f32::RunCuda(norm(copy), stream_); });
    for (const float scale : {0.0f, kStaticScale}) {
      Add(scale > 0 ? "normquant static" : "normquant", k, 13 * m * k, [=, this](int64_t copy) {
        kernels::normquant_s8r_f32::CudaParams p = {.norm = norm(copy), .quantize = Codes(m, k, copy, scale)};
        p.norm.y = nullptr;
        return kernels::normquant_s8r_f32::RunCuda(p, stream_);
      });
    }
  }
  void Gates(int64_t m) {
    constexpr int64_t k = kWide;
    const auto gate = [=, this](int64_t copy) {
      return kernels::gatedmul_f32_f32::Params{
          .count = m * k, .gate = At(a_, m, k, copy), .up = At(b_, m, k, copy), .y = At(y_, m, k, copy)};
    };
    Add("gatedmul", k, 12 * m * k,
        [=, this](int64_t copy) { return kernels::gatedmul_f32_f32::RunCuda(gate(copy), stream_); });
    const auto quantized = [=, this](int64_t copy, float scale, const hadamard::CudaPlan& rotation) {
      kernels::gatedmulquant_s8r_f32::CudaParams p = {
          .gatedmul = gate(copy), .rotation = rotation, .quantize = Codes(m, k, copy, scale)};
      p.gatedmul.y = nullptr;
      return kernels::gatedmulquant_s8r_f32::RunCuda(p, stream_);
    };
    for (const float scale : {0.0f, kStaticScale}) {
      Add(scale > 0 ? "gatedmulquant static" : "gatedmulquant", k, 9 * m * k,
          [=](int64_t copy) { return quantized(copy, scale, {}); });
    }
    Add("gatedmulquant rotated", k, 9 * m * k,
        [=, this](int64_t copy) { return quantized(copy, 0, rotation_wide_.plan()); });
  }
  void Rotations(int64_t m) {
    for (const auto& [k, rotation] :
         {std::pair(kHidden, &rotation_hidden_), std::pair(kWide, &rotation_wide_)}) {
      const int64_t width = k;
      const hadamard::CudaPlan plan = rotation->plan();
      Add("hadamardquant", width, 9 * m * width, [=, this](int64_t copy) {
        return kernels::hadamardquant_s8r_f32::RunCuda(
            {.x = At(b_, m, width, copy), .rotation = plan, .quantize = Codes(m, width, copy, 0)}, stream_);
      });
    }
  }

  absl::Status Time(int64_t m) {
    SF_RETURN_IF_ERROR(TimeByTurns(
        contenders_, [&](const Contender& c) { return CopiesOf(m, c.k); }, options_.rounds, stream_));
    for (const Contender& c : contenders_) {
      const auto copy = std::find_if(contenders_.begin(), contenders_.end(),
                                     [&](const Contender& o) { return o.name == "copy" && o.k == c.k; });
      const auto rate = [](const Contender& of) { return static_cast<double>(of.bytes) / of.median(); };
      const char* const format = options_.csv ? "%s,%s,%ld,%ld,%.2f,%.0f,%.3f\n"
                                              : "%s %-22s %6ld %6ld %9.2f us %7.0f GB/s %6.3f of copy\n";
      std::printf(format, options_.csv ? ToolCommit().c_str() : "", c.name.c_str(), static_cast<long>(m),
                  static_cast<long>(c.k), c.median() * 1e6, rate(c) * 1e-9, rate(c) / rate(*copy));
    }
    std::fflush(stdout);
    return absl::OkStatus();
  }

  const Options& options_;
  const cuda::DeviceInfo& device_;
  const cuda::Stream& stream_;
  cuda::DeviceMemory a_, b_, y_, codes_, scale_, gain_, counters_;
  hadamard::CudaRotation rotation_hidden_, rotation_wide_;
  std::vector<Contender> contenders_;
};

}  // namespace
}  // namespace spikefold::benchmarks

int main(int argc, char** argv) {
  namespace benchmarks = spikefold::benchmarks;
  constexpr char kUsage[] = "rows_bench [--m M,...] [--rounds R] [--csv]";
  return benchmarks::RunMain(argc, argv, kUsage, {.m = {1, 16, 512, 4096}},
                             [](const auto& options, const auto& device, const auto& stream) {
                               return benchmarks::Bench(options, device, stream).Run();
                             });
}
