#include "quant/refine/descent.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

constexpr double kPi = 3.14159265358979323846;
constexpr int64_t kPoints = 4;  // of the curve, beside the first

using Window = std::vector<int32_t>;

// What the float model says behind the prefix, as logits of every row. LibTorch runs it where it runs the
// model that learns; the prefix's tokens go before each window, so that nothing need be kept of them.
class Teacher {
 public:
  static absl::StatusOr<Teacher> Make(const CheckpointReader& reader, const Window& prefix,
                                      const TorchOptions& options) {
    SF_ASSIGN_OR_RETURN(auto model, TorchModel::Load(reader, options));
    return Teacher(std::move(model), prefix, reader.graph().config.vocab);
  }

  // Valid until the next call.
  absl::StatusOr<absl::Span<const float>> Logits(const Window& window) {
    Window tokens = prefix_;
    tokens.insert(tokens.end(), window.begin(), window.end());
    logits_.resize(window.size() * static_cast<size_t>(vocab_));
    SF_RETURN_IF_ERROR(model_->Logits(tokens, static_cast<int64_t>(prefix_.size()), absl::MakeSpan(logits_)));
    return absl::Span<const float>(logits_);
  }

 private:
  Teacher(std::unique_ptr<TorchModel> model, Window prefix, int64_t vocab)
      : model_(std::move(model)), prefix_(std::move(prefix)), vocab_(vocab) {}

  std::unique_ptr<TorchModel> model_;
  Window prefix_;
  int64_t vocab_;
  std::vector<float> logits_;  // [rows of the window, vocab]
};

class Walk {
 public:
  Walk(const Descent& descent, const LearningOptions& options, Teacher teacher)
      : descent_(descent), options_(options), teacher_(std::move(teacher)) {}

  absl::StatusOr<Learning> Run() {
    SF_RETURN_IF_ERROR(Measure(0, 0));
    out_.before = out_.after = out_.curve.front().held_out;
    if (!std::isfinite(out_.before)) {
      return absl::InvalidArgumentError(
          absl::StrCat(descent_.what, ": the model's divergence on the held-out text is not finite"));
    }
    SF_RETURN_IF_ERROR(descent_.model->Remember());
    SF_RETURN_IF_ERROR(Steps());
    SF_RETURN_IF_ERROR(descent_.model->Recall());
    return std::move(out_);
  }

 private:
  absl::Status Measure(int64_t step, double learnt) {
    double sum = 0;
    for (const Window& window : options_.held_out) {
      SF_ASSIGN_OR_RETURN(const auto target, teacher_.Logits(window));
      SF_ASSIGN_OR_RETURN(const double mean, descent_.model->Divergence(window, 0, target));
      sum += mean;
    }
    out_.curve.push_back(
        {.step = step, .learnt = learnt, .held_out = sum / static_cast<double>(options_.held_out.size())});
    return absl::OkStatus();
  }

  // A short way up, then half a cosine down to nothing.
  double Rate(int64_t step, int64_t steps) const {
    const double done = static_cast<double>(step) / static_cast<double>(steps);
    const double warm = std::min(1.0, static_cast<double>(step + 1) / 8);
    return options_.rate * warm * 0.5 * (1 + std::cos(kPi * done));
  }

  absl::Status Steps() {
    const int64_t steps = static_cast<int64_t>(options_.windows.size());
    const int64_t every = std::max<int64_t>(1, (steps + kPoints - 1) / kPoints);
    double sum = 0;
    int64_t count = 0;
    for (int64_t step = 0; step < steps; ++step) {
      if (!Report(options_.progress, "learning", step, steps)) {
        return absl::CancelledError(absl::StrCat(descent_.what, ": stopped"));
      }
      const Window& window = options_.windows[static_cast<size_t>(step)];
      SF_ASSIGN_OR_RETURN(const auto target, teacher_.Logits(window));
      SF_ASSIGN_OR_RETURN(const double mean, descent_.model->Accumulate(window, 0, target, 1));
      SF_ASSIGN_OR_RETURN(const bool finite, descent_.step(Rate(step, steps)));
      if (!finite || !std::isfinite(mean)) {
        return absl::InternalError(absl::StrCat(descent_.what, ": step ", step + 1,
                                                ": gradients are not finite; try a smaller --rate"));
      }
      sum += mean;
      ++count;
      if ((step + 1) % every != 0 && step + 1 != steps) continue;
      SF_RETURN_IF_ERROR(Measure(step + 1, sum / static_cast<double>(count)));
      sum = count = 0;
      if (!(out_.curve.back().held_out < out_.after)) continue;  // not a number is no gain
      out_.after = out_.curve.back().held_out;
      out_.best_step = step + 1;
      SF_RETURN_IF_ERROR(descent_.model->Remember());
    }
    return absl::OkStatus();
  }

  const Descent& descent_;
  const LearningOptions& options_;
  Teacher teacher_;
  Learning out_;
};

}  // namespace

absl::StatusOr<Learning> Descend(const Descent& descent, const LearningOptions& options) {
  if (options.windows.empty() || options.held_out.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(descent.what, ": windows to learn from and windows held out are needed"));
  }
  SF_ASSIGN_OR_RETURN(Teacher teacher, Teacher::Make(*descent.reference, descent.prefix,
                                                     {.num_threads = options.num_threads,
                                                      .device = options.device,
                                                      .progress = options.progress}));
  return Walk(descent, options, std::move(teacher)).Run();
}

}  // namespace spikefold
