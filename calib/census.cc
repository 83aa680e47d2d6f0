#include "calib/census.h"

#include <algorithm>
#include <cmath>
#include <future>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "calib/anatomy_probes.h"
#include "calib/census_activations.h"
#include "calib/census_weights.h"
#include "calib/dataset.h"
#include "calib/observers/key_observer.h"
#include "calib/observers/site_observer.h"
#include "calib/prefix_search.h"
#include "calib/sinks.h"
#include "calib/site_scores.h"
#include "calib/verdict.h"
#include "formats/base/status.h"
#include "formats/base/version.h"

namespace spikefold {
namespace {

constexpr int64_t kSinkWindows = 8;
constexpr int64_t kProbeTokens = 1024;  // at least, to look at spikes and to judge a prefix by
// The plain windows' part is a quarter of the text where that has this many tokens, else half of it.
constexpr int64_t kPlainTokens = 4096;
constexpr int64_t kGeneratedLength = 128;
constexpr int64_t kMaxOutlierTokens = 8;

class Scanner {
 public:
  Scanner(const RuntimeModel& model, const CheckpointReader& reader, const Tokenizer& tokenizer,
          const ScanOptions& options)
      : model_(model),
        graph_(model.graph()),
        reader_(reader),
        tokenizer_(tokenizer),
        options_(options),
        wants_bos_(tokenizer.add_bos() && tokenizer.bos_id() >= 0) {}

  absl::StatusOr<ScanResult> Run() {
    SF_RETURN_IF_ERROR(MakeWindows());
    SF_ASSIGN_OR_RETURN(weights_, CensusWeights(reader_, model_.pool(), options_.progress));
    // A second for each one or two gigabytes, beside the rest. Behind the weights: what is wrong with those
    // is said at once, and what they were read from is read again.
    fingerprint_ = std::async(std::launch::async, [this] { return reader_.Fingerprint(); });
    SF_RETURN_IF_ERROR(PlainArm());
    SF_RETURN_IF_ERROR(OwnSinks());
    SF_RETURN_IF_ERROR(OtherBosMode());
    SF_RETURN_IF_ERROR(Spikes());
    if (options_.anatomy) {
      SF_RETURN_IF_ERROR(ProbeAnatomy(
          {.model = model_, .tokenizer = tokenizer_, .seed = options_.seed, .progress = options_.progress},
          map_));
    }
    SF_RETURN_IF_ERROR(Prefix());
    SF_RETURN_IF_ERROR(map_.prefix.empty() ? AllPlain() : PrefixArm());
    KeepArms();
    ReportSites();
    SF_RETURN_IF_ERROR(FillProvenance());
    map_.num_layers = graph_.config.num_layers;
    map_.hidden = graph_.config.hidden;
    AddArchitectureNotes(graph_.config, map_);
    map_.verdict = Verdict(map_, graph_);
    return ScanResult{.map = std::move(map_), .stats = std::move(stats_)};
  }

 private:
  absl::Status MakeWindows() {
    const int64_t text_length = options_.window_length - (wants_bos_ ? 1 : 0);
    if (options_.texts.empty()) {
      SF_ASSIGN_OR_RETURN(text_, GenerateText(model_, tokenizer_, options_.num_windows, text_length,
                                              options_.seed, options_.progress));
    } else {
      SF_ASSIGN_OR_RETURN(text_, TokenizeFiles(tokenizer_, options_.texts));
    }
    const uint64_t draw = options_.texts.empty() ? 1 : options_.seed;  // written text has drawn already
    SF_ASSIGN_OR_RETURN(Windows windows, CutWindows(text_, options_.num_windows, text_length, draw));
    if (wants_bos_) {
      for (auto& window : windows) window.insert(window.begin(), tokenizer_.bos_id());
    }
    Split(windows);
    stats_.windows = std::move(windows);
    return absl::OkStatus();
  }

