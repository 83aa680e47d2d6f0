#include "apps/spikefold/sweep_point.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "apps/spikefold/eval_command.h"
#include "apps/spikefold/quantize_command.h"
#include "formats/base/file.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

PointResult Refused(const absl::Status& status) {
  return {.document = {}, .refused = std::string(status.message()), .codes_from = {}};
}

bool AnyMayShare(const SweepPoint& point, absl::Span<const SweepPoint> later) {
  return std::any_of(later.begin(), later.end(),
                     [&](const SweepPoint& other) { return MayShareCodes(point.recipe, other.recipe); });
}

absl::StatusOr<Prepared> PreparePoint(const SweepPoint& point, const SweepInputs& inputs, Context& context) {
  const CheckpointReader& reader = *inputs.reference.reader;
  SF_RETURN_IF_ERROR(CheckRecipe(point.recipe, reader.graph()));
  if (!point.recipe.rotations_sha256.empty()) {
    return absl::InvalidArgumentError("learned rotations: sweep reads none; quantize with --rotate-from");
  }
  PrepareInput input = MakePrepareInput(reader, &inputs.scan, inputs.scan_directory, context);
  input.weights = inputs.weights.get();
  auto prepared = Prepare(point.recipe, input);
  context.console.EndProgress();
  return prepared;
}

}  // namespace

SweepRunner::ModelDirectory::~ModelDirectory() {
  std::error_code ignored;  // what is left takes room and harms nothing
  if (!keep_) std::filesystem::remove_all(path_, ignored);
}

absl::StatusOr<PointResult> SweepRunner::Run(const SweepPoint& point, bool overwrite,
                                             absl::Span<const SweepPoint> later) {
  const double start = Now();
  PointResult result;
  auto prepared = PreparePoint(point, inputs_, context_);
  if (absl::IsInvalidArgument(prepared.status()) || absl::IsUnimplemented(prepared.status())) {
    return Refused(prepared.status());
  }
  SF_RETURN_IF_ERROR(prepared.status());
  PreparedOutput output{
      .path = JoinPath(options_.directory, point.name), .overwrite = overwrite, .codes_from = {}};
  if (const Donor* donor = FindDonor(prepared->plan)) {
    output.codes_from = {.plan = &donor->plan, .native = donor->native.get()};
    result.codes_from = donor->point.name;
  }
  const absl::Status written =
      WritePrepared(*prepared, *inputs_.reference.reader, &inputs_.scan, output, context_);
  if (absl::IsUnimplemented(written)) return Refused(written);  // anything else is no fault of the recipe
  SF_RETURN_IF_ERROR(written);
  auto directory = std::make_unique<ModelDirectory>(output.path, options_.keep_models);
  SF_ASSIGN_OR_RETURN(result.document, Measure(point, output.path, start));
  SF_RETURN_IF_ERROR(KeepDonors(point, std::move(prepared->plan), std::move(directory), later));
  return result;
}

absl::StatusOr<EvalDocument> SweepRunner::Measure(const SweepPoint& point, const std::string& path,
                                                  double start) {
  SF_ASSIGN_OR_RETURN(const OpenedModel model, OpenModel(context_, path, {.tokenizer = false}));
  EvalOptions how = inputs_.how;
  how.reference_memory = inputs_.memory.get();
  return EvaluateTask({.model = &model,
                       .reference = &inputs_.reference,
                       .text = &inputs_.text,
                       .how = how,
                       .name = point.name,
                       .start = start},
                      context_);
}

const SweepRunner::Donor* SweepRunner::FindDonor(const Plan& plan) const {
  for (const Donor& donor : donors_) {
    if (SharesRounding(donor.plan, plan)) return &donor;
  }
  return nullptr;
}

absl::Status SweepRunner::KeepDonors(const SweepPoint& point, Plan plan,
                                     std::unique_ptr<ModelDirectory> directory,
                                     absl::Span<const SweepPoint> later) {
  donors_.erase(std::remove_if(donors_.begin(), donors_.end(),
                               [&](const Donor& donor) { return !AnyMayShare(donor.point, later); }),
                donors_.end());
  const bool shares = SharesRounding(plan, plan);  // nothing by GPTQ: nothing to take
  if (!shares || !AnyMayShare(point, later) || FindDonor(plan) != nullptr) return absl::OkStatus();
  SF_ASSIGN_OR_RETURN(auto native, NativeReader::Open(directory->path()));
  donors_.push_back({.point = point,
                     .plan = std::move(plan),
                     .directory = std::move(directory),
                     .native = std::move(native)});
  return absl::OkStatus();
}

}  // namespace spikefold
