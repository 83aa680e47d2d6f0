#include "quant/rounding/sequential.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>

#include "absl/strings/str_cat.h"
#include "calib/nonfinite.h"
#include "formats/base/status.h"
#include "kernels/runtime/forward.h"
#include "kernels/runtime/ops.h"
#include "quant/rounding/cholesky.h"
#include "quant/rounding/site_rounding.h"

namespace spikefold {
namespace {

using Windows = std::vector<std::vector<int32_t>>;
using Choose = absl::FunctionRef<absl::StatusOr<LinearRounding>(int node)>;
using Take = absl::FunctionRef<absl::Status(int node, RoundedWeights rounded)>;

// Keeps the rows of one site, and how large each is.
class SiteTap : public Taps {
 public:
  SiteTap(const Site& site, ThreadPool& pool, std::vector<float>& rows, RowSizes& sizes)
      : site_(site), pool_(pool), rows_(rows), sizes_(sizes) {}
  bool Wants(int layer, ValueKind value) const override {
    return layer == site_.layer && value == site_.value;
  }
  bool WantsAttention(int) const override { return false; }
  void OnRows(const TapRows& seen) override {
    const int64_t count = seen.num_rows * seen.width;
    if (rows_.size() < static_cast<size_t>(count)) rows_.resize(static_cast<size_t>(count));
    sizes_ = MeasureRows(seen.data, seen.num_rows, seen.width, rows_.data(), pool_);
  }

 private:
  const Site& site_;
  ThreadPool& pool_;
  std::vector<float>& rows_;
  RowSizes& sizes_;
};

// One model's rows on their way through the layers: each linear is computed once, from the rows that its site
// was calibrated on.
class Stream {
 public:
  Stream(const RuntimeModel& model, const Windows& windows, const KvPrefix* prefix)
      : model_(model), windows_(windows), cache_(model.graph().config, Capacity(windows, prefix), prefix) {
    const size_t width = static_cast<size_t>(model.graph().config.hidden);
    for (const auto& window : windows) residual_.emplace_back(window.size() * width);
    input_.resize(windows.size());
  }

  // Takes a window from the site of the last call, or from the beginning, to the linears of this one.
  // Returns what they read, [tokens, k], valid until the next call for this window.
  absl::StatusOr<absl::Span<const float>> Run(size_t window, int first_node, const Site& site) {
    std::vector<float>& input = input_[window];
    const absl::Span<const float> stopped =
        absl::MakeConstSpan(input).first(windows_[window].size() * width_);
    SiteTap tap(site, model_.pool(), input,
                sizes_);  // the linears, first nodes of the part, have read `stopped`
    SF_RETURN_IF_ERROR(ForwardNodes(model_, {first_node, site.linears.front(), stopped}, windows_[window],
                                    cache_, absl::MakeSpan(residual_[window]), {.taps = &tap}));
    if (window + 1 == windows_.size()) width_ = static_cast<size_t>(site.k);
    return absl::MakeConstSpan(input).first(windows_[window].size() * static_cast<size_t>(site.k));
  }

  const RowSizes& sizes() const { return sizes_; }  // of the last call's rows

 private:
  static int64_t Capacity(const Windows& windows, const KvPrefix* prefix) {
    size_t longest = 0;
    for (const auto& window : windows) longest = std::max(longest, window.size());
    return static_cast<int64_t>(longest) + (prefix != nullptr ? prefix->size() : 0);
  }

  const RuntimeModel& model_;
  const Windows& windows_;
  KvCache cache_;
  std::vector<std::vector<float>> residual_;  // [windows][tokens, d] before the branch that is under way
  // [windows][tokens, width_], or more, of the site where the stream stands.
  std::vector<std::vector<float>> input_;
  size_t width_ = 0;  // k of that site; 0 before the first
  RowSizes sizes_;
};

class Driver {
 public:
  Driver(const CheckpointReader& reader, RuntimeModel& model, const Windows& windows,
         const SequentialOptions& options, Choose choose, Take take)
      : reader_(reader),
        model_(model),
        graph_(model.graph()),
        windows_(windows),
        options_(options),
        choose_(choose),
        take_(take),
        stream_(model, windows, options.prefix) {
    if (options.reference != nullptr) reference_.emplace(*options.reference, windows, options.prefix);
  }