  // Every other window is for the second arm. Of the rest a large text spares half: what the scan runs beside
  // its arms (sinks, the other BOS mode, candidates for a prefix) then takes no longer than those would have.
  void Split(const Windows& windows) {
    const bool spare = options_.num_windows * options_.window_length / 4 >= kPlainTokens;
    for (size_t w = 0; w < windows.size(); ++w) {
      (w % 2 == 1 ? second_ : spare && w % 4 == 2 ? spare_ : plain_).push_back(windows[w]);
    }
    const int64_t wanted = (kProbeTokens + options_.window_length - 1) / options_.window_length;
    probes_ = Shorter(second_, std::max<int64_t>(wanted, 2), INT64_MAX);
  }

  absl::Status PlainArm() {
    plain_sites_.emplace(graph_, model_.pool());
    LifeObserver life(graph_, model_.pool());
    plain_keys_.emplace(graph_, 1, model_.pool());
    TapFan taps({&*plain_sites_, &*plain_keys_, &life});
    SF_RETURN_IF_ERROR(RunWindows(model_, plain_, nullptr, taps, "scanning", options_.progress));
    table_ = life.Table();
    (wants_bos_ ? map_.life_bos : map_.life_plain) = table_.life;
    return absl::OkStatus();
  }

  absl::Status OwnSinks() {
    SF_ASSIGN_OR_RETURN(SinkMap own,
                        MapSinks(model_, Shorter(plain_, kSinkWindows, kSinkLength), {}, options_.progress));
    (wants_bos_ ? map_.sinks_bos : map_.sinks_plain) = std::move(own);
    return absl::OkStatus();
  }

  // Some windows with BOS if the model does not want it, without if it does.
  absl::Status OtherBosMode() {
    if (tokenizer_.bos_id() < 0) return absl::OkStatus();
    Windows windows = Shorter(plain_, kSinkWindows, kSinkLength);
    if (!wants_bos_) windows = WithFirstToken(windows, tokenizer_.bos_id());
    if (wants_bos_) {
      for (auto& window : windows) window.erase(window.begin());
    }
    LifeObserver life(graph_, model_.pool());
    SF_ASSIGN_OR_RETURN(SinkMap sinks, MapSinks(model_, windows, {&life}, options_.progress));
    (wants_bos_ ? map_.sinks_plain : map_.sinks_bos) = std::move(sinks);
    (wants_bos_ ? map_.life_plain : map_.life_bos) = life.Table().life;
    return absl::OkStatus();
  }

  absl::Status Spikes() {
    SF_ASSIGN_OR_RETURN(ActivationCensus census,
                        CensusActivations({.model = model_,
                                           .reader = reader_,
                                           .tokenizer = tokenizer_,
                                           .weights = weights_,
                                           .life = table_,
                                           .windows = plain_,
                                           .look_again = [&](Taps& taps) { return RunProbes(taps); }}));
    map_.stages = std::move(census.stages);
    map_.super_weights = std::move(census.super_weights);
    map_.notes = std::move(census.notes);
    map_.warnings = std::move(census.warnings);
    for (const SiteStats& site : plain_sites_->sites()) {
      plain_score_ = std::max(plain_score_, ScoreSite(site.row_peak, options_.window_length).score);
    }
    map_.treatment_needed = !map_.stages.empty() || plain_score_ > kUpperRow;
    return absl::OkStatus();
  }

  // The probes as they are: more of the plain arm, a closer look at spikes, and what a prefix is judged by.
  absl::Status RunProbes(Taps& closer) {
    TapFan taps({&*plain_sites_, &*plain_keys_, &closer});
    SF_ASSIGN_OR_RETURN(probe_nll_, MeanNll(model_, MakeProbeWindows(probes_, wants_bos_), nullptr, taps,
                                            "looking at spikes", options_.progress));
    return absl::OkStatus();
  }

  absl::Status Prefix() {
    if (!options_.allow_prefix || !map_.treatment_needed) return absl::OkStatus();
    PrefixSearchInput input{.model = model_,
                            .tokenizer = tokenizer_,
                            .windows = probes_,
                            .windows_lead_with_bos = wants_bos_,
                            .plain_nll = probe_nll_,
                            .plain_score = plain_score_,
                            .progress = options_.progress};
    CountOutlierTokens(input);
    SF_ASSIGN_OR_RETURN(map_.prefixes, SearchPrefix(input));
    for (const PrefixCandidate& candidate : map_.prefixes) {
      if (candidate.chosen) map_.prefix = candidate.tokens;
    }
    return absl::OkStatus();
  }

