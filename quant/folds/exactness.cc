#include "quant/folds/exactness.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/base/casts.h"
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/runtime/forward.h"
#include "quant/folds/fold_builder.h"
#include "quant/folds/folds.h"
#include "quant/folds/smooth.h"

namespace spikefold {
namespace {

constexpr double kSmoothAlpha = 0.85, kRescale = 16;
constexpr uint64_t kDraws =
    3;  // of the control: a token on an edge moves much in one draw and little in another
constexpr size_t kLogitRows = 64;               // of a 262,144-word head: 64 MiB
constexpr size_t kMaxLogits = size_t{1} << 28;  // of the model itself that are kept: 1 GiB

// Ranges and sums of what every linear of the blocks reads.
class SiteTap : public Taps {
 public:
  explicit SiteTap(const ModelGraph& graph) {
    for (const Site& site : graph.sites) {
      const size_t k = static_cast<size_t>(site.k);
      places_.push_back({site.layer, site.value});
      arm.sites.push_back({.site = site.id,
                           .k = site.k,
                           .rows = 0,
                           .min = std::vector<float>(k),
                           .max = std::vector<float>(k),
                           .sum = std::vector<double>(k)});
    }
  }
  bool Wants(int layer, ValueKind value) const override { return Find(layer, value) < places_.size(); }
  bool WantsAttention(int) const override { return false; }
  void OnRows(const TapRows& x) override {
    SiteStats& s = arm.sites[Find(x.layer, x.value)];
    s.rows += x.num_rows;
    for (int64_t t = 0; t < x.num_rows; ++t) {
      const float* row = x.data + t * x.width;
      for (size_t c = 0; c < s.sum.size(); ++c) {
        s.min[c] = std::min(s.min[c], row[c]);
        s.max[c] = std::max(s.max[c], row[c]);
        s.sum[c] += static_cast<double>(row[c]);
      }
    }
  }
  StatsArm arm;

 private:
  size_t Find(int layer, ValueKind value) const {
    const auto at = std::find(places_.begin(), places_.end(), std::make_pair(layer, value));
    return static_cast<size_t>(at - places_.begin());
  }
  std::vector<std::pair<int, ValueKind>> places_;
};

std::vector<SiteShift> Means(const ModelGraph& graph, const StatsArm& arm) {
  std::vector<SiteShift> shifts;
  for (const SiteStats& site : arm.sites) {
    const Site& place = graph.sites[static_cast<size_t>(site.site)];
    if (place.layer < 0 || site.rows == 0) continue;
    SiteShift& shift = shifts.emplace_back();
    shift.layer = place.layer;
    shift.value = place.value;
    for (const double sum : site.sum) {
      shift.values.push_back(static_cast<float>(sum / static_cast<double>(site.rows)));
    }
  }
  return shifts;
}

// Between 1/4 and 4, in every layer.
std::vector<QkScales> SomeQkScales(const ModelConfig& config) {
  std::vector<QkScales> all;
  for (int layer = 0; layer < config.num_layers; ++layer) {
    QkScales& s = all.emplace_back(QkScales{.layer = layer, .scales = {}});
    for (int64_t i = 0; i < config.num_kv_heads * (config.head_dim / 2); ++i) {
      s.scales.push_back(std::exp2(static_cast<float>(i % (config.head_dim / 2) * 7 % 41 - 20) / 10));
    }
  }
  return all;
}

// Products of two random Hadamard rotations: dense and orthogonal, and no Hadamard matrices.
absl::StatusOr<std::shared_ptr<const LearnedRotations>> SomeRotations(const CheckpointReader& reader,
                                                                      uint64_t seed, ThreadPool* pool) {
  const ModelGraph& graph = reader.graph();
  std::string why;
  const bool r1 = ResidualMayRotate(graph, &why), r2 = ValuesMayRotate(graph, &why);
  auto some = std::make_shared<LearnedRotations>(DrawnRotations(graph, r1, r2, seed));
  SF_ASSIGN_OR_RETURN(some->model_fingerprint, reader.Fingerprint());
  if (r1) {
    const DenseMatrix other = DrawnRotations(graph, true, false, seed + 1).residual;
    some->residual = Multiplied(some->residual, other, some->hidden, pool);
  }
  for (DenseMatrix& value : some->values) {
    value =
        Multiplied(value, DrawnRotations(graph, false, true, ++seed).values.front(), some->head_dim, pool);
  }
  SealRotations(*some);
  return some;
}

// ln softmax(x) = x - this
double LogSum(absl::Span<const float> x) {
  const double top = static_cast<double>(*std::max_element(x.begin(), x.end()));
  double sum = 0;
  for (const float v : x) sum += std::exp(static_cast<double>(v) - top);
  return top + std::log(sum);
}

double Divergence(absl::Span<const float> p, absl::Span<const float> q) {
  const double zp = LogSum(p), zq = LogSum(q);
  double kld = 0;
  for (size_t i = 0; i < p.size(); ++i) {
    const double ln_p = static_cast<double>(p[i]) - zp;
    kld += std::exp(ln_p) * (ln_p - (static_cast<double>(q[i]) - zq));
  }
  return kld;
}

// Each value goes to the next float32 above or below, or, half of them, stays.
void RoundOtherwise(absl::Span<float> values, std::mt19937_64& random) {
  constexpr size_t kDrawn = 32;  // two bits each
  for (size_t at = 0; at < values.size(); at += kDrawn) {
    uint64_t ways = random();
    for (float& v : values.subspan(at, kDrawn)) {
      // Neighbours of a float32 are neighbours as integers; zeros and what is not finite stay.
      uint32_t bits = absl::bit_cast<uint32_t>(v);
      if ((ways & 2) != 0 && v != 0 && std::isfinite(v)) bits += (ways & 1) != 0 ? 1 : UINT32_MAX;
      v = absl::bit_cast<float>(bits);
      ways >>= 2;
    }
  }
}

// The model with weights that are rounded otherwise.
class Jittered : public CheckpointReader {
 public:
  Jittered(const CheckpointReader& base, uint64_t seed) : base_(base), seed_(seed) {}
  CheckpointKind kind() const override { return base_.kind(); }
  const std::string& path() const override { return base_.path(); }
  const ModelGraph& graph() const override { return base_.graph(); }
  const std::vector<StoredTensor>& tensors() const override { return base_.tensors(); }
  const StoredTensor* Find(absl::string_view name) const override { return base_.Find(name); }
  absl::StatusOr<Tensor> ReadF32(absl::string_view name) const override {
    SF_ASSIGN_OR_RETURN(Tensor moved, base_.ReadF32(name));
    std::mt19937_64 random(seed_);
    RoundOtherwise(moved.as<float>(), random);
    return moved;
  }
  absl::StatusOr<Tensor> ReadRaw(absl::string_view name) const override { return ReadF32(name); }
  absl::StatusOr<std::unique_ptr<Tokenizer>> LoadTokenizer() const override { return base_.LoadTokenizer(); }
  const Json& config_json() const override { return base_.config_json(); }
  absl::StatusOr<std::vector<SideFile>> SideFiles() const override { return base_.SideFiles(); }
  absl::StatusOr<std::string> Fingerprint() const override { return base_.Fingerprint(); }
  uint64_t file_bytes() const override { return base_.file_bytes(); }

