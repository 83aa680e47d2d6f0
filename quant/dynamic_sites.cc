#include "quant/dynamic_sites.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "calib/recalibrate.h"
#include "calib/self_divergence.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "formats/base/status.h"
#include "kernels/numeric.h"
#include "kernels/runtime/forward.h"

namespace spikefold {
namespace {

constexpr int64_t kCacheVersion = 1;
constexpr uint64_t kMaxCacheBytes = uint64_t{1} << 20;
constexpr size_t kLeastTried = 24;     // with per-token codes too
constexpr size_t kWindowTokens = 256;  // of each window, of which the second half is scored

std::vector<const Site*> StaticSites(const Plan& plan, const ModelGraph& graph) {
  std::vector<const Site*> sites;
  for (const Site& site : graph.sites) {
    if (site.layer >= 0 && plan.FindStatic(graph, site) != nullptr) sites.push_back(&site);
  }
  return sites;
}

// One site's rows become what their codes stand for.
class SiteCodes : public Interventions {
 public:
  SiteCodes(const Site& site, const TensorDecision& d, bool per_token, ThreadPool& pool)
      : site_(site), d_(d), per_token_(per_token), pool_(pool), coded_(static_cast<size_t>(site.k), true) {
    for (const int32_t column : d.kept) coded_[static_cast<size_t>(column)] = false;
  }
  bool Wants(int layer, ValueKind value) const override {
    return layer == site_.layer && value == site_.value;
  }
  void Edit(int, ValueKind, float* data, int64_t num_rows, int64_t width, int64_t) override {
    pool_.ParallelFor(num_rows, 16, [&](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) EditRow(data + row * width, width);
    });
  }

 private:
  void EditRow(float* x, int64_t width) const {
    const int lo = kernels::ActivationMin(d_.activation_bits, !d_.activation_zeros);
    const int hi = kernels::ActivationMax(d_.activation_bits);
    float low = 0, high = 0;
    for (int64_t i = 0; i < width; ++i) {
      if (!coded_[static_cast<size_t>(i)]) continue;
      low = std::min(low, x[i]);
      high = std::max(high, x[i]);
    }
    const float peak = std::max(-low, high);
    if (d_.spike_threshold > 0 && peak > d_.spike_threshold) return;  // such rows stay float
    kernels::AsymmetricScale code{d_.activation_scale, d_.activation_zero};
    if (per_token_) {
      code = d_.activation_zeros ? kernels::AsymmetricScaleOf(low, high, lo, hi)
                                 : kernels::AsymmetricScale{kernels::SymmetricScale(peak, hi), 0};
    }
    const float inverse = 1.0f / code.scale, zero = static_cast<float>(code.zero);
    for (int64_t i = 0; i < width; ++i) {
      if (!coded_[static_cast<size_t>(i)]) continue;
      const int q = kernels::RoundClamp(x[i] * inverse + zero, lo, hi);
      x[i] = code.scale * static_cast<float>(q - code.zero);
    }
  }

  const Site& site_;
  const TensorDecision& d_;
  const bool per_token_;
  ThreadPool& pool_;
  std::vector<bool> coded_;  // [k]
};

class Measurement {
 public:
  Measurement(const DynamicSitesInput& in, int count)
      : in_(in),
        graph_(in.reader->graph()),
        sites_(StaticSites(*in.plan, graph_)),
        tried_(std::min(sites_.size(), std::max(kLeastTried, 2 * static_cast<size_t>(count)))) {}

