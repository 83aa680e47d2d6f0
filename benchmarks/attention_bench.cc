// usage: attention_bench [--sequences N] [--context T] [--heads H/K] [--splits S]
//        attention_bench --prefill M [--context T] [--heads H/K]
// Times decode attention over paged caches of 16, 8 and 4 bits on this GPU: one token of each sequence,
// head_dim 128, a pinned row, 16 recent rows. For each line on its standard input it times every form once
// and prints `form bytes microseconds` lines, then an empty one: benchmarks/attention_sdpa.py asks it by
// turns with PyTorch.
#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "benchmarks/cuda_peers.h"
#include "formats/base/status.h"
#include "kernels/attention_f32_f32/attention_f32_f32_cuda.h"
#include "kernels/attention_f32_f32_ukv/attention_f32_f32_ukv_cuda.h"
#include "kernels/cuda/device.h"
#include "kernels/cuda/memory.h"

namespace spikefold::benchmarks {
namespace {

namespace cuda = kernels::cuda;
namespace prefill = kernels::attention_f32_f32;
namespace ukv = kernels::attention_f32_f32_ukv;
using kernels::kPageTokens;

constexpr int64_t kHeadDim = 128, kPinned = 1, kRecent = 16, kChunk = 192, kRing = 320;
constexpr int kLaunches = 20;

struct Options {
  int64_t sequences = 16, context = 8192, heads = 32, kv_heads = 8, splits = 0, prefill = 0;
};

// Caches of one form.
class Form {
 public:
  Form(const Options& o, int bits, bool turned)
      : name(absl::StrCat("kv", bits, turned ? "-before-rope" : "")),
        o_(o),
        format_{o.kv_heads, kHeadDim, bits, bits, kernels::KeyScale::kPage},
        turned_(turned) {}

  // Rows are those of k and v [context, width].
  absl::Status Fill(const float* k, const float* v, const float* cos, const float* sin,
                    const cuda::Stream& stream) {
    const kernels::KvPageLayout layout(format_);
    const int64_t slots = (o_.context - kPinned) / kPageTokens, width = o_.kv_heads * kHeadDim;
    SF_RETURN_IF_ERROR(pages_.Reserve(static_cast<size_t>(o_.sequences * slots * layout.page_bytes)));
    SF_RETURN_IF_ERROR(rows_.Reserve(static_cast<size_t>(2 * o_.sequences * kRing * width) * 2));
    SF_RETURN_IF_ERROR(pinned_.Reserve(static_cast<size_t>(2 * o_.sequences * kPinned * width) * 2));
    params_ = {.m = 1,
               .num_heads = o_.heads,
               .layer = {.format = format_,
                         .layout = layout,
                         .num_pinned = kPinned,
                         .pinned_k = pinned_.as<uint16_t>(),
                         .pinned_v = pinned_.as<uint16_t>() + o_.sequences * kPinned * width,
                         .pages = pages_.as<uint8_t>(),
                         .page_slots = slots,
                         .rows_k = rows_.as<uint16_t>(),
                         .rows_v = rows_.as<uint16_t>() + o_.sequences * kRing * width,
                         .ring_rows = kRing,
                         .recent = kRecent,
                         .cos = cos,
                         .sin = sin,
                         .turned = turned_},
               .at = {.first = static_cast<int32_t>(o_.context - 1)},
               .scale = 0.088f,
               .sequences = o_.sequences,
               .page_stride = slots * layout.page_bytes,
               .row_stride = kRing * width,
               .pinned_stride = kPinned * width};
    for (int64_t s = 0; s < o_.sequences; ++s) {
      kernels::CudaKvLayer layer = params_.layer;
      layer.pages += s * params_.page_stride;
      layer.rows_k += s * params_.row_stride;
      layer.rows_v += s * params_.row_stride;
      layer.pinned_k += s * params_.pinned_stride;
      layer.pinned_v += s * params_.pinned_stride;
      for (int64_t first = 0; first < o_.context; first += kChunk) {
        const int64_t coded = std::max<int64_t>(0, first - kRecent - kPinned) / kPageTokens;
        SF_RETURN_IF_ERROR(
            kernels::AppendRows({.m = std::min(kChunk, o_.context - first),
                                 .k = k + first * width,
                                 .v = v + first * width,
                                 .layer = layer,
                                 .at = {static_cast<int32_t>(first), static_cast<int32_t>(coded)}},
                                stream));
      }
    }
    bytes = o_.sequences * slots * layout.page_bytes;
    return stream.Sync();
  }