 private:
  const CheckpointReader& base_;
  const uint64_t seed_;
};

// What flows through it likewise.
class JitteredValues : public Interventions {
 public:
  explicit JitteredValues(uint64_t seed) : random_(seed) {}
  bool Wants(int, ValueKind v) const override {
    return v == ValueKind::kResidual || v == ValueKind::kAttnIn || v == ValueKind::kQ || v == ValueKind::kK ||
           v == ValueKind::kV || v == ValueKind::kCtx || v == ValueKind::kFfnIn || v == ValueKind::kDownIn ||
           v == ValueKind::kFinal;
  }
  void Edit(int, ValueKind, float* data, int64_t rows, int64_t width, int64_t) override {
    RoundOtherwise(absl::MakeSpan(data, static_cast<size_t>(rows * width)), random_);
  }

 private:
  std::mt19937_64 random_;
};

// What folds change on one backend.
class Prover {
 public:
  struct Arm {
    std::string fold, refused, excepted;
    FoldChange change;
  };

  Prover(const CheckpointReader& reader, const std::vector<std::vector<int32_t>>& windows,
         const FoldProofOptions& options, Backend backend, int64_t arms_before)
      : reader_(reader),
        graph_(reader.graph()),
        windows_(windows),
        options_(options),
        backend_(backend),
        arms_before_(arms_before) {}

  static constexpr int64_t kArms = 14;