  absl::Status Run() {
    if (windows_.empty())
      return absl::InvalidArgumentError("rounding: no calibration windows; give some text");
    const int64_t total = static_cast<int64_t>(graph_.sites.size());
    for (const Site& site : graph_.sites) {
      if (!Report(options_.progress, "rounding", site.id, total)) {
        return absl::CancelledError(absl::StrCat("rounding: stopped before ", site.name));
      }
      SF_RETURN_IF_ERROR(RunSite(site));
    }
    Report(options_.progress, "rounding", total, total);
    return absl::OkStatus();
  }

 private:
  absl::Status RunSite(const Site& site) {
    std::vector<LinearRounding> wanted;
    for (const int node : site.linears) {
      SF_ASSIGN_OR_RETURN(LinearRounding w, choose_(node));
      wanted.push_back(std::move(w));
    }
    const auto first = [&wanted](auto is) { return std::find_if(wanted.begin(), wanted.end(), is); };
    const auto rounded = first([](const LinearRounding& w) { return w.round && !w.done.has_value(); });
    if (rounded != wanted.end()) {
      SF_RETURN_IF_ERROR(Calibrate(site, rounded->spike_threshold));
      SF_RETURN_IF_ERROR(site_->Start(WhyOnHost(wanted)));
    } else if (options_.weights_on_demand &&
               first([](const LinearRounding& w) { return w.done.has_value(); }) != wanted.end()) {
      SF_RETURN_IF_ERROR(Advance(site));  // so that what lies before it need not wait in memory
    }
    for (size_t l = 0; l < wanted.size();) {
      const size_t end = EndOfTogether(site, wanted, l);
      if (wanted[l].done.has_value()) {
        SF_RETURN_IF_ERROR(TakeUp(site.linears[l], wanted[l]));
      } else if (wanted[l].round) {
        const bool is_last =
            std::none_of(wanted.begin() + static_cast<std::ptrdiff_t>(end), wanted.end(),
                         [](const LinearRounding& w) { return w.round && !w.done.has_value(); });
        SF_RETURN_IF_ERROR(RoundLinears(absl::MakeConstSpan(site.linears).subspan(l, end - l),
                                        absl::MakeConstSpan(wanted).subspan(l, end - l), is_last));
      }
      l = end;
    }
    site_.reset();
    cross_ = std::vector<double>();  // {} would keep the memory
    return absl::OkStatus();
  }

  // What the streams pass on their way to the site, read where it is not there, and let go behind them.
  absl::Status LoadBefore(const Site& site) {
    for (int node = at_; node < site.linears.front(); ++node) {
      const Op op = graph_.nodes[static_cast<size_t>(node)].op;
      if ((op != Op::kLinear && op != Op::kEmbed) || model_.linear(node) != nullptr) continue;
      SF_ASSIGN_OR_RETURN(const Tensor weight, ReadWeight(graph_.nodes[static_cast<size_t>(node)]));
      SF_RETURN_IF_ERROR(PutWeight(node, weight));
    }
    return absl::OkStatus();
  }
  void MoveTo(const Site& site) {
    for (int node = at_; options_.weights_on_demand && node < site.linears.front(); ++node) {
      model_.ReleaseLinear(node);
    }
    at_ = site.linears.front();
  }

  absl::Status Advance(const Site& site) {
    SF_RETURN_IF_ERROR(LoadBefore(site));
    for (size_t w = 0; w < windows_.size(); ++w) SF_RETURN_IF_ERROR(stream_.Run(w, at_, site).status());
    MoveTo(site);
    return absl::OkStatus();
  }

