// One point of a sweep after the other: prepared, written, evaluated, removed.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "apps/report/eval_document.h"
#include "apps/spikefold/context.h"
#include "apps/spikefold/scan_files.h"
#include "apps/spikefold/sweep_points.h"
#include "calib/hidden_memory.h"
#include "formats/quantized/native.h"
#include "formats/tensor_memory.h"
#include "quant/plan.h"

namespace spikefold {

// What all points share, loaded once.
struct SweepInputs {
  OpenedModel reference;
  LoadedScan scan;
  std::string scan_directory;
  TokenStream text;
  EvalOptions how;
  std::unique_ptr<HiddenMemory> memory;   // of the reference's evaluation
  std::unique_ptr<TensorMemory> weights;  // of the folded model
};

struct PointResult {
  std::optional<EvalDocument> document;  // none: the recipe was refused
  std::string refused;                   // why
  std::string codes_from;                // the earlier point whose codes were taken
};

class SweepRunner {
 public:
  struct Options {
    std::string directory;  // each model is written below it, under its point's name
    bool keep_models = false;
  };
  // All outlive the runner, which removes the models that it still needs unless they are kept.
  SweepRunner(const SweepInputs& inputs, const Options& options, Context& context)
      : inputs_(inputs), options_(options), context_(context) {}

  // `overwrite`: a model directory of this name may be there. `later`: the points still to be run, for which
  // codes are kept. An error, and not a refused point: whatever is no fault of the recipe.
  absl::StatusOr<PointResult> Run(const SweepPoint& point, bool overwrite,
                                  absl::Span<const SweepPoint> later);

 private:
  // A model on disk that goes with this object.
  class ModelDirectory {
   public:
    ModelDirectory(std::string path, bool keep) : path_(std::move(path)), keep_(keep) {}
    ~ModelDirectory();
    ModelDirectory(const ModelDirectory&) = delete;
    ModelDirectory& operator=(const ModelDirectory&) = delete;
    const std::string& path() const { return path_; }

   private:
    const std::string path_;
    const bool keep_;
  };
  // A point whose codes others may take.
  struct Donor {
    SweepPoint point;
    Plan plan;
    std::unique_ptr<ModelDirectory> directory;
    std::unique_ptr<NativeReader> native;
  };

  absl::StatusOr<EvalDocument> Measure(const SweepPoint& point, const std::string& path, double start);
  const Donor* FindDonor(const Plan& plan) const;
  absl::Status KeepDonors(const SweepPoint& point, Plan plan, std::unique_ptr<ModelDirectory> directory,
                          absl::Span<const SweepPoint> later);

  const SweepInputs& inputs_;
  const Options options_;
  Context& context_;
  std::vector<Donor> donors_;
};

}  // namespace spikefold
