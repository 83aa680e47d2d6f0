#include "quant/planner.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "formats/base/status.h"
#include "formats/base/suggest.h"
#include "formats/base/version.h"
#include "formats/export/gguf_metadata.h"
#include "quant/keep/columns.h"
#include "quant/keep/module_pattern.h"
#include "quant/recipe_checks.h"
#include "quant/rounding/activation_scale.h"
#include "quant/target.h"
#include "quant/treatments.h"

namespace spikefold {
namespace {

// A row is a spike row if it stands so far above the median row (2410.05265).
constexpr double kSpikeRow = 64;
constexpr double kMostBits = 16;  // of a budget: more is never spent
constexpr int kMaxKeptShare = 4;  // at most K / 4 kept columns: beyond, 16 bit is the better choice

// Whether one side, kWeights or kActivations, has zero points.
bool Zeros(const Recipe& recipe, ZeroPoints side, bool by_default) {
  if (recipe.zero_points == ZeroPoints::kAuto) return by_default;
  return recipe.zero_points == side || recipe.zero_points == ZeroPoints::kBoth;
}

class Planner {
 public:
  Planner(const Recipe& recipe, const PlannerInput& input)
      : recipe_(recipe), input_(input), graph_(*input.graph), method_(ActivationScales(recipe)) {}

  absl::StatusOr<Plan> Make() {
    SF_ASSIGN_OR_RETURN(scheme_, FindScheme(recipe_.scheme));
    SF_RETURN_IF_ERROR(CheckInput());
    SF_RETURN_IF_ERROR(CheckScan());
    if (input_.treatments != nullptr) {
      treatments_ = *input_.treatments;
    } else {
      SF_ASSIGN_OR_RETURN(treatments_, ChooseTreatments(recipe_, *scheme_, input_.map, input_.stats));
    }
    if (input_.stats != nullptr) arm_ = input_.stats->FindArm(treatments_.fold ? "prefix" : "plain");
    if (input_.stats != nullptr && arm_ == nullptr) {
      return absl::InvalidArgumentError("the scan lacks the statistics behind its prefix; scan again");
    }
    Describe();
    ChooseModules();
    SF_RETURN_IF_ERROR(ChooseGroupSize());
    SF_RETURN_IF_ERROR(SpendBudget());
    SF_RETURN_IF_ERROR(PlanTensors());
    return std::move(plan_);
  }

 private:
  absl::Status PlanTensors() {
    plan_.linears.clear();
    for (const Site& site : graph_.sites) {
      if (site.layer >= 0) SF_RETURN_IF_ERROR(PlanSite(site));
    }
    // Sites of a layer follow each other in execution order, and so do their linears.
    SF_RETURN_IF_ERROR(CheckPatterns());
    PlanEmbeddingAndHead();
    CountPlanBytes(graph_, plan_);
    return absl::OkStatus();
  }

  absl::Status CheckInput() const {
    SF_RETURN_IF_ERROR(CheckRecipe(recipe_, *scheme_));
    if (LimitsOf(recipe_.target).blocks_of_32) SF_RETURN_IF_ERROR(CheckGgufModel(graph_.config));
    if (recipe_.dynamic_sites == 0 || input_.dynamic_sites != nullptr) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("dynamic_sites=", recipe_.dynamic_sites,
                                                   " needs a scan and the model to choose them by"));
  }

  absl::Status CheckScan() const {
    const bool needs = scheme_->activation_scales == Granularity::kPerTensor || recipe_.keep_rows ||
                       recipe_.rounding == Rounding::kGptq || recipe_.keep_modules > 0 ||
                       recipe_.keep_super_weights;
    if (input_.stats == nullptr || input_.map == nullptr) {
      if (!needs) return absl::OkStatus();
      return absl::InvalidArgumentError(
          absl::StrCat("scheme \"", scheme_->name, "\" with these options needs a scan; run `scan` first"));
    }
    if (input_.stats->model_fingerprint == input_.model_fingerprint) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("the scan is of model ", input_.stats->model_fingerprint,
                                                   ", this is model ", input_.model_fingerprint,
                                                   "; scan this model"));
  }