  absl::StatusOr<std::vector<SiteDamage>> Run() {
    const std::string cache = CachePath();
    if (ReadCache(cache)) return damage_;
    damage_.clear();  // a cache may have been read in part
    SF_RETURN_IF_ERROR(Open());
    total_ = static_cast<int64_t>(sites_.size() + tried_);
    for (const Site* site : sites_) {
      SF_ASSIGN_OR_RETURN(const double fixed, Measure(*site, false));
      damage_.push_back({.site = site->id, .fixed = fixed, .per_token = fixed});
    }
    std::vector<size_t> order(sites_.size());
    for (size_t i = 0; i < order.size(); ++i) order[i] = i;
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return damage_[a].fixed > damage_[b].fixed; });
    for (size_t i = 0; i < tried_; ++i) {
      SF_ASSIGN_OR_RETURN(damage_[order[i]].per_token, Measure(*sites_[order[i]], true));
    }
    Report(in_.progress, kStep, total_, total_);
    if (!cache.empty()) WriteFileAtomically(cache, ToJson().Dump(1)).IgnoreError();
    return damage_;
  }

 private:
  static constexpr char kStep[] = "measuring static scales";

  absl::Status Open() {
    if (in_.stats->windows.empty()) {
      return absl::InvalidArgumentError("dynamic sites need the text of a scan; scan first");
    }
    SF_ASSIGN_OR_RETURN(model_, LoadModel(*in_.reader, {.pool = in_.pool, .backend = in_.backend}));
    const std::vector<int32_t> tokens = in_.behind_prefix ? in_.stats->prefix.tokens : std::vector<int32_t>();
    KvPrefix prefix;
    if (!tokens.empty()) {
      SF_ASSIGN_OR_RETURN(prefix, ComputePrefix(*model_, tokens));
    }
    const auto all = WindowsBehind(in_.stats->windows, tokens, graph_.config.bos_id);
    const size_t count = std::min(std::max<size_t>(1, all.size() / 2), static_cast<size_t>(in_.max_windows));
    std::vector<std::vector<int32_t>> windows;
    for (size_t w = 0; w < count; ++w) {  // spread over the text
      std::vector<int32_t>& window = windows.emplace_back(all[w * all.size() / count]);
      window.resize(std::min(window.size(), kWindowTokens));
    }
    SF_ASSIGN_OR_RETURN(divergence_, SelfDivergence::Create(*model_, std::move(prefix), windows));
    return absl::OkStatus();
  }

  absl::StatusOr<double> Measure(const Site& site, bool per_token) {
    if (!Report(in_.progress, kStep, done_++, total_)) {
      return absl::CancelledError("measuring static scales: stopped");
    }
    SiteCodes codes(site, *in_.plan->FindStatic(graph_, site), per_token, *in_.pool);
    return divergence_->Measure(&codes, site.layer);
  }

  // Named by all that the measurement depends on.
  std::string CachePath() const {
    if (in_.cache_directory.empty()) return "";
    std::string key = absl::StrCat("damage ", kCacheVersion, in_.plan->model_fingerprint,
                                   in_.behind_prefix ? " prefix " : " plain ", in_.scan_sha256,
                                   in_.arithmetic, " ", in_.max_windows, " ", tried_);
    for (const Site* site : sites_) {
      const TensorDecision& d = *in_.plan->FindStatic(graph_, *site);
      absl::StrAppend(&key, absl::StrFormat(" %a %d %d %a", d.activation_scale, d.activation_zero,
                                            d.activation_bits, d.spike_threshold));
      for (const int32_t column : d.kept) absl::StrAppend(&key, ",", column);
    }
    return JoinPath(in_.cache_directory, absl::StrCat("damage-", Sha256Hex(key).substr(0, 16), ".json"));
  }

  Json ToJson() const {
    Json sites = Json::MakeArray();
    for (const SiteDamage& d : damage_) {
      sites.Append(Json::MakeObject()
                       .Set("site", graph_.sites[static_cast<size_t>(d.site)].name)
                       .Set("static", d.fixed)
                       .Set("per_token", d.per_token));
    }
    return Json::MakeObject().Set("format_version", kCacheVersion).Set("sites", std::move(sites));
  }

  // A file that cannot be used is measured again.
  bool ReadCache(const std::string& path) {
    if (path.empty() || !PathExists(path)) return false;
    const auto text = ReadFileToString(path, kMaxCacheBytes);
    if (!text.ok()) return false;
    const auto json = ParseJson(*text, path);
    if (!json.ok() || json->GetInt("format_version", path).value_or(0) != kCacheVersion) return false;
    const Json* list = json->Find("sites");
    if (list == nullptr || !list->is_array() || list->array().size() != sites_.size()) return false;
    for (size_t i = 0; i < sites_.size(); ++i) {
      const Json& entry = list->array()[i];
      const auto name = entry.GetString("site", path);
      const auto fixed = entry.GetDouble("static", path), token = entry.GetDouble("per_token", path);
      if (!name.ok() || *name != sites_[i]->name || !fixed.ok() || !token.ok()) return false;
      damage_.push_back({.site = sites_[i]->id, .fixed = *fixed, .per_token = *token});
    }
    return true;
  }

  const DynamicSitesInput& in_;
  const ModelGraph& graph_;
  const std::vector<const Site*> sites_;
  const size_t tried_;
  std::vector<SiteDamage> damage_;
  std::unique_ptr<RuntimeModel> model_;
  std::unique_ptr<SelfDivergence> divergence_;
  int64_t done_ = 0, total_ = 0;
};