  // PrefixQuant's o: the largest mean number of upper rows at a down_proj input, rounded up; and which tokens
  // those rows are.
  void CountOutlierTokens(PrefixSearchInput& input) const {
    const size_t length = static_cast<size_t>(options_.window_length);
    double most = 0;
    std::map<int32_t, int64_t> tokens;
    for (const Site& site : graph_.sites) {
      if (site.value != ValueKind::kDownIn) continue;
      const auto& peaks = plain_sites_->sites()[static_cast<size_t>(site.id)].row_peak;
      const SiteScore score = ScoreSite(peaks, options_.window_length);
      most = std::max(most, score.upper_per_window);
      if (score.upper_per_window == 0) continue;
      for (size_t row = 0; row < peaks.size(); ++row) {
        const bool upper = static_cast<double>(peaks[row]) > kUpperRow * score.median_peak;
        if (upper && row % length != 0) ++tokens[PlainToken(row / length, row % length)];
      }
    }
    input.outliers_per_window = static_cast<int64_t>(std::ceil(most));
    std::vector<std::pair<int64_t, int32_t>> order;
    order.reserve(tokens.size());
    for (const auto& [token, count] : tokens) order.emplace_back(-count, token);
    std::sort(order.begin(), order.end());
    for (const auto& entry : order) {
      if (static_cast<int64_t>(input.outlier_tokens.size()) == kMaxOutlierTokens) break;
      input.outlier_tokens.push_back(entry.second);
    }
  }
  // The plain arm has seen its windows, then the probes.
  int32_t PlainToken(size_t window, size_t position) const {
    return window < plain_.size() ? plain_[window][position] : probes_[window - plain_.size()][position];
  }

  // The rest of the text as it is.
  absl::Status AllPlain() {
    Windows rest = spare_;
    rest.insert(rest.end(), second_.begin() + static_cast<int64_t>(probes_.size()), second_.end());
    TapFan taps({&*plain_sites_, &*plain_keys_});
    return RunWindows(model_, rest, nullptr, taps, "scanning", options_.progress);
  }

  absl::Status PrefixArm() {
    const bool holds_bos =
        std::find(map_.prefix.begin(), map_.prefix.end(), tokenizer_.bos_id()) != map_.prefix.end();
    Windows windows = second_;
    if (wants_bos_ && holds_bos) {
      for (auto& window : windows) window.erase(window.begin());
    }
    prefix_length_ = static_cast<int64_t>(windows.front().size());
    SF_ASSIGN_OR_RETURN(stats_.prefix, ComputePrefix(model_, map_.prefix));
    prefix_sites_.emplace(graph_, model_.pool());
    prefix_keys_.emplace(graph_, static_cast<int64_t>(map_.prefix.size()), model_.pool());
    TapFan taps({&*prefix_sites_, &*prefix_keys_});
    return RunWindows(model_, windows, &stats_.prefix, taps, "scanning behind the prefix", options_.progress);
  }

  void KeepArms() {
    stats_.arms.push_back(
        {.name = "plain", .prefix = {}, .sites = plain_sites_->Take(), .keys = plain_keys_->Take()});
    if (prefix_sites_.has_value()) {
      stats_.arms.push_back({.name = "prefix",
                             .prefix = map_.prefix,
                             .sites = prefix_sites_->Take(),
                             .keys = prefix_keys_->Take()});
    }
    for (StatsArm& arm : stats_.arms) {
      for (SiteStats& site : arm.sites) {
        site.weight_sq = weights_.site_weight_sq[static_cast<size_t>(site.site)];
      }
    }
  }