  absl::StatusOr<std::vector<Arm>> Run() {
    SF_ASSIGN_OR_RETURN(model_, Load(reader_));
    SiteTap plain(graph_);
    SF_ASSIGN_OR_RETURN(hidden_, Hidden(*model_, {.taps = &plain}));
    SF_RETURN_IF_ERROR(KeepLogits());
    SF_ASSIGN_OR_RETURN(const auto scales, SmoothScales(reader_, plain.arm, kSmoothAlpha));
    SF_RETURN_IF_ERROR(Control());
    SF_RETURN_IF_ERROR(Prove("norm_gain", {.norm_gain = true}));
    SF_RETURN_IF_ERROR(Prove("R1", {.rotate_residual = true}));
    SF_RETURN_IF_ERROR(Prove("rescale", {.rescale = kRescale}));
    SF_RETURN_IF_ERROR(Prove("R2", {.rotate_values = true}));
    SF_RETURN_IF_ERROR(ProveLearned());
    SF_RETURN_IF_ERROR(Prove("R3", {.rotate_qk = true}));
    SF_RETURN_IF_ERROR(Prove("R4", {.rotate_down = true}));
    SF_RETURN_IF_ERROR(Prove("smooth", {.smooth = scales}));
    SF_RETURN_IF_ERROR(Prove("qk_scale", {.qk_scales = SomeQkScales(graph_.config)}));
    SF_RETURN_IF_ERROR(Prove("shift", {.shifts = Means(graph_, plain.arm)}));
    // Stacked: scales belong to the model behind the offline rotations, shifts to all before them.
    FoldOptions all = {.rotate_residual = true, .rotate_values = true};
    SiteTap offline(graph_), before_shift(graph_);
    SF_RETURN_IF_ERROR(Prove("R1+R2", all, &offline, &all));
    SF_RETURN_IF_ERROR(Prove("R1+R2+smooth+R3+R4", all, &before_shift));
    all.shifts = Means(graph_, before_shift.arm);
    SF_RETURN_IF_ERROR(Prove("R1+R2+smooth+R3+R4+shift", all));
    return std::move(arms_);
  }

 private:
  absl::StatusOr<std::unique_ptr<RuntimeModel>> Load(const CheckpointReader& reader) const {
    return LoadModel(reader, {.pool = options_.pool, .backend = backend_});
  }

  absl::Status ProveLearned() {
    std::shared_ptr<const LearnedRotations> learned = options_.learned;
    if (learned == nullptr) {
      SF_ASSIGN_OR_RETURN(learned, SomeRotations(reader_, options_.seed, options_.pool));
    }
    const bool given = options_.learned != nullptr;  // alone they may be one of the two
    return Prove("R1+R2 learned", {.rotate_residual = !given || learned->residual != nullptr,
                                   .rotate_values = !given || !learned->values.empty(),
                                   .learned = learned});
  }

  // `next`: gets the scales and the online rotations that stack on this arm.
  absl::Status Prove(const char* name, FoldOptions fold, SiteTap* tap = nullptr,
                     FoldOptions* next = nullptr) {
    const int64_t done = arms_before_ + static_cast<int64_t>(arms_.size());
    if (!Report(options_.progress, "proving folds", done, 2 * kArms)) {
      return absl::CancelledError("folds: stopped");
    }
    fold.seed = options_.seed;
    SF_ASSIGN_OR_RETURN(const auto folded, FoldCheckpoint(reader_, fold, options_.pool));
    Arm arm{.fold = name};
    std::string& why = folded->folds().empty() ? arm.refused : arm.excepted;
    if (!folded->refused().empty()) {
      why = absl::StrCat(folded->refused().front().fold, ": ", folded->refused().front().reason);
    }
    if (arm.refused.empty()) SF_RETURN_IF_ERROR(Compare(*folded, {.taps = tap}, arm.change));
    arms_.push_back(std::move(arm));
    if (next == nullptr) return absl::OkStatus();
    // Nothing of the arm was legal: the scales are the model's own.
    if (tap->arm.sites.front().rows == 0) SF_RETURN_IF_ERROR(Hidden(*model_, {.taps = tap}).status());
    SF_ASSIGN_OR_RETURN(next->smooth, SmoothScales(*folded, tap->arm, kSmoothAlpha));
    next->rotate_qk = next->rotate_down = true;
    return absl::OkStatus();
  }

  absl::Status Control() {
    FoldChange& control = arms_.emplace_back(Arm{.fold = "float32 rounding"}).change;
    for (uint64_t seed = options_.seed; seed < options_.seed + kDraws; ++seed) {
      FoldChange drawn;
      JitteredValues values(seed);
      ForwardOptions watched;
      if (backend_ == Backend::kCpu) watched.interventions = &values;
      SF_RETURN_IF_ERROR(Compare(Jittered(reader_, seed), watched, drawn));
      control.logit = std::max(control.logit, drawn.logit);
      control.divergence = std::max(control.divergence, drawn.divergence);
    }
    return absl::OkStatus();
  }

