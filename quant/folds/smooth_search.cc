#include "quant/folds/smooth_search.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/folds/smooth.h"
#include "quant/rounding/round_weights.h"

namespace spikefold {
namespace {

constexpr int kRhoSteps = 20;         // rho = 0, 1/20 ... 19/20, as in the paper's code
constexpr int64_t kSampledRows = 64;  // of each matrix
constexpr double kLeast = 1e-5;

class SiteSearch {
 public:
  SiteSearch(const CheckpointReader& model, const SiteStats& stats, const SmoothSearch& how)
      : model_(model),
        stats_(stats),
        how_(how),
        config_(model.graph().config),
        site_(model.graph().sites[static_cast<size_t>(stats.site)]) {}

  absl::StatusOr<SearchedScales> Run() {
    SF_RETURN_IF_ERROR(SampleRows());
    SF_ASSIGN_OR_RETURN(SiteScales base, SmoothSite(model_, stats_, 0.5));
    std::vector<float> best(base.scales.size(), 1.0f);
    SearchedScales out;
    out.before = out.after = WeightError(best);
    const auto consider = [&](const std::vector<float>& scales) {
      const double error = WeightError(scales);
      if (!(error < out.after)) return;
      out.after = error;
      best = scales;
    };
    for (int step = 1; step < kRhoSteps; ++step) consider(MeanScales(static_cast<double>(step) / kRhoSteps));
    out.scales = std::move(base);
    out.scales.scales = std::move(best);
    return out;
  }

 private:
  struct Sample {
    int64_t rows = 0;
    double share = 1;      // of the matrix
    std::vector<float> w;  // [rows, k]
  };

  absl::Status SampleRows() {
    for (const int linear : site_.linears) {
      const Node& node = model_.graph().nodes[static_cast<size_t>(linear)];
      SF_ASSIGN_OR_RETURN(const Tensor w, model_.ReadF32(node.module + ".weight"));
      Sample& sample = samples_.emplace_back();
      sample.rows = std::min(node.n, kSampledRows);
      sample.share = static_cast<double>(sample.rows) / static_cast<double>(node.n);
      for (int64_t i = 0; i < sample.rows; ++i) {
        const float* row = w.as<float>().data() + i * node.n / sample.rows * node.k;
        sample.w.insert(sample.w.end(), row, row + node.k);
      }
    }
    return absl::OkStatus();
  }

  // The scale of a channel: those of kCtx are shared by the query heads of a KV head.
  size_t ScaleOf(int64_t channel) const {
    if (site_.value != ValueKind::kCtx) return static_cast<size_t>(channel);
    const int64_t kv = channel / config_.head_dim / (config_.num_heads / config_.num_kv_heads);
    return static_cast<size_t>(kv * config_.head_dim + channel % config_.head_dim);
  }

  std::vector<float> MeanScales(double rho) const {
    const size_t count = site_.value == ValueKind::kCtx
                             ? static_cast<size_t>(config_.num_kv_heads * config_.head_dim)
                             : static_cast<size_t>(site_.k);
    std::vector<double> mean(count, 0.0);
    for (int64_t c = 0; c < site_.k; ++c) {
      double sum = 0;
      for (int b = 0; b < kMagnitudeBins; ++b) {
        sum += static_cast<double>(stats_.histogram[static_cast<size_t>(c * kMagnitudeBins + b)]) *
               double{MagnitudeBinCenter(b)};
      }
      double& target = mean[ScaleOf(c)];
      target = std::max(target, sum / static_cast<double>(std::max<int64_t>(1, stats_.rows)));
    }
    double low = INFINITY, high = 0;
    for (double& v : mean) {
      v = std::pow(std::max(v, kLeast), rho);
      low = std::min(low, v);
      high = std::max(high, v);
    }
    std::vector<float> scales;
    scales.reserve(mean.size());
    for (const double v : mean) scales.push_back(static_cast<float>(v / std::sqrt(low * high)));
    return scales;
  }

  double WeightError(const std::vector<float>& scales) const {
    const int bits = how_.scheme->weight_bits;
    WeightGrid grid{.bits = bits, .symmetric = !how_.weight_zeros};
    const int fits = DefaultGroupSize({site_.k});
    if (bits < 8 && fits > 0) grid.group = how_.group_size > 0 ? how_.group_size : fits;
    if (grid.group == 0) grid = {.bits = 8, .scale_dtype = DType::kF32, .scales = ScaleMethod::kAbsMax};
    std::vector<float> importance;  // mean squares of the scaled channels
    for (int64_t c = 0; c < site_.k; ++c) {
      const double s = double{scales[ScaleOf(c)]};
      importance.push_back(static_cast<float>(stats_.sum_sq[static_cast<size_t>(c)] /
                                              static_cast<double>(std::max<int64_t>(1, stats_.rows)) /
                                              (s * s)));
    }
    double error = 0;
    for (const Sample& sample : samples_) {
      std::vector<float> w = sample.w;
      double power = 0;
      for (int64_t row = 0; row < sample.rows; ++row) {
        for (int64_t c = 0; c < site_.k; ++c) {
          float& value = w[static_cast<size_t>(row * site_.k + c)];
          value *= scales[ScaleOf(c)];
          power += double{importance[static_cast<size_t>(c)]} * double{value} * double{value};
        }
      }
      const RoundedWeights rounded =
          RoundToNearest({.w = w, .n = sample.rows, .k = site_.k}, grid, importance, *how_.pool);
      error += rounded.relative_error * power / sample.share;
    }
    return error;
  }

  const CheckpointReader& model_;
  const SiteStats& stats_;
  const SmoothSearch& how_;
  const ModelConfig& config_;
  const Site& site_;
  std::vector<Sample> samples_;
};

}  // namespace

absl::StatusOr<SearchedScales> SearchSiteScales(const CheckpointReader& model, const SiteStats& stats,
                                                const SmoothSearch& search) {
  if (search.scheme->activation_bits < 16) {
    return absl::InvalidArgumentError(absl::StrCat("smooth \"search\": is for weights alone, scheme \"",
                                                   search.scheme->name, "\" has activations of ",
                                                   search.scheme->activation_bits, " bits; use a number"));
  }
  SF_RETURN_IF_ERROR(SmoothSite(model, stats, 0.5).status());  // its refusals
  return SiteSearch(model, stats, search).Run();
}

}  // namespace spikefold
