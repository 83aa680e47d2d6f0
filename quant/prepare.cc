#include "quant/prepare.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "calib/recalibrate.h"
#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/status.h"
#include "quant/dynamic_sites.h"
#include "quant/folds/qk_scales.h"
#include "quant/folds/smooth.h"
#include "quant/folds/smooth_search.h"
#include "quant/planner.h"
#include "quant/storage_costs.h"
#include "quant/target.h"
#include "quant/treatments.h"

namespace spikefold {
namespace {

// Of what calibration keeps: files of another are not found.
constexpr char kStatsVersion[] = "keys ";
constexpr int64_t kMeanWindows = 8;  // of the scan's, for mean squares alone

FoldOptions Options(const Treatments& t, uint64_t seed) {
  FoldOptions o;
  o.rotate_residual = t.rotate.r1;
  o.rotate_values = t.rotate.r2;
  o.rotate_qk = t.rotate.r3;
  o.rotate_down = t.rotate.r4;
  o.rescale = t.rescale;
  o.seed = seed;
  return o;
}

class Preparer {
 public:
  Preparer(const Recipe& recipe, const PrepareInput& input) : recipe_(recipe), in_(input) {}

  // Everything but the plan.
  absl::Status Fold() {
    SF_ASSIGN_OR_RETURN(const Scheme* const scheme, FindScheme(recipe_.scheme));
    SF_RETURN_IF_ERROR(CheckScan());
    SF_ASSIGN_OR_RETURN(treatments_, ChooseTreatments(recipe_, *scheme, in_.map, in_.stats));
    FoldOptions options = Options(treatments_, recipe_.seed);
    SF_RETURN_IF_ERROR(TakeRotations(options));
    if (treatments_.smooth > 0 || treatments_.smooth_search) {
      SF_ASSIGN_OR_RETURN(options.smooth, SmoothScalesOf(options, *scheme));
    }
    if (recipe_.qk_smooth != 0) {
      SF_ASSIGN_OR_RETURN(options.qk_scales, QkScalesOf());
    }
    if (treatments_.shift) {
      SF_ASSIGN_OR_RETURN(options.shifts, ShiftsOf(options));
    }
    if (!options.any()) return CalibrateOnAll(*scheme);
    SF_ASSIGN_OR_RETURN(out_.folded, FoldCheckpoint(*in_.reader, options, in_.pool));
    for (const RefusedFold& refused : out_.folded->refused()) {
      // Where no group fits codes are a trellis, which keeps no columns.
      const bool grids =
          !UsesTrellis(recipe_, *scheme, treatments_, false, LinearWidths(in_.reader->graph()));
      if (refused.fold == "R1" && grids) {
        WithoutResidualRotation(recipe_, *scheme, in_.reader->graph().config.hidden, treatments_);
      }
      refused_.push_back(absl::StrCat(refused.fold, ": ", refused.reason));
    }
    if (out_.folded->folds().empty()) out_.folded.reset();
    if (out_.folded == nullptr) return CalibrateOnAll(*scheme);
    if (in_.weights != nullptr) SF_RETURN_IF_ERROR(out_.folded->set_memory(in_.weights));
    if (in_.stats == nullptr) return absl::OkStatus();
    SF_ASSIGN_OR_RETURN(CalibStats stats, StatsOf(*out_.folded, NeedsMeansOnly(*scheme) ? kMeanWindows : 0));
    out_.folded_stats = std::make_unique<CalibStats>(std::move(stats));
    return absl::OkStatus();
  }

  absl::Status Plan() {
    const CheckpointReader& model = out_.model(*in_.reader);
    PlannerInput input{.graph = &model.graph(),
                       .map = in_.map,
                       .stats = out_.stats_or(in_.stats),
                       .model_fingerprint = {},
                       .scan_sha256 = in_.scan_sha256,
                       .folds = Words(),
                       .treatments = &treatments_};
    SF_ASSIGN_OR_RETURN(input.model_fingerprint, model.Fingerprint());
    SF_RETURN_IF_ERROR(PriceStorage(model, input));
    SF_RETURN_IF_ERROR(ChooseDynamicSites(model, input));
    SF_ASSIGN_OR_RETURN(out_.plan, MakePlan(recipe_, input));
    return CheckPlanForTarget(out_.plan);
  }

  Prepared& out() { return out_; }

 private:
  // Before any work: what is calibrated again would bear this model's name.
  absl::Status CheckScan() const {
    if (in_.stats == nullptr) return absl::OkStatus();
    SF_ASSIGN_OR_RETURN(const std::string fingerprint, in_.reader->Fingerprint());
    if (in_.stats->model_fingerprint == fingerprint) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("the scan is of model ", in_.stats->model_fingerprint,
                                                   ", this is model ", fingerprint, "; scan this model"));
  }