double ScoreOf(const OutlierMap& map, int site, bool behind_prefix) {
  for (const SiteReport& report : map.sites) {
    if (report.site == site) return behind_prefix ? report.score_prefix : report.score;
  }
  return 0;
}

}  // namespace

absl::StatusOr<std::vector<SiteDamage>> MeasureSiteDamage(const DynamicSitesInput& input, int count) {
  return Measurement(input, count).Run();
}

absl::StatusOr<std::vector<DynamicSite>> ChooseDynamicSites(const Recipe& recipe,
                                                            const DynamicSitesInput& input) {
  const std::vector<const Site*> sites = StaticSites(*input.plan, input.reader->graph());
  if (sites.empty()) return std::vector<DynamicSite>();  // the planner says why there are none
  if (recipe.dynamic_sites > static_cast<int>(sites.size())) {
    return absl::InvalidArgumentError(absl::StrCat("dynamic_sites=", recipe.dynamic_sites, ": only ",
                                                   sites.size(), " inputs have a static scale; use at most ",
                                                   sites.size()));
  }
  struct Ranked {
    DynamicSite site;
    double value = 0;
  };
  std::vector<Ranked> ranked;
  if (recipe.dynamic_by == DynamicBy::kDamage) {
    SF_ASSIGN_OR_RETURN(const std::vector<SiteDamage> damage, MeasureSiteDamage(input, recipe.dynamic_sites));
    for (const SiteDamage& d : damage) {
      const std::string words =
          absl::StrFormat("a scale a token: a static one alone costs %.2g nats a token here, this %.2g",
                          d.fixed, d.per_token);
      ranked.push_back({{d.site, words}, d.gain()});
    }
  } else {
    std::mt19937_64 random(recipe.seed);
    for (const Site* site : sites) {
      if (recipe.dynamic_by == DynamicBy::kRandom) {
        ranked.push_back({{site->id, "a scale a token: chosen at random, a control"},
                          static_cast<double>(random() >> 11)});
      } else {
        const double score = ScoreOf(*input.map, site->id, input.behind_prefix);
        ranked.push_back({{site->id, absl::StrFormat("a scale a token: site score %.0f", score)}, score});
      }
    }
  }
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const Ranked& a, const Ranked& b) { return a.value > b.value; });
  std::vector<DynamicSite> chosen;
  chosen.reserve(static_cast<size_t>(recipe.dynamic_sites));
  for (int i = 0; i < recipe.dynamic_sites; ++i) chosen.push_back(ranked[static_cast<size_t>(i)].site);
  return chosen;
}

}  // namespace spikefold
