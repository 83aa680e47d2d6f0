#include "quant/refine/learn_rotations.h"

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr char kWhat[] = "learn-rotations";

bool Has(const FoldedCheckpoint& folded, const std::string& fold) {
  const auto& folds = folded.folds();
  return std::find(folds.begin(), folds.end(), fold) != folds.end();
}

absl::Status Refused(absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(kWhat, ": ", why));
}

class RotationLearner {
 public:
  RotationLearner(const CheckpointReader& base, const Prepared& prepared, const CalibStats* stats,
                  const LearningOptions& options)
      : base_(base), plan_(prepared.plan), folded_(*prepared.folded), stats_(stats), options_(options) {}

  absl::StatusOr<RotationsLearnt> Run() {
    const ModelGraph& graph = folded_.graph();
    r1_ = Has(folded_, "R1");
    r2_ = Has(folded_, "R2");
    if (!r1_ && !r2_) return Refused("neither R1 nor R2 is asked for and legal; there is nothing to learn");
    SF_RETURN_IF_ERROR(ChooseForms());
    TorchOptions how{.num_threads = options_.num_threads, .device = options_.device, .forms = &forms_};
    how.progress = options_.progress;
    SF_ASSIGN_OR_RETURN(model_, TorchModel::Load(folded_, how));
    RotationsLearnt out;
    const auto step = [this](double rate) { return model_->CayleyStep(rate); };
    SF_ASSIGN_OR_RETURN(
        static_cast<Learning&>(out),
        Descend(
            {.what = kWhat, .model = model_.get(), .reference = &base_, .prefix = plan_.prefix, .step = step},
            options_));
    out.rotations = DrawnRotations(graph, r1_, r2_, plan_.recipe.seed);
    SF_ASSIGN_OR_RETURN(out.rotations.model_fingerprint, base_.Fingerprint());
    if (out.best_step > 0) SF_RETURN_IF_ERROR(Turn(out.rotations));
    SealRotations(out.rotations);
    SF_RETURN_IF_ERROR(CheckLearnedRotations(out.rotations, base_, nullptr));
    return out;
  }

 private:
  // Turns: R1's, then the values' of each layer.
  int TurnOf(const Site& site) const {
    if (site.value == ValueKind::kCtx) return r2_ ? site.layer + (r1_ ? 1 : 0) : -1;
    return r1_ && site.value != ValueKind::kDownIn ? 0 : -1;
  }

  absl::Status ChooseForms() {
    const ModelGraph& graph = folded_.graph();
    if (r1_) forms_.turns.push_back(graph.config.hidden);
    if (r2_)
      forms_.turns.insert(forms_.turns.end(), static_cast<size_t>(graph.config.num_layers),
                          graph.config.head_dim);
    if (Has(folded_, "smooth")) {
      return Refused("channel scales belong to one basis; learn without --smooth");
    }
    bool rounds = false;
    for (const Site& site : graph.sites) {
      TorchForms::Site& form = forms_.sites.emplace_back();
      const TensorDecision* d = nullptr;  // that rounds the input: a linear in 16 bit reads it as it is
      for (const int node : site.linears) {
        const TensorDecision* const one = plan_.Find(graph.nodes[static_cast<size_t>(node)].module);
        if (one == nullptr) continue;  // a head that shares the embedding's table
        if (!one->kept.empty() || !one->supers.empty() || one->spike_threshold > 0) {
          return Refused(absl::StrCat(
              one->module,
              ": kept columns, super weights and spike rows belong to one basis; learn without them"));
        }
        if (d == nullptr || SpecOf(*d).act.is_float()) d = one;
      }
      if (d == nullptr) continue;
      form.act = SpecOf(*d).act;
      form.input_scale = d->activation_scale;
      form.input_zero = d->activation_zero;
      if (!form.act.is_float()) form.turn = TurnOf(site);
      rounds = rounds || form.turn >= 0;
    }
    if (!rounds) {
      return Refused(
          absl::StrCat("scheme \"", plan_.recipe.scheme,
                       "\" rounds nothing that R1 or R2 turn; give one with INT8 or INT4 activations"));
    }
    if (!plan_.prefix.empty()) {
      if (stats_ == nullptr || stats_->prefix.tokens != plan_.prefix) {
        return Refused("the plan's prefix is not in the scan; give the scan it was made from");
      }
      forms_.prefix = &stats_->prefix;
    }
    return absl::OkStatus();
  }

  absl::Status Turn(LearnedRotations& r) const {
    int turn = 0;
    if (r1_) {
      SF_ASSIGN_OR_RETURN(const std::vector<double> q, model_->ReadTurn(turn++, r.hidden));
      r.residual = Turned(r.residual, q, r.hidden);
    }
    for (DenseMatrix& value : r.values) {
      SF_ASSIGN_OR_RETURN(const std::vector<double> q, model_->ReadTurn(turn++, r.head_dim));
      value = Turned(value, q, r.head_dim);
    }
    return absl::OkStatus();
  }

  const CheckpointReader& base_;
  const Plan& plan_;
  const FoldedCheckpoint& folded_;
  const CalibStats* const stats_;
  const LearningOptions& options_;
  bool r1_ = false, r2_ = false;
  TorchForms forms_;
  std::unique_ptr<TorchModel> model_;
};

}  // namespace

absl::StatusOr<RotationsLearnt> LearnRotations(const CheckpointReader& base, const Prepared& prepared,
                                               const CalibStats* stats, const LearningOptions& options) {
  if (prepared.folded == nullptr) {
    return Refused("neither R1 nor R2 is asked for and legal; there is nothing to learn");
  }
  return RotationLearner(base, prepared, stats, options).Run();
}

}  // namespace spikefold