  // The sum of site_ (and cross_), over all windows. Afterwards the streams stand at its linears.
  absl::Status Calibrate(const Site& site, float spike_threshold) {
    const RowWeighting weighting{.cap = options_.row_cap, .spike_threshold = spike_threshold};
    ThreadPool& pool = *options_.pool;
    SF_RETURN_IF_ERROR(LoadBefore(site));
    OuterProductSum cross(reference_ ? site.k : 0, false);
    for (size_t w = 0; w < windows_.size(); ++w) {
      SF_ASSIGN_OR_RETURN(const absl::Span<const float> x, stream_.Run(w, at_, site));
      const RowSizes& sizes = stream_.sizes();
      if (!std::all_of(sizes.norm.begin(), sizes.norm.end(),
                       [](float norm) { return std::isfinite(norm); })) {
        SF_RETURN_IF_ERROR(
            CheckSiteFinite(graph_, site, x, static_cast<int64_t>(w), windows_[w], "rounding", pool));
      }
      if (w == 0) SF_RETURN_IF_ERROR(BeginSum(site));  // what the text needs of a device has its place now
      const int64_t rows = static_cast<int64_t>(windows_[w].size());
      const std::vector<float> weight = RowWeights(sizes, weighting);
      SF_RETURN_IF_ERROR(site_->sum().Add(x.data(), x.data(), rows, weight, pool));
      if (!reference_) continue;
      SF_ASSIGN_OR_RETURN(const absl::Span<const float> exact, reference_->Run(w, at_, site));
      std::vector<float> difference(exact.begin(), exact.end());
      for (size_t i = 0; i < difference.size(); ++i) difference[i] -= x[i];
      SF_RETURN_IF_ERROR(cross.Add(difference.data(), x.data(), rows, weight, pool));
    }
    MoveTo(site);
    SF_ASSIGN_OR_RETURN(cross_, cross.Full(pool));
    return absl::OkStatus();
  }

  absl::Status BeginSum(const Site& site) {
    SF_ASSIGN_OR_RETURN(auto on_device, model_.ops().NewCodeProductSum(site.k));
    if (on_device == nullptr && !model_.ops().device().empty() && options_.host_rounding != nullptr) {
      ++(*options_.host_rounding)[std::string(SiteRounding::kNoRoom)];
    }
    site_.emplace(std::make_unique<Hessian>(site.k, std::move(on_device)), options_.damping, *options_.pool,
                  options_.host_rounding);
    return absl::OkStatus();
  }

  // What keeps a device from rounding all that is wanted; empty: nothing.
  std::string WhyOnHost(const std::vector<LinearRounding>& wanted) const {
    if (reference_) return "rounding to a reference is the CPU's";
    const bool grids = std::all_of(wanted.begin(), wanted.end(), [](const LinearRounding& w) {
      return !w.round || w.done.has_value() || CanRoundOnDevice(w.grid);
    });
    return grids ? "" : "trellis codes are the CPU's (--codes grid: the GPU's)";
  }

  static absl::Status Named(const Node& n, const absl::Status& status) {
    return absl::Status(status.code(), absl::StrCat(n.module, ": ", status.message()));
  }

  absl::StatusOr<Tensor> ReadWeight(const Node& n) const {
    const bool tied = n.role == Role::kHead && graph_.config.tied_embeddings;
    return ReadF32(reader_, (tied ? graph_.nodes[0].module : n.module) + ".weight", *options_.pool);
  }

  // A linear that is rounded already: what follows it computes with its codes.
  absl::Status TakeUp(int node, const LinearRounding& wanted) {
    if (!options_.sequential) return absl::OkStatus();
    const Node& n = graph_.nodes[static_cast<size_t>(node)];
    SF_ASSIGN_OR_RETURN(const Tensor weight, ReadWeight(n));
    const RoundingInput input{
        .w = weight.as<float>(), .n = n.n, .k = n.k, .kept = wanted.kept, .supers = wanted.supers};
    return Replace(node, input, *wanted.done);
  }