  absl::StatusOr<double> Time(const float* q, float* out, int64_t splits, const cuda::Stream& stream) {
    params_.q = q;
    params_.o = out;
    params_.splits = splits > 0 ? splits : ukv::SplitsFor(params_, o_.context, cuda::NumSms());
    SF_RETURN_IF_ERROR(partial_.Reserve(
        static_cast<size_t>(ukv::PartialFloats(o_.sequences, o_.heads, kHeadDim, params_.splits)) * 4));
    const size_t counters = static_cast<size_t>(ukv::NumCounters(o_.sequences, o_.heads)) * 4;
    SF_RETURN_IF_ERROR(finished_.Reserve(counters));
    SF_RETURN_IF_ERROR(cuda::Fill(finished_.as<void>(), 0, counters, stream));
    params_.partial = partial_.as<float>();
    params_.finished = finished_.as<unsigned>();
    cuda::Timer timer(stream);
    double seconds = 0;
    for (int round = 0; round < 2; ++round) {  // the first warms up
      SF_RETURN_IF_ERROR(timer.Start());
      for (int i = 0; i < kLaunches; ++i) SF_RETURN_IF_ERROR(ukv::RunDecode(params_, stream));
      SF_ASSIGN_OR_RETURN(seconds, timer.Stop());
    }
    return seconds / kLaunches;
  }

  std::string name;
  int64_t bytes = 0;
  int64_t splits() const { return params_.splits; }