  absl::Status TakeRotations(FoldOptions& options) {
    const std::string &wanted = recipe_.rotations_sha256,
                      given = in_.rotations == nullptr ? "" : in_.rotations->sha256;
    if (wanted == given) {
      options.learned = in_.rotations;
      if (!wanted.empty()) {
        const bool r1 = in_.rotations->residual != nullptr, r2 = !in_.rotations->values.empty();
        absl::StrAppend(&treatments_.reason, "; learned rotations (", wanted.substr(0, 12), "...) turn ",
                        r1 ? "the residual stream" : "", r1 && r2 ? " and " : "", r2 ? "the values" : "");
      }
      return absl::OkStatus();
    }
    const auto words = [](const std::string& sha256) {
      return sha256.empty() ? "none" : absl::StrCat(Printable(sha256.substr(0, 12)), "...");
    };
    return absl::InvalidArgumentError(absl::StrCat("rotations: the recipe asks for learned ones (",
                                                   words(wanted), "); given are ", words(given),
                                                   "; give what it was made with by --rotate-from"));
  }

  // Nothing depends on the inputs' ranges, scales being those of rows or none: GPTQ sums Hessians of its own,
  // and only the head is rounded by the mean squares of its input.
  bool NeedsMeansOnly(const Scheme& scheme) const {
    const bool gptq = recipe_.rounding == Rounding::kGptq ||
                      (recipe_.rounding == Rounding::kAuto && scheme.weight_bits < 8);
    const bool keeps = treatments_.keep_columns > 0 || recipe_.keep_rows;
    return scheme.activation_scales != Granularity::kPerTensor && gptq && !keeps && recipe_.kv.k_scale != 'c';
  }

  const char* ArmName() const { return treatments_.fold ? "prefix" : "plain"; }

  // Static scales see all of the scan's text, of which an arm ran only a part.
  absl::Status CalibrateOnAll(const Scheme& scheme) {
    const bool static_keys = recipe_.kv.k_scale == 'c';
    const bool is_static = scheme.activation_scales == Granularity::kPerTensor || static_keys;
    if (!is_static || in_.stats == nullptr || SawAll()) return absl::OkStatus();
    SF_ASSIGN_OR_RETURN(CalibStats stats, StatsOf(*in_.reader));
    out_.folded_stats = std::make_unique<CalibStats>(std::move(stats));
    return absl::OkStatus();
  }
  bool SawAll() const {
    const StatsArm* arm = in_.stats->FindArm(ArmName());
    if (arm == nullptr || arm->sites.empty() || in_.stats->windows.empty())
      return true;  // nothing can be done about it here
    const std::vector<int32_t> prefix = treatments_.fold ? in_.stats->prefix.tokens : std::vector<int32_t>();
    int64_t rows = 0;
    for (const auto& window : WindowsBehind(in_.stats->windows, prefix, in_.reader->graph().config.bos_id)) {
      rows += static_cast<int64_t>(window.size());
    }
    return arm->sites.front().rows >= rows;
  }

  // Scales are chosen on the model with the offline rotations that it will have; a site that is rotated
  // online takes none.
  absl::StatusOr<std::vector<SiteScales>> SmoothScalesOf(const FoldOptions& all, const Scheme& scheme) {
    FoldOptions offline = all;
    offline.rotate_down = offline.rotate_qk = false;
    std::unique_ptr<FoldedCheckpoint> folded;
    CalibStats stats_of_folded;
    const CalibStats* stats = in_.stats;
    if (offline.any()) {
      SF_ASSIGN_OR_RETURN(folded, FoldCheckpoint(*in_.reader, offline, in_.pool));
    }
    if (offline.any() || (stats != nullptr && !SawAll())) {
      SF_ASSIGN_OR_RETURN(stats_of_folded, StatsOf(folded == nullptr ? *in_.reader : *folded));
      stats = &stats_of_folded;
    }
    const StatsArm* const arm = stats == nullptr ? nullptr : stats->FindArm(ArmName());
    if (arm == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat("the scan lacks the statistics of its ", ArmName(), " arm; scan again"));
    }
    const CheckpointReader& model = folded == nullptr ? *in_.reader : *folded;
    std::vector<SiteScales> scales;
    for (const SiteStats& site : arm->sites) {
      const Site& place = model.graph().sites[static_cast<size_t>(site.site)];
      const bool online = all.rotate_down && place.value == ValueKind::kDownIn;
      if (place.layer < 0 || online) continue;
      if (!treatments_.smooth_search) {
        SF_ASSIGN_OR_RETURN(SiteScales s, SmoothSite(model, site, treatments_.smooth));
        scales.push_back(std::move(s));
        continue;
      }
      SF_ASSIGN_OR_RETURN(SearchedScales s, SearchSiteScales(model, site, SearchFor(scheme)));
      if (s.after < s.before) scales.push_back(std::move(s.scales));
    }
    return scales;
  }