  // The linears from `l` on that are rounded in one go: small ones that keep the same columns.
  size_t EndOfTogether(const Site& site, const std::vector<LinearRounding>& wanted, size_t l) const {
    const auto values = [&](size_t i) {
      const Node& n = graph_.nodes[static_cast<size_t>(site.linears[i])];
      return n.n * n.k;
    };
    size_t end = l + 1;
    for (int64_t sum = values(l); end < wanted.size(); ++end) {
      sum += values(end);
      const bool joins = wanted[end].round && !wanted[end].done.has_value() &&
                         wanted[end].kept == wanted[l].kept && sum <= kRoundedTogether;
      if (!joins || !wanted[l].round || wanted[l].done.has_value()) break;
    }
    return end;
  }

  // `is_last`: no others of the site come behind these.
  absl::Status RoundLinears(absl::Span<const int> linears, absl::Span<const LinearRounding> wanted,
                            bool is_last) {
    const Node& first = graph_.nodes[static_cast<size_t>(linears.front())];
    const std::vector<int32_t>& kept = wanted.front().kept;
    if (const absl::Status status = site_->Factor(kept); !status.ok()) return Named(first, status);
    std::vector<Tensor> weights;
    std::vector<GptqTask> tasks;
    for (size_t l = 0; l < linears.size(); ++l) {
      const Node& n = graph_.nodes[static_cast<size_t>(linears[l])];
      SF_ASSIGN_OR_RETURN(Tensor weight, ReadWeight(n));
      weights.push_back(std::move(weight));
      const absl::Span<float> w = weights.back().as<float>();
      if (reference_) SF_RETURN_IF_ERROR(FollowReference(n, w));
      tasks.push_back(
          {.input = {.w = w, .n = n.n, .k = n.k, .kept = wanted[l].kept, .supers = wanted[l].supers},
           .grid = wanted[l].grid});
    }
    auto rounding = site_->Round(tasks, kept, options_.gptq);
    if (!rounding.ok()) return Named(first, rounding.status());
    std::vector<absl::StatusOr<RoundedWeights>>& rounded = *rounding;
    if (is_last) site_.reset();  // what is rounded needs the room
    for (size_t l = 0; l < linears.size(); ++l) {
      if (!rounded[l].ok()) {
        return Named(graph_.nodes[static_cast<size_t>(linears[l])], rounded[l].status());
      }
      if (options_.sequential) SF_RETURN_IF_ERROR(Replace(linears[l], tasks[l].input, *rounded[l]));
      weights[l] = Tensor();  // whoever takes the codes needs memory of his own
      SF_RETURN_IF_ERROR(take_(linears[l], *std::move(rounded[l])));
    }
    return absl::OkStatus();
  }

