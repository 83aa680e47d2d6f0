// usage: cuda_bench [--m M,M,...] [--shape NxK,NxK,...] [--rounds R] [--csv] [--plans KERNEL,...]
//                   [--only NAME,...]
// Times W8A8, W4A8 and W4A16 on this GPU beside cuBLASLt, and CUTLASS and Marlin where they were built in:
// graphs of launches over weights that together exceed the L2 cache, contenders by turns, the median of the
// rounds. Prints a table, or lines for benchmarks/history/<device>.csv. --plans: every way to share out a
// product of few rows as well, of these kernels: w8a8, w4a8 (up to 64 rows), w4a16. --only: contenders whose
// names begin so, and "bf16", which the others are compared with.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "benchmarks/cuda_bench_options.h"
#include "benchmarks/cuda_peers.h"
#include "benchmarks/cutlass_peer.h"
#include "benchmarks/marlin_peer.h"
#include "benchmarks/turns.h"
#include "formats/base/dtype.h"
#include "formats/base/status.h"
#include "formats/base/version.h"
#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/read_rate.h"
#include "kernels/matmul_bf16_s8r_s8c/matmul_bf16_s8r_s8c.h"
#include "kernels/matmul_f32_f32_bf16/matmul_f32_f32_bf16_cuda.h"
#include "kernels/matmul_f32_f32_s4g/matmul_f32_f32_s4g_cuda.h"
#include "kernels/matmul_f32_f32_s8c/matmul_f32_f32_s8c_cuda.h"
#include "kernels/matmul_f32_f32_sxg/matmul_f32_f32_sxg_cuda.h"
#include "kernels/matmul_f32_s8r_s4g/matmul_f32_s8r_s4g_cuda.h"
#include "kernels/matmul_f32_s8r_s8c/matmul_f32_s8r_s8c_cuda.h"
#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg_cuda.h"
#include "kernels/matmul_f32_s8r_u4h/matmul_f32_s8r_u4h_cuda.h"

namespace spikefold::benchmarks {
namespace {

namespace cuda = kernels::cuda;
namespace s8c = kernels::matmul_f32_s8r_s8c;
namespace code_rows = kernels::matmul_f32_f32_s8c;
namespace s4g = kernels::matmul_f32_f32_s4g;
namespace bf16_weights = kernels::matmul_f32_f32_bf16;
namespace sxg = kernels::matmul_f32_s8r_sxg;
namespace u4h = kernels::matmul_f32_s8r_u4h;
namespace w8a8 = kernels::matmul_bf16_s8r_s8c;
using cuda::few::Plan;

constexpr int64_t kLeastBytes = int64_t{256} << 20;  // of weights that launches take by turns

struct Contender {
  std::string name;
  int64_t weight_bytes = 0;  // of one copy
  int64_t copies = 0;        // 0: the bench's
  std::function<absl::Status(int64_t copy)> launch;
  Turns turns;
  double median() const { return turns.median(); }
};

struct Way {  // of W8A8 with bf16 outputs and of W4A8; by default chosen by shape
  cuda::pingpong::Plan tiles;
  cuda::few::Plan few;
  bool sm80 = false;
};

class Bench {
 public:
  Bench(const Options& options, const cuda::DeviceInfo& device, const cuda::Stream& stream)
      : options_(options), device_(device), stream_(stream) {}