 private:
  const Options& o_;
  kernels::KvFormat format_;
  bool turned_;
  cuda::DeviceMemory pages_, rows_, pinned_, partial_, finished_;
  ukv::CudaParams params_;
};

absl::Status Main(const Options& o) {
  SF_ASSIGN_OR_RETURN(const auto stream, cuda::Stream::Make());
  const int64_t width = o.kv_heads * kHeadDim, values = o.sequences * o.heads * kHeadDim;
  cuda::DeviceMemory k, v, q, out, cos, sin;
  SF_RETURN_IF_ERROR(k.Reserve(static_cast<size_t>(o.context * width) * 4));
  SF_RETURN_IF_ERROR(v.Reserve(static_cast<size_t>(o.context * width) * 4));
  SF_RETURN_IF_ERROR(q.Reserve(static_cast<size_t>(values) * 4));
  SF_RETURN_IF_ERROR(out.Reserve(static_cast<size_t>(values) * 4));
  const int64_t turns = o.context * kHeadDim / 2;
  SF_RETURN_IF_ERROR(cos.Reserve(static_cast<size_t>(turns) * 4));
  SF_RETURN_IF_ERROR(sin.Reserve(static_cast<size_t>(turns) * 4));
  SF_RETURN_IF_ERROR(FillFloats(k.as<float>(), o.context * width, 1, 1, *stream));
  SF_RETURN_IF_ERROR(FillFloats(v.as<float>(), o.context * width, 1, 2, *stream));
  SF_RETURN_IF_ERROR(FillFloats(q.as<float>(), values, 1, 3, *stream));
  SF_RETURN_IF_ERROR(FillFloats(cos.as<float>(), turns, 0.7f, 4, *stream));
  SF_RETURN_IF_ERROR(FillFloats(sin.as<float>(), turns, 0.7f, 5, *stream));
  std::vector<std::unique_ptr<Form>> forms;
  for (const int bits : {16, 8, 4}) {
    for (const bool turned : {false, true}) {
      if (turned && bits == 16) continue;
      forms.push_back(std::make_unique<Form>(o, bits, turned));
      SF_RETURN_IF_ERROR(
          forms.back()->Fill(k.as<float>(), v.as<float>(), cos.as<float>(), sin.as<float>(), *stream));
    }
  }
  while (std::getchar() != EOF) {
    for (const auto& form : forms) {
      SF_ASSIGN_OR_RETURN(const double seconds,
                          form->Time(q.as<float>(), out.as<float>(), o.splits, *stream));
      std::printf("%s %lld %.2f %lld\n", form->name.c_str(), static_cast<long long>(form->bytes),
                  seconds * 1e6, static_cast<long long>(form->splits()));
    }
    std::printf("\n");
    std::fflush(stdout);
  }
  return absl::OkStatus();
}

absl::Status Prefill(const Options& o) {
  SF_ASSIGN_OR_RETURN(const auto stream, cuda::Stream::Make());
  SF_ASSIGN_OR_RETURN(const cuda::DeviceInfo device, cuda::QueryDevice());
  const int64_t rows = o.context * o.kv_heads * kHeadDim, queries = o.prefill * o.heads * kHeadDim;
  cuda::DeviceMemory k, v, q, out, tiles;
  SF_RETURN_IF_ERROR(k.Reserve(static_cast<size_t>(rows) * 4));
  SF_RETURN_IF_ERROR(v.Reserve(static_cast<size_t>(rows) * 4));
  SF_RETURN_IF_ERROR(q.Reserve(static_cast<size_t>(queries) * 4));
  SF_RETURN_IF_ERROR(out.Reserve(static_cast<size_t>(queries) * 4));
  SF_RETURN_IF_ERROR(tiles.Reserve(static_cast<size_t>(prefill::F16Bytes(o.context, o.kv_heads, kHeadDim))));
  SF_RETURN_IF_ERROR(FillFloats(k.as<float>(), rows, 1, 1, *stream));
  SF_RETURN_IF_ERROR(FillFloats(v.as<float>(), rows, 1, 2, *stream));
  SF_RETURN_IF_ERROR(FillFloats(q.as<float>(), queries, 1, 3, *stream));
  const prefill::CudaParams p = {.m = o.prefill,
                                 .num_heads = o.heads,
                                 .num_kv_heads = o.kv_heads,
                                 .head_dim = kHeadDim,
                                 .q = q.as<float>(),
                                 .k = k.as<float>(),
                                 .v = v.as<float>(),
                                 .first = o.context - o.prefill,
                                 .scale = 0.088f,
                                 .o = out.as<float>()};
  const auto time = [&](auto run) -> absl::StatusOr<double> {
    cuda::Timer timer(*stream);
    SF_RETURN_IF_ERROR(timer.Start());
    for (int i = 0; i < kLaunches; ++i) SF_RETURN_IF_ERROR(run());
    SF_ASSIGN_OR_RETURN(const double seconds, timer.Stop());
    return seconds / kLaunches;
  };
  std::vector<double> exact, f16;
  for (int round = 0; round < 8; ++round) {
    SF_ASSIGN_OR_RETURN(const double a, time([&] { return prefill::RunCuda(p, *stream); }));
    if (round > 0) exact.push_back(a);  // the first warms up
    if (!prefill::SupportsF16(p, device)) continue;
    SF_ASSIGN_OR_RETURN(const double b, time([&] { return prefill::RunF16(p, tiles.as<void>(), *stream); }));
    if (round > 0) f16.push_back(b);
  }
  const double pairs = static_cast<double>(o.prefill) * static_cast<double>(2 * p.first + o.prefill + 1) / 2;
  const double ops = 4.0 * static_cast<double>(o.heads * kHeadDim) * pairs;
  const auto print = [&](const char* name, std::vector<double>& seconds) {
    if (seconds.empty()) return;
    std::sort(seconds.begin(), seconds.end());
    const double median = seconds[seconds.size() / 2];
    std::printf("%s %.2f us %.1f TFLOP/s\n", name, median * 1e6, ops / median * 1e-12);
  };
  print("prefill-f32", exact);
  print("prefill-f16", f16);
  return absl::OkStatus();
}

bool ParseOptions(int argc, char** argv, Options& o) {
  for (int i = 1; i + 1 < argc; i += 2) {
    const std::string name = argv[i];
    const std::vector<std::string> parts = absl::StrSplit(argv[i + 1], '/');
    int64_t values[2] = {};
    for (size_t j = 0; j < parts.size(); ++j) {
      if (j > 1 || !absl::SimpleAtoi(parts[j], &values[j])) return false;
    }
    if (name == "--sequences") {
      o.sequences = values[0];
    } else if (name == "--context") {
      o.context = values[0];
    } else if (name == "--splits") {
      o.splits = values[0];
    } else if (name == "--prefill") {
      o.prefill = values[0];
    } else if (name == "--heads" && parts.size() == 2) {
      o.heads = values[0];
      o.kv_heads = values[1];
    } else {
      return false;
    }
  }
  return argc % 2 == 1 && o.sequences > 0 && o.context > 2 * kPageTokens && o.kv_heads > 0 &&
         o.heads % o.kv_heads == 0 && o.prefill <= o.context;
}

}  // namespace
}  // namespace spikefold::benchmarks

int main(int argc, char** argv) {
  spikefold::benchmarks::Options options;
  if (!spikefold::benchmarks::ParseOptions(argc, argv, options)) {
    std::fprintf(
        stderr,
        "usage: attention_bench [--sequences N | --prefill M] [--context T] [--heads H/K] [--splits S]\n");
    return 2;
  }
  const absl::Status status =
      options.prefill > 0 ? spikefold::benchmarks::Prefill(options) : spikefold::benchmarks::Main(options);
  if (!status.ok()) std::fprintf(stderr, "attention_bench: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}