  void Describe() {
    plan_.tool_version = ToolVersionAndCommit();
    plan_.model_fingerprint = input_.model_fingerprint;
    plan_.scan_sha256 = input_.stats == nullptr ? "" : input_.scan_sha256;
    plan_.recipe = recipe_;
    plan_.outlier_reason = treatments_.reason;
    if (!input_.folds.applied.empty()) {
      absl::StrAppend(&plan_.outlier_reason, "; folded exactly: ", input_.folds.applied);
    }
    for (const std::string& refused : input_.folds.refused) {
      absl::StrAppend(&plan_.outlier_reason, "; refused ", refused);
    }
    if (!treatments_.fold) return;
    plan_.prefix = input_.stats->prefix.tokens;
    const bool bos_alone = plan_.prefix.size() == 1 && plan_.prefix[0] == graph_.config.bos_id;
    plan_.prefix_changes_function = !(bos_alone && input_.stats->bos == "window");
  }

  // A wish for a trellis together with one for a grid.
  absl::Status CheckCodes() const {
    if (recipe_.codes != Codes::kTrellis) return absl::OkStatus();
    const char* const what = scheme_->weight_bits >= 8                     ? "an 8-bit scheme"
                             : recipe_.group_size > 0                      ? "a group size"
                             : Zeros(recipe_, ZeroPoints::kWeights, false) ? "zero points for weights"
                             : treatments_.keep_columns > 0                ? "kept columns"
                             : recipe_.keep_super_weights                  ? "super weights"
                             : recipe_.group_scales != GroupScales::kAuto  ? "a choice of group scales"
                                                                           : nullptr;
    if (what == nullptr) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("codes \"trellis\" do not go together with ", what,
                                                   "; use codes \"grid\" or leave one out"));
  }

  absl::Status ChooseGroupSize() {
    SF_RETURN_IF_ERROR(CheckCodes());
    std::vector<int64_t> widths;
    for (const Node& node : graph_.nodes) {
      if (node.op == Op::kLinear && node.role != Role::kHead && !StaysFloat(node)) widths.push_back(node.k);
    }
    trellis_ = UsesTrellis(recipe_, *scheme_, treatments_, input_.folds.rotated, widths);
    if (scheme_->weight_scales != Granularity::kPerGroup || trellis_) return absl::OkStatus();
    plan_.group_size = recipe_.group_size;
    for (const Node& node : graph_.nodes) {
      if (node.op != Op::kLinear || node.role == Role::kHead || StaysFloat(node)) continue;
      if (recipe_.group_size == 0 || DefaultGroupSize({node.k}) == 0) continue;
      SF_RETURN_IF_ERROR(CheckGroupSize(node.module, node.k, plan_.group_size));
    }
    const int common = DefaultGroupSize(widths);  // INT8 where none fits: StorageOf()
    if (recipe_.group_size == 0) plan_.group_size = common;
    if (common > 0 || widths.empty()) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat(
        "rows of ", widths.front(),
        " weights, and all others that become codes, are no multiples of 16, so that codes below "
        "8 bits have no groups; use an 8-bit scheme",
        recipe_.target == Target::kNative
            ? ", or codes \"trellis\", without a group size, zero points, weight scales, kept "
              "columns or super weights"
            : ""));
  }

  // Ways of storing the units of storage_costs.
  absl::Status SpendBudget() {
    if (!recipe_.has_budget()) return absl::OkStatus();
    if (input_.storage_costs == nullptr) {
      return absl::InvalidArgumentError(
          absl::StrCat(BudgetWords(recipe_), " needs a scan to price storage by"));
    }
    TakeUnits();
    if (units_.empty()) return recipe_.max_kld > 0 ? absl::OkStatus() : BitsLeft().status();  // all in 16 bit
    double bits = 0;
    if (recipe_.max_kld > 0) {
      SF_ASSIGN_OR_RETURN(bits, BitsOfDivergence());
    } else {
      SF_ASSIGN_OR_RETURN(bits, BitsLeft());
    }
    SF_ASSIGN_OR_RETURN(const StoragePlan spent, SpendAbout(bits));
    Store(spent);
    absl::StrAppend(&plan_.outlier_reason, absl::StrFormat("; %.4g bits a weight go ", spent.bits),
                    recipe_.random_bits
                        ? "to linears chosen at random: a control"
                        : absl::StrFormat("where rounding measurably hurts most (expected KL divergence %.2g "
                                          "on text like the scan's)",
                                          spent.loss));
    return absl::OkStatus();
  }

  // The units that were priced, without linears that stay in 16 bit.
  void TakeUnits() {
    for (const StorageUnit& priced : *input_.storage_costs) {
      StorageUnit unit = priced;
      unit.num_weights = 0;
      for (const Node& node : graph_.nodes) {
        const bool inside = node.op == Op::kLinear && node.role == unit.role &&
                            node.layer >= unit.first_layer && node.layer <= unit.last_layer;
        if (inside && !StaysFloat(node)) unit.num_weights += node.n * node.k;
      }
      if (unit.num_weights == 0) continue;
      unit.loss *= static_cast<double>(unit.num_weights) / static_cast<double>(priced.num_weights);
      units_.push_back(std::move(unit));
    }
    if (recipe_.random_bits) MixLosses();
  }
  // The control: losses a weight change places.
  void MixLosses() {
    std::vector<double> losses;
    for (const StorageUnit& u : units_) losses.push_back(u.loss / static_cast<double>(u.num_weights));
    std::mt19937_64 random(recipe_.seed);
    for (size_t i = losses.size(); i > 1; --i) std::swap(losses[i - 1], losses[random() % i]);
    for (size_t u = 0; u < units_.size(); ++u) {
      units_[u].loss = losses[u] * static_cast<double>(units_[u].num_weights);
    }
  }
  bool StaysFloat(const Node& node) const {
    const int site = graph_.SiteOf(graph_.FindModule(node.module));
    return PatternOf(node.module) != nullptr || std::any_of(kept_sites_.begin(), kept_sites_.end(),
                                                            [&](const auto& s) { return s.first == site; });
  }

  void Store(const StoragePlan& spent) {
    storage_.clear();
    for (size_t u = 0; u < units_.size(); ++u) {
      storage_.push_back({units_[u].role, units_[u].first_layer, units_[u].last_layer, spent.choices[u]});
    }
  }

  // With no unit below the budget's whole bits, if that can be: below where it was measured a unit's damage
  // is only guessed, and taking bits from some to give them to others lost more than it won
  // (docs/results.md).
  absl::StatusOr<StoragePlan> SpendAbout(double bits) const {
    const double budget = std::min(bits, kMostBits);
    for (int least = std::min(static_cast<int>(budget), kStorageProbeBits);; --least) {
      std::vector<StorageUnit> units = units_;
      for (StorageUnit& unit : units) {
        std::erase_if(unit.options, [&](const StorageOption& o) { return o.bits < least; });
      }
      absl::StatusOr<StoragePlan> spent = SpendBits(units, budget);
      if (spent.ok() || least <= 2) return spent;
    }
  }

  // What a budget leaves for codes and scales, as bits a weight of the units: all else that is stored does
  // not depend on how they are.
  absl::StatusOr<double> BitsLeft() {
    std::vector<StorageUnit> units = units_;
    double weights = 0;
    for (StorageUnit& unit : units) {
      weights += static_cast<double>(unit.num_weights);
      unit.options = {*std::min_element(
          unit.options.begin(), unit.options.end(),
          [](const StorageOption& a, const StorageOption& b) { return a.bits_a_weight < b.bits_a_weight; })};
    }
    StoragePlan least;
    if (!units.empty()) {
      SF_ASSIGN_OR_RETURN(least, SpendBits(units, kMostBits));
    }
    Store(least);
    SF_RETURN_IF_ERROR(PlanTensors());
    const PlanTotals& t = plan_.totals;
    const bool of_all = recipe_.max_bytes > 0;
    const auto needed = static_cast<double>(of_all ? t.total_bytes : t.linear_bytes);
    const double allowed = of_all ? static_cast<double>(recipe_.max_bytes)
                                  : recipe_.bits * static_cast<double>(t.linear_weights) / 8;
    if (needed <= allowed) return least.bits + (weights > 0 ? 8 * (allowed - needed) / weights : 0);
    if (of_all) {
      return absl::InvalidArgumentError(absl::StrCat("max_bytes=", recipe_.max_bytes,
                                                     ": the least that this scheme takes for this model is ",
                                                     t.total_bytes, " bytes"));
    }
    return absl::InvalidArgumentError(
        absl::StrFormat("bits=%g: the least that this scheme takes for these linears%s is %.4f", recipe_.bits,
                        KeepsMore() ? ", with what they keep in higher precision," : "",
                        std::ceil(t.bits_linear() * 1e4) / 1e4));
  }
  // Whether anything but codes and scales is stored.
  bool KeepsMore() const {
    return std::any_of(plan_.linears.begin(), plan_.linears.end(), [](const TensorDecision& d) {
      return d.weight_bits >= 16 || d.has_bias || !d.kept.empty() || !d.supers.empty();
    });
  }

  // The least that is expected to reach the wanted divergence, to a thousandth of a bit.
  absl::StatusOr<double> BitsOfDivergence() const {
    double low = 0, high = kMostBits;
    SF_ASSIGN_OR_RETURN(const StoragePlan best, SpendAbout(high));
    if (best.loss > recipe_.max_kld) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "max_kld=%g: this scheme's best storage is expected to diverge by %.2g (weights alone)",
          recipe_.max_kld, best.loss));
    }
    while (high - low > 1e-3) {
      const double middle = (low + high) / 2;
      const auto plan = SpendAbout(middle);
      (plan.ok() && plan->loss <= recipe_.max_kld ? high : low) = middle;
    }
    return high;
  }

  StorageChoice StorageOf(const TensorDecision& d) const {
    for (const Stored& unit : storage_) {
      if (unit.role == d.role && d.layer >= unit.first && d.layer <= unit.last) return unit.choice;
    }
    if (plan_.group_size > 0 && d.k % plan_.group_size != 0) return {.bits = 8};
    return {scheme_->weight_bits, plan_.group_size, trellis_};
  }

  // The sites of highest score, as they are after the fold.
  void ChooseModules() {
    if (recipe_.keep_modules == 0) return;
    std::vector<const SiteReport*> order;
    for (const SiteReport& report : input_.map->sites) {
      if (graph_.sites[static_cast<size_t>(report.site)].layer >= 0) order.push_back(&report);
    }
    const auto score = [&](const SiteReport* r) { return treatments_.fold ? r->score_prefix : r->score; };
    std::stable_sort(order.begin(), order.end(),
                     [&](const SiteReport* a, const SiteReport* b) { return score(a) > score(b); });
    if (order.size() > static_cast<size_t>(recipe_.keep_modules)) {
      order.resize(static_cast<size_t>(recipe_.keep_modules));
    }
    for (const SiteReport* report : order) {
      kept_sites_.emplace_back(report->site, score(report));
    }
  }

  // What all linears of a site share: they read one activation.
  struct SiteChoice {
    std::vector<int32_t> kept;
    float activation_scale = 0, spike_threshold = 0;
    int activation_zero = 0;
    bool is_static = false;
    std::string words;
  };

  absl::StatusOr<SiteChoice> ChooseForSite(const Site& site) const {
    SiteChoice choice;
    const DynamicSite* const dynamic = DynamicAt(site);
    const bool is_static = scheme_->activation_scales == Granularity::kPerTensor && dynamic == nullptr;
    choice.is_static = is_static;
    if (dynamic != nullptr) choice.words = dynamic->words;
    if (arm_ == nullptr) return choice;
    const SiteStats& stats = arm_->sites[static_cast<size_t>(site.id)];
    if (stats.k != site.k) {
      return absl::InvalidArgumentError(absl::StrCat(
          site.name, ": the scan saw ", stats.k, " channels, the model has ", site.k, "; scan this model"));
    }
    if (recipe_.keep_rows) choice.spike_threshold = SpikeThreshold(stats);
    const int count = std::min<int>(treatments_.keep_columns, static_cast<int>(site.k / kMaxKeptShare));
    const ActivationFormat format = ActivationFormatOf(*scheme_, !ActivationZeros());
    if (count > 0) {
      choice.kept = recipe_.random_columns ? RandomColumns(stats, count, recipe_.seed)
                                           : ChooseKeptColumns(stats, count, is_static, method_,
                                                               choice.spike_threshold, format.hi());
    }
    if (!is_static) return choice;
    ActivationScale scale =
        ChooseActivationScale(stats, choice.kept, method_, choice.spike_threshold, format.hi());
    if (!format.symmetric) AddZeroPoint(stats, choice.kept, format.lo(), format.hi(), scale);
    scale.scale = std::max(scale.scale, std::numeric_limits<float>::min());  // kernels take no subnormal ones
    choice.activation_scale = scale.scale;
    choice.activation_zero = scale.zero;
    choice.words = absl::StrFormat("static scale %.3g (%s) clips %.2g of the values", scale.scale,
                                   ScaleMethodName(method_), scale.clipped_share);
    return choice;
  }

  const DynamicSite* DynamicAt(const Site& site) const {
    if (recipe_.dynamic_sites == 0 || input_.dynamic_sites == nullptr) return nullptr;
    for (const DynamicSite& dynamic : *input_.dynamic_sites) {
      if (dynamic.site == site.id) return &dynamic;
    }
    return nullptr;
  }

  // 0 where no row stands out.
  static float SpikeThreshold(const SiteStats& stats) {
    std::vector<float> peaks = stats.row_peak;
    if (peaks.empty()) return 0;
    const auto middle = peaks.begin() + static_cast<int64_t>(peaks.size() / 2);
    std::nth_element(peaks.begin(), middle, peaks.end());
    const double threshold = kSpikeRow * static_cast<double>(*middle);
    const bool any = std::any_of(stats.row_peak.begin(), stats.row_peak.end(),
                                 [&](float peak) { return static_cast<double>(peak) > threshold; });
    return any ? static_cast<float>(threshold) : 0;
  }

  absl::Status PlanSite(const Site& site) {
    SF_ASSIGN_OR_RETURN(const SiteChoice choice, ChooseForSite(site));
    const auto kept_site = std::find_if(kept_sites_.begin(), kept_sites_.end(),
                                        [&](const auto& s) { return s.first == site.id; });
    for (const int index : site.linears) {
      const Node& node = graph_.nodes[static_cast<size_t>(index)];
      TensorDecision d = NewDecision(node);
      if (kept_site != kept_sites_.end()) {
        d.reason = absl::StrFormat("16 bit: site score %.0f is among the %d highest", kept_site->second,
                                   recipe_.keep_modules);
      } else if (const std::string* pattern = PatternOf(node.module)) {
        d.reason = absl::StrCat("16 bit: asked for by \"", *pattern, "\"");
      } else {
        Quantize(choice, d);
      }
      plan_.linears.push_back(std::move(d));
    }
    return absl::OkStatus();
  }

  static TensorDecision NewDecision(const Node& node) {
    TensorDecision d;
    d.module = node.module;
    d.role = node.role;
    d.layer = node.layer;
    d.n = node.n;
    d.k = node.k;
    d.has_bias = node.has_bias;
    return d;
  }

  void Quantize(const SiteChoice& choice, TensorDecision& d) const {
    const StorageChoice storage = StorageOf(d);
    d.weight_bits = storage.bits;
    d.group_size = storage.group;
    const bool more_bits = storage.bits > scheme_->weight_bits;
    d.trellis = storage.trellis;
    d.weight_zeros = !d.trellis && WeightZeros(recipe_, *scheme_) && !(more_bits && storage.bits == 8);
    d.weight_scales = recipe_.weight_scales_set ? recipe_.weight_scales
                      : storage.bits >= 8       ? ScaleMethod::kAbsMax
                                                : ScaleMethod::kMse;
    d.rounding = RoundingOf(storage.bits);
    d.activation_bits = scheme_->activation_bits;
    d.activation_group = ActivationGroup(d.k);
    d.activation_zeros = ActivationZeros();
    d.activation_static = choice.is_static;
    d.scale_multiples = ScaleMultiples(d);
    d.activation_scale = choice.activation_scale;
    d.activation_zero = choice.activation_zero;
    d.kept = choice.kept;
    d.spike_threshold = choice.spike_threshold;
    AddSuperWeights(d);
    d.reason = d.trellis || more_bits ? StorageWords(d) : scheme_->summary;
    if (storage.bits == 8 && more_bits && d.k % 16 != 0) {
      absl::StrAppend(&d.reason, "; rows of ", d.k, " have no groups of weights");
    }
    if (scheme_->activation_group > 0 && d.activation_group == 0) {
      absl::StrAppend(&d.reason, "; rows of ", d.k, " have no groups of activations");
    }
    if (d.weight_zeros) d.reason += "; zero points for weights";
    if (d.activation_zeros) d.reason += "; zero points for activations";
    if (d.scale_multiples) d.reason += "; scales are multiples of one a channel";
    if (d.rounding == Rounding::kGptq) d.reason += "; rounded by GPTQ";
    if (!choice.words.empty()) absl::StrAppend(&d.reason, "; ", choice.words);
    if (!d.kept.empty()) {
      absl::StrAppend(&d.reason, "; ", d.kept.size(), recipe_.random_columns ? " random" : " widest",
                      " columns in bf16");
    }
    if (d.spike_threshold > 0) {
      absl::StrAppend(&d.reason, absl::StrFormat("; rows above %.3g in float", d.spike_threshold));
    }
    if (!d.supers.empty()) absl::StrAppend(&d.reason, "; ", d.supers.size(), " super weights exact");
  }

  // Integer sums over all of a row need INT8 codes of one scale and zero point 0.
  bool ScaleMultiples(const TensorDecision& d) const {
    if (d.group_size == 0 || d.weight_bits > 4 || recipe_.group_scales == GroupScales::kFloat) return false;
    if (recipe_.group_scales == GroupScales::kMultiples) return true;
    return d.activation_bits == 8 && d.activation_group == 0 && !d.activation_zeros &&
           recipe_.target == Target::kNative;
  }

  static std::string StorageWords(const TensorDecision& d) {
    const QuantizedLinearSpec spec = SpecOf(d);
    return absl::StrCat("weights in ", FormatText(spec.format, 0), ", ", FormatText(spec.act),
                        " activations");
  }

  // Columns of a width that share a scale: the scheme's own number, or another that the kernels take; 0: none
  // fits, or none is wanted.
  int ActivationGroup(int64_t k) const {
    if (scheme_->activation_group == 0) return 0;
    for (const int group : {scheme_->activation_group, 128, 32}) {
      if (k % group == 0) return group;
    }
    return 0;
  }

  bool ActivationZeros() const {
    return scheme_->activation_bits < 16 &&
           Zeros(recipe_, ZeroPoints::kActivations, !scheme_->activations_symmetric);
  }

  Rounding RoundingOf(int bits) const {
    if (recipe_.rounding != Rounding::kAuto) return recipe_.rounding;
    const bool text = input_.stats != nullptr && !input_.stats->windows.empty();
    const bool pays = bits < 8 || recipe_.outliers == OutlierMode::kAuto;
    return text && pays ? Rounding::kGptq : Rounding::kNearest;
  }

  void AddSuperWeights(TensorDecision& d) const {
    if (!recipe_.keep_super_weights || d.role != Role::kDownProj) return;
    for (const SuperWeightRef& s : input_.map->super_weights) {
      const int32_t column = static_cast<int32_t>(s.column);
      if (s.layer != d.layer || std::binary_search(d.kept.begin(), d.kept.end(), column)) continue;
      d.supers.push_back({static_cast<int32_t>(s.row), column});
    }
    std::sort(d.supers.begin(), d.supers.end(), [](const PlannedSuper& a, const PlannedSuper& b) {
      return std::make_pair(a.row, a.column) < std::make_pair(b.row, b.column);
    });
  }

  const std::string* PatternOf(absl::string_view module) const {
    for (const std::string& pattern : recipe_.keep) {
      if (MatchesPattern(pattern, module)) return &pattern;
    }
    return nullptr;
  }

  absl::Status CheckPatterns() const {
    std::vector<std::string> modules;
    for (const TensorDecision& d : plan_.linears) modules.push_back(d.module);
    for (const std::string& pattern : recipe_.keep) {
      if (std::any_of(modules.begin(), modules.end(),
                      [&](const std::string& m) { return MatchesPattern(pattern, m); })) {
        continue;
      }
      return absl::InvalidArgumentError(absl::StrCat("keep pattern \"", Printable(pattern),
                                                     "\" matches no linear", DidYouMean(pattern, modules),
                                                     "; for example \"*.layers.3.mlp.down_proj\""));
    }
    return absl::OkStatus();
  }

  void PlanEmbeddingAndHead() {
    const auto choose = [&](const Node& node) {
      TensorDecision d = NewDecision(node);
      d.weight_bits = recipe_.head_bits;
      d.reason = d.weight_bits == 8 ? "INT8 per row: costs next to nothing" : "16 bit: head_bits=16";
      return d;
    };
    for (const Node& node : graph_.nodes) {
      if (node.op == Op::kEmbed) plan_.embedding = choose(node);
      if (node.op == Op::kLinear && node.role == Role::kHead && !graph_.config.tied_embeddings) {
        plan_.head = choose(node);
        plan_.has_head = true;
      }
    }
  }

  const Recipe& recipe_;
  const PlannerInput& input_;
  const ModelGraph& graph_;
  const ScaleMethod method_;  // of activation scales
  const Scheme* scheme_ = nullptr;
  Treatments treatments_;
  const StatsArm* arm_ = nullptr;
  bool trellis_ = false;                            // of all linears that no budget decides
  std::vector<std::pair<int, double>> kept_sites_;  // site, its score
  struct Stored {
    Role role;
    int first, last;  // layers, inclusive
    StorageChoice choice;
  };
  std::vector<Stored> storage_;
  std::vector<StorageUnit> units_;  // of a budget
  Plan plan_;
};

}  // namespace