  absl::Status Run() {
    SF_RETURN_IF_ERROR(Ceilings());
    for (const auto& [n, k] : options_.shapes) {
      SF_RETURN_IF_ERROR(MakeOperands(n, k));
      for (const int64_t m : options_.m) SF_RETURN_IF_ERROR(Shape(m, n, k));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Ceilings() {
    constexpr int64_t kBytes = int64_t{4} << 30;
    cuda::DeviceMemory a, b;
    SF_RETURN_IF_ERROR(a.Reserve(kBytes));
    SF_RETURN_IF_ERROR(b.Reserve(kBytes));
    SF_RETURN_IF_ERROR(FillBytes(a.as<void>(), kBytes, 1, stream_));
    cuda::Timer timer(stream_);
    double read = 1e30, copy = 1e30;
    for (int i = 0; i < 6; ++i) {
      SF_RETURN_IF_ERROR(timer.Start());
      SF_RETURN_IF_ERROR(cuda::ReadAll(a.as<void>(), kBytes, b.as<uint32_t>(), device_, stream_));
      SF_ASSIGN_OR_RETURN(const double seconds, timer.Stop());
      SF_RETURN_IF_ERROR(timer.Start());
      SF_RETURN_IF_ERROR(cuda::CopyDevice(b.as<void>(), a.as<void>(), kBytes, stream_));
      SF_ASSIGN_OR_RETURN(const double copied, timer.Stop());
      if (i == 0) continue;
      read = std::min(read, seconds);
      copy = std::min(copy, copied);
    }
    read_rate_ = kBytes / read;
    std::printf("# %s, %d multiprocessors, L2 %.0f MB, driver %d.%d: read %.0f GB/s, copy %.0f GB/s\n",
                device_.name.c_str(), device_.num_sms, static_cast<double>(device_.l2_bytes) * 1e-6,
                device_.driver / 1000, device_.driver % 1000 / 10, read_rate_ * 1e-9,
                2 * kBytes / copy * 1e-9);
    if (options_.csv) std::printf("commit,kernel,m,n,k,r,us,gbytes_per_s,of_read,tera_ops,over_bf16\n");
    return absl::OkStatus();
  }

  // Weights for all contenders: bytes of the widest, filled as each type wants when it is its turn.
  absl::Status MakeOperands(int64_t n, int64_t k) {
    const int64_t max_m = *std::max_element(options_.m.begin(), options_.m.end());
    copies_ = std::max<int64_t>(2, (kLeastBytes + n * k - 1) / (n * k));
    const auto most = static_cast<size_t>(copies_ * InTiles(n) * k);
    SF_RETURN_IF_ERROR(w8_.Reserve(most));
    SF_RETURN_IF_ERROR(w16_.Reserve(2 * most));
    SF_RETURN_IF_ERROR(fp8_.Reserve(most));
    SF_RETURN_IF_ERROR(x8_.Reserve(static_cast<size_t>(max_m * k)));
    SF_RETURN_IF_ERROR(x16_.Reserve(static_cast<size_t>(2 * max_m * k)));
    SF_RETURN_IF_ERROR(x_fp8_.Reserve(static_cast<size_t>(max_m * k)));
    SF_RETURN_IF_ERROR(kept_x_.Reserve(static_cast<size_t>(2 * max_m * kKept)));
    SF_RETURN_IF_ERROR(kept_w_.Reserve(static_cast<size_t>(2 * n * kKept)));
    SF_RETURN_IF_ERROR(x_scale_.Reserve(static_cast<size_t>(max_m) * 4));
    SF_RETURN_IF_ERROR(w_scale_.Reserve(static_cast<size_t>(n) * 4));
    // Of the scales of 4-bit codes, pairs of bf16 below 4 in size.
    const std::vector<float> units(static_cast<size_t>(InTiles(n)), 0x1p11f);
    SF_RETURN_IF_ERROR(w_unit_.Reserve(units.size() * sizeof(float)));
    SF_RETURN_IF_ERROR(cuda::CopyIn(w_unit_.as<void>(), units.data(), units.size() * sizeof(float), stream_));
    if (HasMarlin()) {
      const size_t bytes = static_cast<size_t>(MarlinLocks(n)) * sizeof(int32_t);
      SF_RETURN_IF_ERROR(locks_.Reserve(bytes));
      SF_RETURN_IF_ERROR(cuda::Fill(locks_.as<void>(), 0, bytes, stream_));
    }
    SF_RETURN_IF_ERROR(y_.Reserve(static_cast<size_t>(2 * max_m * n)));
    SF_RETURN_IF_ERROR(sums_.Reserve(static_cast<size_t>(4 * max_m * n)));
    const int64_t floats = max_m * std::max(k, kKept);
    SF_RETURN_IF_ERROR(parts_.Reserve(bf16_weights::PartsBytes(max_m, k, bf16_weights::Rows::kExact)));
    size_t scratch = 0;
    for (const int64_t m : options_.m) {
      cuda::SimtParams p = {.m = m, .k = k, .linears = {.count = 1}};
      p.linears.linear[0].n = n;
      scratch = std::max({scratch, s4g::ManyScratchBytes(p), code_rows::DigitScratchBytes(p)});
    }
    SF_RETURN_IF_ERROR(wide_.Reserve(scratch));
    SF_RETURN_IF_ERROR(x32_.Reserve(static_cast<size_t>(floats) * 4));
    SF_RETURN_IF_ERROR(FillFloats(x32_.as<float>(), floats, 1.0f, 11, stream_));
    SF_RETURN_IF_ERROR(FillBytes(w8_.as<void>(), copies_ * n * k, 1, stream_));
    SF_RETURN_IF_ERROR(FillFp8(fp8_.as<void>(), copies_ * n * k, 2, stream_));
    SF_RETURN_IF_ERROR(FillBf16(w16_.as<uint16_t>(), copies_ * n * k, 3, stream_));
    SF_RETURN_IF_ERROR(FillBytes(x8_.as<void>(), max_m * k, 4, stream_));
    SF_RETURN_IF_ERROR(FillFp8(x_fp8_.as<void>(), max_m * k, 5, stream_));
    SF_RETURN_IF_ERROR(FillBf16(x16_.as<uint16_t>(), max_m * k, 6, stream_));
    SF_RETURN_IF_ERROR(FillBf16(kept_x_.as<uint16_t>(), max_m * kKept, 7, stream_));
    SF_RETURN_IF_ERROR(FillBf16(kept_w_.as<uint16_t>(), n * kKept, 8, stream_));
    SF_RETURN_IF_ERROR(FillFloats(x_scale_.as<float>(), max_m, 0.01f, 9, stream_));
    SF_RETURN_IF_ERROR(FillFloats(w_scale_.as<float>(), n, 0.01f, 10, stream_));
    return stream_.Sync();
  }

  absl::Status AddPeer(const char* name, cuda::LtKind kind, int64_t m, int64_t n, int64_t k, bool rescale) {
    const bool bf16 = kind == cuda::LtKind::kBf16, s8 = kind == cuda::LtKind::kS8;
    cuda::LtBuffers buffers = {.x = bf16 ? x16_.as<void>()
                                    : s8 ? x8_.as<void>()
                                         : x_fp8_.as<void>(),
                               .w = bf16 ? w16_.as<void>()
                                    : s8 ? w8_.as<void>()
                                         : fp8_.as<void>(),
                               .y = s8 ? sums_.as<void>() : y_.as<void>(),
                               .x_scale = x_scale_.as<float>(),
                               .w_scale = w_scale_.as<float>()};
    auto peer = cuda::LtMatmul::Make(kind, m, n, k, buffers, stream_);
    if (!peer.ok()) {
      std::printf("# %s M=%ld N=%ld K=%ld: %s\n", name, static_cast<long>(m), static_cast<long>(n),
                  static_cast<long>(k), std::string(peer.status().message()).c_str());
      return absl::OkStatus();
    }
    peers_.push_back(*std::move(peer));
    cuda::LtMatmul* p = peers_.back().get();
    const int64_t bytes = n * k * (bf16 ? 2 : 1);
    contenders_.push_back({.name = name, .weight_bytes = bytes, .launch = [=, this](int64_t copy) {
                             cuda::LtBuffers turn = buffers;
                             turn.w = static_cast<const char*>(buffers.w) + copy * bytes;
                             SF_RETURN_IF_ERROR(p->Run(turn, stream_));
                             if (!rescale) return absl::OkStatus();
                             return Rescale(sums_.as<int32_t>(), x_scale_.as<float>(), w_scale_.as<float>(),
                                            m, n, y_.as<uint16_t>(), stream_);
                           }});
    return absl::OkStatus();
  }

  void AddOurs(const std::string& name, int64_t m, int64_t n, int64_t k, int64_t kept, Way way = {}) {
    contenders_.push_back({.name = name, .weight_bytes = n * k, .launch = [=, this](int64_t copy) {
                             return w8a8::Run({.m = m,
                                               .n = n,
                                               .k = k,
                                               .x = x8_.as<int8_t>(),
                                               .x_scale = x_scale_.as<float>(),
                                               .w = w8_.as<int8_t>() + copy * n * k,
                                               .w_scale = w_scale_.as<float>(),
                                               .num_kept = kept,
                                               .kept_x = kept_x_.as<uint16_t>(),
                                               .kept_w = kept_w_.as<uint16_t>(),
                                               .y = y_.as<uint16_t>(),
                                               .tiles = way.tiles,
                                               .plan = way.few,
                                               .sm80 = way.sm80},
                                              device_, stream_);
                           }});
  }

  // CUTLASS's INT8 products with the same scales. One that does not compute what ours does is left out.
  absl::Status AddCutlass(int64_t m, int64_t n, int64_t k) {
    if (CutlassGemms().empty()) return absl::OkStatus();
    const int64_t count = std::min(m * n, int64_t{1} << 20);
    const auto outputs = [&]() -> absl::StatusOr<std::vector<uint16_t>> {
      std::vector<uint16_t> y(static_cast<size_t>(count));
      SF_RETURN_IF_ERROR(cuda::CopyOut(y.data(), y_.as<void>(), y.size() * sizeof(uint16_t), stream_));
      SF_RETURN_IF_ERROR(stream_.Sync());
      SF_RETURN_IF_ERROR(
          cuda::Fill(y_.as<void>(), 0xff, static_cast<size_t>(m * n) * sizeof(uint16_t), stream_));
      return y;
    };
    AddOurs("", m, n, k, 0);
    SF_RETURN_IF_ERROR(contenders_.back().launch(0));
    contenders_.pop_back();
    SF_ASSIGN_OR_RETURN(const std::vector<uint16_t> ours, outputs());
    for (const CutlassGemm& gemm : CutlassGemms()) {
      if (!Wanted(gemm.name)) continue;
      const auto launch = [=, this](int64_t copy) {
        return gemm.run({.m = m,
                         .n = n,
                         .k = k,
                         .x = x8_.as<int8_t>(),
                         .w = w8_.as<int8_t>() + copy * n * k,
                         .x_scale = x_scale_.as<float>(),
                         .w_scale = w_scale_.as<float>(),
                         .y = y_.as<uint16_t>()},
                        cutlass_, stream_);
      };
      const absl::Status status = launch(0);
      if (absl::IsUnimplemented(status)) continue;
      SF_RETURN_IF_ERROR(status);
      SF_ASSIGN_OR_RETURN(const std::vector<uint16_t> theirs, outputs());
      // Scales are multiplied in another order: a last bit may differ.
      const double worst = WorstDifference(ours, theirs);
      if (worst > 0x1p-7) {
        std::printf("# %s M=%ld N=%ld K=%ld differs by %g\n", gemm.name, static_cast<long>(m),
                    static_cast<long>(n), static_cast<long>(k), worst);
        continue;
      }
      contenders_.push_back({.name = gemm.name, .weight_bytes = n * k, .launch = launch});
    }
    return absl::OkStatus();
  }

  // What the runtime's walk runs: float32 out. Or one of the kernels that it chooses from.
  enum class Walk { kChosen, kSm80, kHopper, kFewHopper };
  void AddWalk(const std::string& name, int64_t m, int64_t n, int64_t k, int64_t kept,
               Walk walk = Walk::kChosen, Plan plan = {}) {
    contenders_.push_back({.name = name, .weight_bytes = n * k, .launch = [=, this](int64_t copy) {
                             s8c::CudaParams p = Codes(m, k, kept);
                             p.linears.linear[0] = {.n = n,
                                                    .w = w8_.as<int8_t>() + copy * n * k,
                                                    .w_stride = k,
                                                    .w_scale = w_scale_.as<float>(),
                                                    .kept_w = kept > 0 ? kept_w_.as<uint16_t>() : nullptr,
                                                    .kept_stride = n,
                                                    .kept_rows = kept_w_.as<uint16_t>(),
                                                    .y = sums_.as<float>()};
                             switch (walk) {
                               case Walk::kSm80:
                                 return s8c::RunCuda(p, stream_);
                               case Walk::kHopper:
                                 return s8c::RunHopper(p, {}, device_, stream_);
                               case Walk::kFewHopper:
                                 return s8c::RunFewHopper(p, plan, device_, stream_);
                               default:
                                 return s8c::RunCuda(p, device_, stream_);
                             }
                           }});
  }
  s8c::CudaParams Codes(int64_t m, int64_t k, int64_t kept) const {
    return {.m = m,
            .k = k,
            .x = x8_.as<int8_t>(),
            .x_scale = x_scale_.as<float>(),
            .num_kept = kept,
            .kept_x = x32_.as<float>(),
            .kept_rows = kept_x_.as<uint16_t>(),
            .linears = {.count = 1}};
  }
  // Weights in groups of 64 with a zero point each: in tiles of 4-bit codes, or as a byte a code. Scales and
  // zero points lie in the bytes of other weights.
  enum class Groups { kTiles, kHopper, kSm80 };
  void AddGroups(const char* name, int64_t m, int64_t n, int64_t k, Groups groups) {
    constexpr int64_t kGroup = 64;
    const bool tiles = groups == Groups::kTiles;
    const int64_t rows = tiles ? InTiles(n) : n;
    const int64_t scales = rows * k / kGroup, code_bytes = tiles ? rows * k / 2 : n * k;
    contenders_.push_back({.name = name,
                           .weight_bytes = code_bytes + scales * (tiles ? 5 : 4),
                           .copies = tiles ? 2 * copies_ : 0,
                           .launch = [=, this](int64_t copy) {
                             s8c::CudaParams p = Codes(m, k, 0);
                             p.linears.linear[0] = {
                                 .n = n,
                                 .w = w8_.as<int8_t>() + copy * code_bytes,
                                 .w_stride = k,
                                 .w_scale = reinterpret_cast<const float*>(w16_.as<char>()) + copy * scales,
                                 .w_zero = tiles ? fp8_.as<uint8_t>() + copy * scales : nullptr,
                                 .group = kGroup,
                                 .y = sums_.as<float>()};
                             switch (groups) {
                               case Groups::kTiles:
                                 return kernels::matmul_f32_s8r_s4g::RunHopper(p, stream_);
                               case Groups::kHopper:
                                 return sxg::RunHopper(p, stream_);
                               default:
                                 return sxg::RunCuda(p, stream_);
                             }
                           }});
  }
  // Channels of 4-bit codes: whole pairs of tiles.
  static int64_t InTiles(int64_t n) { return (n + 31) / 32 * 32; }
  bool Wanted(const std::string& name) const {
    const auto begins = [&](const std::string& with) { return name.starts_with(with); };
    return options_.only.empty() || name == "bf16" ||
           std::any_of(options_.only.begin(), options_.only.end(), begins);
  }
  bool Plans(const char* kernel) const {
    return std::find(options_.plans.begin(), options_.plans.end(), kernel) != options_.plans.end();
  }
  // The same in two integer levels, factors of any kind: what they are takes no more or less time.
  void AddTwoLevels(const std::string& name, int64_t m, int64_t n, int64_t k, int64_t kept,
                    const Way& way = {}) {
    const int64_t bytes = (n + u4h::kTileRows - 1) / u4h::kTileRows *
                          ((k + u4h::kTileColumns - 1) / u4h::kTileColumns) * u4h::kTileBytes;
    contenders_.push_back({.name = name,
                           .weight_bytes = bytes,
                           .copies = copies_ * n * k / bytes,
                           .launch = [=, this](int64_t copy) {
                             s8c::CudaParams p = Codes(m, k, kept);
                             p.linears.linear[0] = {.n = n,
                                                    .w = w8_.as<char>() + copy * bytes,
                                                    .w_scale = w_scale_.as<float>(),
                                                    .kept_w = kept > 0 ? kept_w_.as<uint16_t>() : nullptr,
                                                    .kept_stride = n,
                                                    .kept_rows = kept_w_.as<uint16_t>(),
                                                    .y = sums_.as<float>()};
                             if (way.few.groups > 0) return u4h::RunFew(p, way.few, device_, stream_);
                             if (way.tiles.tile_m > 0) return u4h::RunMany(p, way.tiles, device_, stream_);
                             return u4h::RunHopper(p, device_, stream_);
                           }});
  }
  void AddTwoLevelPlans(int64_t m, int64_t n, int64_t k) {
    const int64_t rows = m <= 16 ? 16 : m <= 32 ? 32 : 64;
    for (const int groups : {1, 2, 4}) {
      for (const int splits : {1, 2, 3, 4, 6}) {
        for (const int64_t kib : {50, 72, 108, 150, 210}) {
          const int64_t stage = (rows * 128 + groups * u4h::kTileBytes + 1023) / 1024;
          const int stages = static_cast<int>(std::min<int64_t>(kib / stage, 24));
          const bool more_than_k = splits * (stages - 3) * u4h::kTileColumns > k && kib > 50;
          if (stages < 2 || more_than_k || (groups == 4 && kib < 100)) continue;
          AddTwoLevels(absl::StrCat("w4h g", groups, " s", splits, " k", kib), m, n, k, 0,
                       {.few = {.groups = groups, .splits = splits, .stages = stages}});
        }
      }
    }
  }
  // W8A8 of few rows, shared out in every way.
  void AddPlans(int64_t m, int64_t n, int64_t k) {
    if (m <= 32) AddWalk("w8a8 f32 sm80", m, n, k, 0, Walk::kSm80);
    if (m > 32) AddWalk("w8a8 f32 tiles", m, n, k, 0, Walk::kHopper);
    const int64_t rows = m <= 16 ? 16 : m <= 32 ? 32 : 64;
    for (const int groups : {1, 2}) {
      for (const int splits : {1, 2, 4}) {
        for (const int64_t kib : {72, 111, 200}) {
          const int stages =
              static_cast<int>(std::min<int64_t>((kib << 10) / ((64 * groups + rows) * 128), 12));
          const Plan plan = {.groups = groups, .splits = splits, .stages = stages};
          const std::string name = absl::StrCat(" g", groups, " s", splits, " k", kib);
          AddWalk(absl::StrCat("f32", name), m, n, k, 0, Walk::kFewHopper, plan);
          if (kib == 111) AddOurs(absl::StrCat("bf16", name), m, n, k, 0, {.few = plan});
        }
      }
    }
  }

  enum class W4 { kSm80, kClusters, kFew, kMany };
  // Codes and scales lie in the bytes of the other weights: any bits are codes, pairs of bf16 are floats.
  void AddW4(const std::string& name, int64_t m, int64_t n, int64_t k, W4 kernel, Plan plan = {}) {
    constexpr int64_t kGroup = 64;
    const int64_t rows = InTiles(n), code_bytes = rows * k / 2, scale_bytes = rows * k / kGroup * 4;
    contenders_.push_back(
        {.name = name,
         .weight_bytes = code_bytes + scale_bytes,
         .copies = 2 * copies_,
         .launch = [=, this](int64_t copy) {
           cuda::SimtParams p = {.m = m, .k = k, .x = x32_.as<float>(), .linears = {.count = 1}};
           p.linears.linear[0] = {
               .n = n,
               .w = w8_.as<char>() + copy * code_bytes,
               .w_scale = reinterpret_cast<const float*>(w16_.as<char>() + copy * scale_bytes),
               .w_unit = w_unit_.as<float>(),
               .group = kGroup,
               .y = sums_.as<float>()};
           if (kernel == W4::kMany) return s4g::RunMany(p, wide_.as<void>(), device_, stream_);
           if (kernel == W4::kFew) return s4g::RunFew(p, parts_.as<void>(), plan, device_, stream_);
           return kernel == W4::kClusters ? s4g::RunHopper(p, stream_) : s4g::RunCuda(p, stream_);
         }});
  }
  void AddMarlin(int64_t m, int64_t n, int64_t k) {
    if (!HasMarlin()) return;
    const int64_t code_bytes = n * k / 2, scale_bytes = n * k / 128 * 2;
    contenders_.push_back({.name = "marlin",
                           .weight_bytes = code_bytes + scale_bytes,
                           .copies = 2 * copies_,
                           .launch = [=, this](int64_t copy) {
                             return RunMarlin(x16_.as<void>(), w8_.as<char>() + copy * code_bytes,
                                              w16_.as<char>() + copy * scale_bytes, y_.as<void>(), m, n, k,
                                              locks_.as<int32_t>(), stream_);
                           }});
    if (!contenders_.back().launch(0).ok()) contenders_.pop_back();
  }
  void AddW4Plans(int64_t m, int64_t n, int64_t k) {
    for (const int groups : {1, 2}) {
      for (const int splits : {1, 2, 3, 4, 6}) {
        for (const int stages : {0, 4}) {
          for (const int rows : {32, 64, 128}) {
            if (rows / 2 >= std::max<int64_t>(m, 32) || 2 * rows < m) continue;
            AddW4(absl::StrCat("w4a16 g", groups, " s", splits, " n", stages, " r", rows), m, n, k, W4::kFew,
                  {.groups = groups, .splits = splits, .stages = stages, .rows = rows});
            if (!contenders_.back().launch(0).ok()) contenders_.pop_back();  // more than shared memory holds
          }
        }
      }
    }
  }

  // Float rows times 8-bit codes, what the walk runs without quantized activations. kCodeGroup: with a scale
  // a group (any bits are floats), otherwise one a channel.
  static constexpr int64_t kCodeGroup = 64;
  void AddCodeRows(const char* name, code_rows::Path path, bool groups, int64_t m, int64_t n, int64_t k) {
    contenders_.push_back(
        {.name = name, .weight_bytes = n * k, .launch = [=, this](int64_t copy) {
           cuda::SimtParams p = {.m = m, .k = k, .x = x32_.as<float>(), .linears = {.count = 1}};
           p.linears.linear[0] = {.n = n,
                                  .w = w8_.as<char>() + copy * n * k,
                                  .w_stride = k,
                                  .w_scale = groups ? w16_.as<float>() : w_scale_.as<float>(),
                                  .group = groups ? kCodeGroup : 0,
                                  .y = sums_.as<float>()};
           switch (path) {
             case code_rows::Path::kRow:
               return code_rows::RunRow(p, stream_);
             case code_rows::Path::kWide:
               return code_rows::RunWide(p, wide_.as<void>(), device_, stream_);
             case code_rows::Path::kDigits:
               return code_rows::RunDigits(p, wide_.as<void>(), device_, stream_);
             case code_rows::Path::kDirect:
               break;
           }
           return groups ? kernels::matmul_f32_f32_sxg::RunCuda(p, stream_) : code_rows::RunCuda(p, stream_);
         }});
  }
  // Few float rows times bf16 weights.
  void AddBf16FewRows(const char* name, int64_t m, int64_t n, int64_t k) {
    contenders_.push_back(
        {.name = name, .weight_bytes = 2 * n * k, .launch = [=, this](int64_t copy) {
           cuda::SimtParams p = {.m = m, .k = k, .x = x32_.as<float>(), .linears = {.count = 1}};
           p.linears.linear[0] = {
               .n = n, .w = w16_.as<uint16_t>() + copy * n * k, .w_stride = k, .y = sums_.as<float>()};
           return bf16_weights::RunCuda(p, stream_);
         }});
  }

  // Many float rows times bf16 weights on the tensor cores.
  void AddBf16Rows(const char* name, bf16_weights::Rows rows, int64_t m, int64_t n, int64_t k) {
    contenders_.push_back(
        {.name = name, .weight_bytes = 2 * n * k, .launch = [=, this](int64_t copy) {
           cuda::SimtParams p = {.m = m, .k = k, .x = x32_.as<float>(), .linears = {.count = 1}};
           p.linears.linear[0] = {
               .n = n, .w = w16_.as<uint16_t>() + copy * n * k, .w_stride = k, .y = sums_.as<float>()};
           return bf16_weights::RunHopper(p, rows, parts_.as<uint16_t>(), device_, stream_);
         }});
  }

  absl::Status Shape(int64_t m, int64_t n, int64_t k) {
    contenders_.clear();
    peers_.clear();
    AddWalk("w8a8 f32", m, n, k, 0);
    AddWalk("w8a8 f32 r=64", m, n, k, kKept);
    if (m <= kMaxW4Rows) AddW4("w4a16 f32 sm80", m, n, k, W4::kSm80);
    const bool hopper = device_.sm == 90;
    if (Plans("w8a8") && hopper && m <= cuda::few::kMaxRows) AddPlans(m, n, k);
    if (Plans("w4a8") && hopper && m <= cuda::few::kMaxRows) AddTwoLevelPlans(m, n, k);
    if (hopper) AddTwoLevels("w4ha8 f32", m, n, k, 0);
    if (hopper) AddTwoLevels("w4ha8 f32 r=64", m, n, k, kKept);
    for (const cuda::pingpong::Plan& tiles : u4h::kManyTiles) {
      if (!hopper || !Plans("w4a8")) break;
      AddTwoLevels(absl::StrCat("w4ha8 ", tiles.tile_m, "x", tiles.tile_n), m, n, k, 0, {.tiles = tiles});
    }
    if (hopper) AddGroups("w4a8 f32", m, n, k, Groups::kTiles);
    if (hopper) AddGroups("w8ga8 f32", m, n, k, Groups::kHopper);
    if (m <= kMaxW4Rows) AddGroups("w8ga8 f32 sm80", m, n, k, Groups::kSm80);
    if (hopper && m <= kMaxW4Rows) AddW4("w4a16 f32 sm90", m, n, k, W4::kClusters);
    if (hopper) AddW4("w4a16 f32 few", m, n, k, W4::kFew);
    if (hopper && m >= kLeastManyRows) AddW4("w4a16 f32 many", m, n, k, W4::kMany);
    AddMarlin(m, n, k);
    SF_RETURN_IF_ERROR(AddCutlass(m, n, k));
    if (hopper && Plans("w4a16")) AddW4Plans(m, n, k);
    if (hopper && m >= bf16_weights::kHopperRows) {
      AddBf16Rows("bf16 f32 rounded", bf16_weights::Rows::kBf16, m, n, k);
      AddBf16Rows("bf16 f32 split", bf16_weights::Rows::kExact, m, n, k);
    }
    AddCodeRows("w8a16 f32", code_rows::Path::kDirect, false, m, n, k);
    if (m == 1) AddCodeRows("w8a16 f32 row", code_rows::Path::kRow, false, m, n, k);
    AddCodeRows("w8a16 f32 digits", code_rows::Path::kDigits, false, m, n, k);
    if (hopper) AddCodeRows("w8a16 f32 wide", code_rows::Path::kWide, false, m, n, k);
    AddCodeRows("w8ga16 f32", code_rows::Path::kDirect, true, m, n, k);
    if (m == 1) AddCodeRows("w8ga16 f32 row", code_rows::Path::kRow, true, m, n, k);
    AddCodeRows("w8ga16 f32 digits", code_rows::Path::kDigits, true, m, n, k);
    if (hopper) AddCodeRows("w8ga16 f32 wide", code_rows::Path::kWide, true, m, n, k);
    if (m <= 8) AddBf16FewRows("bf16 f32", m, n, k);
    AddOurs("w8a8", m, n, k, 0);
    AddOurs("w8a8 r=64", m, n, k, kKept);
    if (m <= 64) AddOurs("w8a8 sm80", m, n, k, 0, {.sm80 = true});
    for (const auto& [rows, channels] : {std::pair{64, 64}, {64, 128}, {128, 128}}) {
      AddOurs(absl::StrCat("w8a8 ", rows, "x", channels), m, n, k, 0,
              {.tiles = {.tile_m = rows, .tile_n = channels}});
    }
    SF_RETURN_IF_ERROR(AddPeer("bf16", cuda::LtKind::kBf16, m, n, k, false));
    SF_RETURN_IF_ERROR(AddPeer("s8->s32", cuda::LtKind::kS8, m, n, k, false));
    SF_RETURN_IF_ERROR(AddPeer("s8->s32+rescale", cuda::LtKind::kS8, m, n, k, true));
    SF_RETURN_IF_ERROR(AddPeer("fp8 tensor", cuda::LtKind::kFp8, m, n, k, false));
    SF_RETURN_IF_ERROR(AddPeer("fp8 rows", cuda::LtKind::kFp8Rows, m, n, k, false));
    std::erase_if(contenders_, [&](const Contender& c) { return !Wanted(c.name); });
    SF_RETURN_IF_ERROR(TimeByTurns(
        contenders_, [&](const Contender& c) { return c.copies > 0 ? c.copies : copies_; }, options_.rounds,
        stream_));
    Print(m, n, k);
    return absl::OkStatus();
  }

  void Print(int64_t m, int64_t n, int64_t k) {
    double bf16 = 0;
    for (const Contender& c : contenders_) {
      if (c.name == "bf16") bf16 = c.median();
    }
    for (const Contender& c : contenders_) {
      const double seconds = c.median(), bytes = static_cast<double>(c.weight_bytes);
      const double ops = 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
      const int64_t kept = c.name.ends_with("r=64") ? kKept : 0;
      if (options_.csv) {
        std::printf("%s,%s,%ld,%ld,%ld,%ld,%.2f,%.0f,%.3f,%.1f,%.3f\n", ToolCommit().c_str(), c.name.c_str(),
                    static_cast<long>(m), static_cast<long>(n), static_cast<long>(k), static_cast<long>(kept),
                    seconds * 1e6, bytes / seconds * 1e-9, bytes / seconds / read_rate_,
                    ops / seconds * 1e-12, bf16 / seconds);
      } else {
        std::printf("%6ld %6ld %6ld %-20s %9.2f us %7.0f GB/s %7.1f T %6.3f x bf16\n", static_cast<long>(m),
                    static_cast<long>(n), static_cast<long>(k), c.name.c_str(), seconds * 1e6,
                    bytes / seconds * 1e-9, ops / seconds * 1e-12, bf16 / seconds);
      }
    }
    std::fflush(stdout);
  }

  static constexpr int64_t kKept = 64;
  static constexpr int64_t kMaxW4Rows = 64, kLeastManyRows = 64;
  const Options& options_;
  const cuda::DeviceInfo& device_;
  const cuda::Stream& stream_;
  double read_rate_ = 0;
  int64_t copies_ = 0;
  cuda::DeviceMemory cutlass_, locks_, wide_, w8_, w16_, fp8_, x8_, x16_, x_fp8_, kept_x_, kept_w_, x_scale_,
      w_scale_, w_unit_, y_, sums_, x32_, parts_;
  std::vector<std::unique_ptr<cuda::LtMatmul>> peers_;
  std::vector<Contender> contenders_;
};

}  // namespace
}  // namespace spikefold::benchmarks

int main(int argc, char** argv) {
  namespace benchmarks = spikefold::benchmarks;
  constexpr char kUsage[] =
      "cuda_bench [--m M,...] [--shape NxK,...] [--rounds R] [--csv] [--plans KERNEL,...] "
      "[--only NAME,...]";
  return benchmarks::RunMain(argc, argv, kUsage, {},
                             [](const auto& options, const auto& device, const auto& stream) {
                               return benchmarks::Bench(options, device, stream).Run();
                             });
}