  // Of the model itself: no other fold changes a key before its embedding.
  absl::StatusOr<std::vector<QkScales>> QkScalesOf() {
    const StatsArm* const arm = in_.stats == nullptr ? nullptr : in_.stats->FindArm(ArmName());
    if (arm == nullptr || arm->keys.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("qk_smooth=", recipe_.qk_smooth, ": the scan has no statistics of keys; scan again"));
    }
    return ChooseQkScales(arm->keys, in_.reader->graph().config, recipe_.qk_smooth);
  }

  SmoothSearch SearchFor(const Scheme& scheme) const {
    return {.scheme = &scheme,
            .group_size = recipe_.group_size,
            .weight_zeros = WeightZeros(recipe_, scheme),
            .pool = in_.pool};
  }

  // Means of the inputs of the model with all other folds.
  absl::StatusOr<std::vector<SiteShift>> ShiftsOf(const FoldOptions& others) {
    std::unique_ptr<FoldedCheckpoint> folded;
    if (others.any()) {
      SF_ASSIGN_OR_RETURN(folded, FoldCheckpoint(*in_.reader, others, in_.pool));
    }
    SF_ASSIGN_OR_RETURN(const CalibStats stats, StatsOf(folded == nullptr ? *in_.reader : *folded));
    const StatsArm* const arm = stats.FindArm(ArmName());
    if (arm == nullptr) return absl::InternalError("shift: a calibrated arm is missing");
    std::vector<SiteShift> shifts;
    for (const SiteStats& site : arm->sites) {
      const Site& place = in_.reader->graph().sites[static_cast<size_t>(site.site)];
      if (place.layer < 0 || site.rows == 0) continue;
      SiteShift& shift =
          shifts.emplace_back(SiteShift{.layer = place.layer, .value = place.value, .values = {}});
      for (const double sum : site.sum) {
        shift.values.push_back(static_cast<float>(sum / static_cast<double>(site.rows)));
      }
    }
    return shifts;
  }

  absl::Status CheckRuns(const CheckpointReader& model) const {
    uint64_t bytes = 0;
    for (const StoredTensor& t : model.tensors()) bytes += 4 * static_cast<uint64_t>(NumElements(t.shape));
    if (in_.max_model_bytes == 0 || bytes <= in_.max_model_bytes) return absl::OkStatus();
    return absl::ResourceExhaustedError(
        absl::StrCat("this plan is made by running the folded model, whose weights take ", bytes,
                     " bytes of memory; ", in_.max_model_bytes,
                     " are allowed; use --outliers none --rotate none --smooth 0 and no budget, or "
                     "allow more memory"));
  }

  // Calibrates a model, folded or not, on the scan's text (0: all windows), or finds that it was done before.
  absl::StatusOr<CalibStats> StatsOf(const CheckpointReader& folded, int64_t max_windows = 0) {
    SF_ASSIGN_OR_RETURN(const std::string fingerprint, folded.Fingerprint());
    std::string cache;
    if (!in_.cache_directory.empty()) {
      const std::string key = Sha256Hex(absl::StrCat(
          kStatsVersion, fingerprint, treatments_.fold ? " prefix " : " plain ",
          max_windows > 0 ? absl::StrCat(max_windows, " windows ") : "", in_.scan_sha256, in_.arithmetic));
      cache = JoinPath(in_.cache_directory, absl::StrCat("folded-", key.substr(0, 16), ".spike"));
      if (PathExists(cache)) {
        absl::StatusOr<CalibStats> found = LoadStats(cache);
        const bool ours = found.ok() && found->model_fingerprint == fingerprint;
        if (ours && CheckStats(*found, folded.graph(), cache).ok()) return found;
      }
    }
    SF_RETURN_IF_ERROR(CheckRuns(folded));
    SF_ASSIGN_OR_RETURN(
        const auto model,
        LoadModel(folded, {.pool = in_.pool, .backend = in_.backend, .progress = in_.progress}));
    SF_ASSIGN_OR_RETURN(CalibStats stats, Recalibrate(*model, folded, *in_.stats,
                                                      {.behind_prefix = treatments_.fold,
                                                       .max_windows = max_windows,
                                                       .progress = in_.progress}));
    if (!cache.empty()) SaveStats(stats, cache).IgnoreError();  // next time it is calibrated again
    return stats;
  }

  absl::Status PriceStorage(const CheckpointReader& model, PlannerInput& input) {
    SF_ASSIGN_OR_RETURN(const Scheme* const scheme, FindScheme(recipe_.scheme));
    if (!recipe_.has_budget() || input.stats == nullptr) return absl::OkStatus();
    SF_RETURN_IF_ERROR(CheckRuns(model));
    StorageCostInput how{.reader = &model, .stats = input.stats, .behind_prefix = treatments_.fold};
    how.zeros = WeightZeros(recipe_, *scheme);
    how.trellis = UsesTrellis(recipe_, *scheme, treatments_, Rotated(), LinearWidths(model.graph()));
    how.gptq = recipe_.rounding != Rounding::kNearest;
    how.pool = in_.pool;
    how.backend = in_.backend;
    how.progress = in_.progress;
    if (!in_.cache_directory.empty()) {
      const std::string key = Sha256Hex(absl::StrCat(
          input.model_fingerprint, treatments_.fold ? " prefix " : " plain ", how.zeros ? "zeros " : "",
          how.trellis ? "trellis " : "", how.gptq ? "gptq " : "", in_.scan_sha256, in_.arithmetic));
      how.cache = JoinPath(in_.cache_directory, absl::StrCat("costs-", key.substr(0, 16), ".json"));
    }
    SF_ASSIGN_OR_RETURN(storage_costs_, MeasureStorageCosts(how));
    input.storage_costs = &storage_costs_;
    return absl::OkStatus();
  }

  // Against the plan in which all sites are static.
  absl::Status ChooseDynamicSites(const CheckpointReader& model, PlannerInput& input) {
    if (recipe_.dynamic_sites <= 0 || input.stats == nullptr) return absl::OkStatus();
    SF_RETURN_IF_ERROR(CheckRuns(model));
    Recipe recipe = recipe_;
    recipe.dynamic_sites = 0;
    SF_ASSIGN_OR_RETURN(const spikefold::Plan plan, MakePlan(recipe, input));
    DynamicSitesInput how{.reader = &model, .map = in_.map, .stats = input.stats, .plan = &plan};
    how.behind_prefix = treatments_.fold;
    how.pool = in_.pool;
    how.backend = in_.backend;
    how.progress = in_.progress;
    how.cache_directory = in_.cache_directory;
    how.scan_sha256 = in_.scan_sha256;
    how.arithmetic = in_.arithmetic;
    SF_ASSIGN_OR_RETURN(dynamic_sites_, spikefold::ChooseDynamicSites(recipe_, how));
    input.dynamic_sites = &dynamic_sites_;
    return absl::OkStatus();
  }

  bool Rotated() const {
    if (out_.folded == nullptr) return false;
    const auto& folds = out_.folded->folds();
    return std::find(folds.begin(), folds.end(), "R1") != folds.end();
  }

  FoldWords Words() const {
    return {.rotated = Rotated(),
            .applied = out_.folded == nullptr ? "" : absl::StrJoin(out_.folded->folds(), "+"),
            .refused = refused_};
  }

  const Recipe& recipe_;
  const PrepareInput& in_;
  Treatments treatments_;
  std::vector<std::string> refused_;
  std::vector<StorageUnit> storage_costs_;
  std::vector<DynamicSite> dynamic_sites_;
  Prepared out_;
};

}  // namespace

absl::StatusOr<Prepared> Prepare(const Recipe& recipe, const PrepareInput& input) {
  Preparer preparer(recipe, input);
  SF_RETURN_IF_ERROR(preparer.Fold());
  SF_RETURN_IF_ERROR(preparer.Plan());
  return std::move(preparer.out());
}

absl::StatusOr<Prepared> PrepareFor(Plan plan, const PrepareInput& input) {
  Preparer preparer(plan.recipe, input);
  SF_RETURN_IF_ERROR(preparer.Fold());
  SF_ASSIGN_OR_RETURN(const std::string fingerprint, preparer.out().model(*input.reader).Fingerprint());
  if (fingerprint != plan.model_fingerprint) {
    return absl::InvalidArgumentError(absl::StrCat("the plan is for model ", plan.model_fingerprint,
                                                   ", this model with the plan's folds is ", fingerprint,
                                                   "; plan this model, by the same --backend and --isa"));
  }
  Prepared out = std::move(preparer.out());
  out.plan = std::move(plan);
  return out;
}

}  // namespace spikefold