  // w += strength * w E[(x - x^) x^T] H^-1, kept columns excepted.
  absl::Status FollowReference(const Node& n, absl::Span<float> w) {
    const HessianFactor& factor = site_->factor();
    const absl::Span<const double> hessian = site_->hessian();
    const int64_t m = static_cast<int64_t>(factor.order.size());
    const size_t k = static_cast<size_t>(n.k);
    std::vector<double> h(static_cast<size_t>(m * m));
    for (int64_t i = 0; i < m; ++i) {
      const size_t row = static_cast<size_t>(factor.order[static_cast<size_t>(i)]);
      for (int64_t j = 0; j < m; ++j) {
        h[static_cast<size_t>(i * m + j)] =
            hessian[row * k + static_cast<size_t>(factor.order[static_cast<size_t>(j)])];
      }
      h[static_cast<size_t>(i * m + i)] += factor.damping;
    }
    if (!CholeskyInPlace(h.data(), m, *options_.pool)) {
      return absl::InternalError(absl::StrCat(n.module, ": a damped Hessian does not factor twice"));
    }
    std::vector<double> right(static_cast<size_t>(n.n * m));
    options_.pool->ParallelFor(n.n, 8, [&](int64_t begin, int64_t end) {
      std::vector<double> row(k);
      for (int64_t r = begin; r < end; ++r) {
        std::fill(row.begin(), row.end(), 0.0);
        for (size_t i = 0; i < k; ++i) {
          const double value = static_cast<double>(w[static_cast<size_t>(r) * k + i]);
          for (size_t j = 0; j < k; ++j) row[j] += value * cross_[i * k + j];
        }
        for (int64_t j = 0; j < m; ++j) {
          right[static_cast<size_t>(r * m + j)] =
              row[static_cast<size_t>(factor.order[static_cast<size_t>(j)])];
        }
      }
    });
    CholeskySolve(h.data(), m, right.data(), n.n, *options_.pool);
    for (int64_t r = 0; r < n.n; ++r) {
      for (int64_t j = 0; j < m; ++j) {
        w[static_cast<size_t>(r) * k + static_cast<size_t>(factor.order[static_cast<size_t>(j)])] +=
            static_cast<float>(options_.reference_strength * right[static_cast<size_t>(r * m + j)]);
      }
    }
    return absl::OkStatus();
  }

  absl::Status Replace(int node, const RoundingInput& input, const RoundedWeights& rounded) {
    Tensor w = Tensor::ForOverwrite(DType::kF32, {input.n, input.k});
    float* out = w.as<float>().data();
    Dequantize(rounded, input.n, input.k, *options_.pool, out);
    for (const int32_t column : input.kept) {
      for (int64_t row = 0; row < input.n; ++row) {
        const int64_t at = row * input.k + column;
        out[at] = Bf16ToFloat(FloatToBf16(input.w[static_cast<size_t>(at)]));
      }
    }
    for (const PlannedSuper& s : input.supers) {
      const int64_t at = s.row * input.k + s.column;
      out[at] = input.w[static_cast<size_t>(at)];
    }
    return PutWeight(node, w);
  }

  absl::Status PutWeight(int node, const Tensor& w) {
    const Node& n = graph_.nodes[static_cast<size_t>(node)];
    LinearWeights weights;
    if (model_.linear(node) != nullptr) {
      weights.bias = model_.linear(node)->bias;
    } else if (n.has_bias) {
      SF_ASSIGN_OR_RETURN(const Tensor bias, reader_.ReadF32(n.module + ".bias"));
      weights.bias.assign(bias.as<float>().begin(), bias.as<float>().end());
    }
    const auto pack = [&]() -> absl::Status {
      SF_RETURN_IF_ERROR(model_.ops().PackF32(w, weights));
      return model_.ops().Prepare(weights);
    };
    absl::Status packed = pack();
    if (absl::IsResourceExhausted(packed) && site_ && site_->on_device()) {
      SF_RETURN_IF_ERROR(site_->MoveToHost());
      packed = pack();
    }
    SF_RETURN_IF_ERROR(packed);
    return model_.ReplaceLinear(node, std::move(weights));
  }

  const CheckpointReader& reader_;
  RuntimeModel& model_;
  const ModelGraph& graph_;
  const Windows& windows_;
  const SequentialOptions& options_;
  const Choose choose_;
  const Take take_;
  Stream stream_;
  std::optional<Stream> reference_;
  int at_ = 0;                        // the node before which the streams stand
  std::optional<SiteRounding> site_;  // where the streams stand; none while nothing is rounded there
  std::vector<double> cross_;         // [k, k] E[(x - x^) x^T]
};

}  // namespace

absl::Status RoundSequentially(const CheckpointReader& reader, RuntimeModel& model, const Windows& windows,
                               const SequentialOptions& options, Choose choose, Take take) {
  return Driver(reader, model, windows, options, choose, take).Run();
}

}  // namespace spikefold