std::vector<int64_t> LinearWidths(const ModelGraph& graph) {
  std::vector<int64_t> widths;
  for (const Node& node : graph.nodes) {
    if (node.op == Op::kLinear && node.role != Role::kHead) widths.push_back(node.k);
  }
  return widths;
}

bool UsesTrellis(const Recipe& recipe, const Scheme& scheme, const Treatments& treatments, bool rotated,
                 absl::Span<const int64_t> widths) {
  if (scheme.weight_scales != Granularity::kPerGroup || recipe.codes == Codes::kGrid) return false;
  if (recipe.codes == Codes::kTrellis) return true;
  const bool asks_for_grid = recipe.group_size > 0 || recipe.zero_points != ZeroPoints::kAuto ||
                             recipe.weight_scales_set || treatments.keep_columns > 0 ||
                             recipe.keep_super_weights || recipe.group_scales != GroupScales::kAuto;
  const bool no_groups = !widths.empty() && DefaultGroupSize(widths) == 0;
  return (rotated || no_groups) && !asks_for_grid;
}

bool WeightZeros(const Recipe& recipe, const Scheme& scheme) {
  return Zeros(recipe, ZeroPoints::kWeights, !scheme.weights_symmetric);
}

absl::StatusOr<Plan> MakePlan(const Recipe& recipe, const PlannerInput& input) {
  return Planner(recipe, input).Make();
}

}  // namespace spikefold