  absl::Status Compare(const CheckpointReader& folded, const ForwardOptions& watched, FoldChange& result) {
    SF_ASSIGN_OR_RETURN(const auto model, Load(folded));
    SF_ASSIGN_OR_RETURN(const std::vector<float> hidden, Hidden(*model, watched));
    const size_t d = static_cast<size_t>(graph_.config.hidden),
                 vocab = static_cast<size_t>(graph_.config.vocab);
    const size_t rows = hidden.size() / d;
    double change = 0, largest = 0, divergence = 0;
    std::vector<float> want(kLogitRows * vocab), got(want.size());
    for (size_t at = 0; at < rows; at += kLogitRows) {
      const size_t count = std::min(kLogitRows, rows - at);
      const auto part = [&](const std::vector<float>& h) {
        return absl::MakeSpan(h).subspan(at * d, count * d);
      };
      const auto logits = [&](std::vector<float>& out) {
        return absl::MakeSpan(out).subspan(0, count * vocab);
      };
      absl::Span<const float> base = logits(want);
      if (logits_.empty()) {
        SF_RETURN_IF_ERROR(Logits(*model_, part(hidden_), logits(want)));
      } else {
        base = absl::MakeSpan(logits_).subspan(at * vocab, count * vocab);
      }
      SF_RETURN_IF_ERROR(Logits(*model, part(hidden), logits(got)));
      for (size_t i = 0; i < count * vocab; ++i) {
        change = std::max(change, std::fabs(static_cast<double>(got[i]) - static_cast<double>(base[i])));
        largest = std::max(largest, std::fabs(static_cast<double>(base[i])));
      }
      for (size_t row = 0; row < count; ++row) {
        divergence +=
            Divergence(base.subspan(row * vocab, vocab), absl::MakeSpan(got).subspan(row * vocab, vocab));
      }
    }
    result.logit = largest > 0 ? change / largest : change;
    result.divergence = divergence / static_cast<double>(rows);
    return absl::OkStatus();
  }

  // The head is most of the work of a small model: its logits are made once where there is room.
  absl::Status KeepLogits() {
    const size_t d = static_cast<size_t>(graph_.config.hidden),
                 vocab = static_cast<size_t>(graph_.config.vocab), rows = hidden_.size() / d;
    if (rows * vocab > kMaxLogits) return absl::OkStatus();
    logits_.resize(rows * vocab);
    for (size_t at = 0; at < rows; at += kLogitRows) {
      const size_t count = std::min(kLogitRows, rows - at);
      SF_RETURN_IF_ERROR(Logits(*model_, absl::MakeSpan(hidden_).subspan(at * d, count * d),
                                absl::MakeSpan(logits_).subspan(at * vocab, count * vocab)));
    }
    return absl::OkStatus();
  }

  // [tokens of all windows, d] rows for the head.
  absl::StatusOr<std::vector<float>> Hidden(const RuntimeModel& model, const ForwardOptions& watched) const {
    const size_t d = static_cast<size_t>(graph_.config.hidden);
    std::vector<float> out;
    for (const auto& window : windows_) {
      KvCache cache(graph_.config, static_cast<int64_t>(window.size()));
      out.resize(out.size() + window.size() * d);
      SF_RETURN_IF_ERROR(Forward(model, window, cache,
                                 absl::MakeSpan(out).subspan(out.size() - window.size() * d), watched));
    }
    return out;
  }

  const CheckpointReader& reader_;
  const ModelGraph& graph_;
  const std::vector<std::vector<int32_t>>& windows_;
  const FoldProofOptions& options_;
  const Backend backend_;
  const int64_t arms_before_;  // of the whole proof
  std::unique_ptr<RuntimeModel> model_;
  std::vector<float> hidden_, logits_;  // of the model itself; no logits: too many to keep
  std::vector<Arm> arms_;
};

}  // namespace

bool IsExact(const FoldProof& proof, const FoldProof& control) {
  const double in_use = std::max(kExactLogit, kTimesControl * control.float32.logit);
  return proof.refused.empty() && proof.float64.logit <= kExactLogit && proof.float32.logit <= in_use &&
         std::max(proof.float64.divergence, proof.float32.divergence) <= kExactDivergence;
}

absl::StatusOr<std::vector<FoldProof>> ProveFolds(const CheckpointReader& reader,
                                                  const std::vector<std::vector<int32_t>>& windows,
                                                  const FoldProofOptions& options) {
  if (windows.empty()) return absl::InvalidArgumentError("folds: no windows of text to compare on");
  SF_ASSIGN_OR_RETURN(const auto wide, Prover(reader, windows, options, Backend::kFloat64, 0).Run());
  SF_ASSIGN_OR_RETURN(const auto narrow,
                      Prover(reader, windows, options, Backend::kCpu, Prover::kArms).Run());
  std::vector<FoldProof> proofs;
  for (size_t i = 0; i < wide.size(); ++i) {
    proofs.push_back({.control = i == 0,
                      .fold = wide[i].fold,
                      .refused = wide[i].refused,
                      .excepted = wide[i].excepted,
                      .float64 = wide[i].change,
                      .float32 = narrow[i].change});
  }
  Report(options.progress, "proving folds", 2 * Prover::kArms, 2 * Prover::kArms);
  return proofs;
}

}  // namespace spikefold