  void ReportSites() {
    const StatsArm* behind = stats_.FindArm("prefix");
    for (const SiteStats& site : stats_.arms.front().sites) {
      const SiteScore score = ScoreSite(site.row_peak, options_.window_length);
      SiteReport report{.site = site.site,
                        .score = score.score,
                        .absmax = score.absmax,
                        .median_peak = score.median_peak,
                        .upper_per_window = score.upper_per_window,
                        .lower_per_window = score.lower_per_window};
      if (behind != nullptr) {
        const SiteScore after =
            ScoreSite(behind->sites[static_cast<size_t>(site.site)].row_peak, prefix_length_);
        report.absmax_prefix = after.absmax;
        report.score_prefix = after.score;
      }
      map_.sites.push_back(report);
    }
  }

  absl::Status FillProvenance() {
    SF_ASSIGN_OR_RETURN(stats_.model_fingerprint, fingerprint_.get());
    stats_.tool_version = ToolVersionAndCommit();
    stats_.tokenizer_fingerprint = tokenizer_.fingerprint();
    stats_.text_sha256 = text_.sha256;
    stats_.text_source = text_.source;
    stats_.bos = wants_bos_ ? "window" : "none";
    stats_.num_windows = options_.num_windows;
    stats_.window_length = options_.window_length;
    stats_.seed = options_.seed;
    map_.provenance = Json::MakeObject()
                          .Set("tool_version", stats_.tool_version)
                          .Set("model_fingerprint", stats_.model_fingerprint)
                          .Set("tokenizer_fingerprint", stats_.tokenizer_fingerprint)
                          .Set("text_source", stats_.text_source)
                          .Set("text_sha256", stats_.text_sha256)
                          .Set("text_tokens", static_cast<int64_t>(text_.ids.size()))
                          .Set("bos", stats_.bos)
                          .Set("num_windows", stats_.num_windows)
                          .Set("window_length", stats_.window_length)
                          .Set("seed", absl::StrCat(stats_.seed));
    return absl::OkStatus();
  }

  const RuntimeModel& model_;
  const ModelGraph& graph_;
  const CheckpointReader& reader_;
  const Tokenizer& tokenizer_;
  const ScanOptions options_;
  const bool wants_bos_;
  TokenStream text_;
  Windows plain_, spare_, second_;  // the text; see Split
  Windows probes_;                  // the first of second_
  WeightCensus weights_;
  std::optional<SiteObserver> plain_sites_, prefix_sites_;
  std::optional<KeyObserver> plain_keys_, prefix_keys_;
  LifeTable table_;  // of plain_
  double plain_score_ = 0, probe_nll_ = 0;
  int64_t prefix_length_ = 0;  // tokens of a window behind the prefix
  OutlierMap map_;
  CalibStats stats_;
  std::future<absl::StatusOr<std::string>> fingerprint_;
};

absl::Status CheckOptions(const ModelConfig& config, const ScanOptions& options) {
  if (options.num_windows < 2 || options.window_length < 8) {
    return absl::InvalidArgumentError(absl::StrCat("scan: ", options.num_windows, " windows of ",
                                                   options.window_length,
                                                   " tokens; at least 2 of at least 8 are needed"));
  }
  if (config.max_positions > 0 && options.window_length > config.max_positions) {
    return absl::InvalidArgumentError(absl::StrCat("scan: windows of ", options.window_length,
                                                   " tokens; the model allows ", config.max_positions,
                                                   " positions; use shorter windows"));
  }
  return absl::OkStatus();
}

ScanOptions ForGeneratedText(ScanOptions options) {
  options.window_length = std::min(options.window_length, kGeneratedLength);
  const int64_t most = std::max<int64_t>(2, options.max_generated_tokens / options.window_length);
  options.num_windows = std::min(options.num_windows, most);
  return options;
}

}  // namespace

absl::StatusOr<ScanResult> Scan(const RuntimeModel& model, const CheckpointReader& reader,
                                const Tokenizer& tokenizer, const ScanOptions& options) {
  SF_RETURN_IF_ERROR(CheckOptions(model.graph().config, options));
  return Scanner(model, reader, tokenizer, options.texts.empty() ? ForGeneratedText(options) : options).Run();
}

}  // namespace spikefold
