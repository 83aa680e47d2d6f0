#include "quant/rounding/gptq.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "quant/rounding/block_panel.h"
#include "quant/rounding/device_rows.h"
#include "quant/rounding/row_panel.h"
#include "quant/rounding/trellis_panel.h"

namespace spikefold {
namespace {

absl::Status CheckInput(const RoundingInput& in, const HessianFactor& factor, const WeightGrid& grid) {
  SF_RETURN_IF_ERROR(CheckGrid("gptq", in.k, grid));
  if (in.n < 1 || static_cast<int64_t>(in.w.size()) != in.n * in.k || factor.k != in.k) {
    return absl::InvalidArgumentError(absl::StrCat("gptq: ", in.w.size(), " weights for N=", in.n,
                                                   " K=", in.k, " and a Hessian of ", factor.k,
                                                   " columns; they must agree"));
  }
  if ((grid.trellis || grid.blocks != nullptr) && !(in.kept.empty() && in.supers.empty())) {
    return absl::InvalidArgumentError(absl::StrCat("gptq: trellis codes or blocks of ggml with ",
                                                   in.kept.size(), " kept columns and ", in.supers.size(),
                                                   " super weights; they take none"));
  }
  if (factor.device != nullptr && !CanRoundOnDevice(grid)) {
    return absl::InvalidArgumentError(
        "gptq: a device's Hessian rounds grids, no trellis codes and no blocks of ggml");
  }
  if (factor.is_diagonal() && !grid.trellis) {
    return absl::InvalidArgumentError(
        "gptq: a Hessian that is its diagonal; grids and blocks need all of it");
  }
  if (factor.order.size() + in.kept.size() == static_cast<size_t>(in.k)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("gptq: the Hessian was factored with ",
                                                 static_cast<size_t>(in.k) - factor.order.size(),
                                                 " kept columns, not ", in.kept.size()));
}

absl::Status RoundPanel(const GptqOptions& options, RowPanel& panel) {
  SF_RETURN_IF_ERROR(panel.RoundAll());
  if (options.descent_passes > 0) SF_RETURN_IF_ERROR(panel.Descend(options.descent_passes));
  for (int i = 0; i < options.scale_refits; ++i) {
    SF_RETURN_IF_ERROR(panel.RefitScales());
    SF_RETURN_IF_ERROR(panel.Descend(options.descent_passes));
  }
  return panel.Measure();
}

absl::Status RoundPanel(const GptqOptions&, TrellisPanel& panel) {
  SF_RETURN_IF_ERROR(panel.RoundAll());
  return panel.Measure();
}

// A task on its way.
struct Job {
  const GptqTask* task;
  absl::Status status;
  RoundedWeights out;
  std::vector<double> error, power;  // [n]
};

// Rows of a job that are rounded together; they depend on no others.
struct Part {
  Job* job;
  int64_t first_row, num_rows;
  absl::Status status;
};

template <typename Panel>
absl::Status RoundRows(const HessianFactor& factor, const GptqOptions& options, ThreadPool& pool,
                       int64_t first_row, Job& job) {
  Panel panel(job.task->input, factor, job.task->grid, pool);
  panel.Load(first_row);
  SF_RETURN_IF_ERROR(RoundPanel(options, panel));
  panel.Store(job.out);
  for (int64_t i = 0; i < panel.num_rows(); ++i) {
    job.error[static_cast<size_t>(first_row + i)] = panel.error(i);
    job.power[static_cast<size_t>(first_row + i)] = panel.power(i);
  }
  return absl::OkStatus();
}

absl::Status RoundPart(const HessianFactor& factor, const GptqOptions& options, ThreadPool& pool,
                       const Part& part) {
  const WeightGrid& grid = part.job->task->grid;
  if (grid.blocks != nullptr) {
    return RoundRows<BlockPanel>(factor, options, pool, part.first_row, *part.job);
  }
  if (grid.trellis) return RoundRows<TrellisPanel>(factor, options, pool, part.first_row, *part.job);
  return RoundRows<RowPanel>(factor, options, pool, part.first_row, *part.job);
}

void MakeRoom(Job& job) {
  const RoundingInput& input = job.task->input;
  const WeightGrid& grid = job.task->grid;
  job.error.resize(static_cast<size_t>(input.n));
  job.power.resize(static_cast<size_t>(input.n));
  RoundedWeights& out = job.out;
  if (grid.blocks != nullptr) {
    out.block_type = grid.blocks->type;
    const GgmlTypeInfo& info = *FindGgmlType(static_cast<uint32_t>(out.block_type));
    out.blocks.resize(static_cast<size_t>(input.n * input.k / info.block_elements * info.block_bytes));
    return;
  }
  out.codes.resize(static_cast<size_t>(input.n * input.k));
  out.scales.resize(static_cast<size_t>(input.n * grid.num_groups(input.k)));
  if (!grid.symmetric) out.zeros.resize(out.scales.size());
  if (grid.trellis) out.trellis_bits = grid.bits;
}

// Long parts first, so that no thread starts one last.
std::vector<Part> Split(std::vector<Job>& jobs) {
  std::vector<Part> parts;
  for (Job& job : jobs) {
    if (!job.status.ok()) continue;
    const int64_t n = job.task->input.n,
                  rows = job.task->grid.trellis ? TrellisPanel::kRows : RowPanel::kRows;
    for (int64_t first = 0; first < n; first += rows) {
      parts.push_back({.job = &job, .first_row = first, .num_rows = std::min(rows, n - first), .status = {}});
    }
  }
  std::stable_sort(parts.begin(), parts.end(),
                   [](const Part& a, const Part& b) { return a.num_rows > b.num_rows; });
  return parts;
}

void RoundParts(const HessianFactor& factor, const GptqOptions& options, ThreadPool& pool,
                std::vector<Job>& jobs) {
  std::vector<Part> parts = Split(jobs);
  pool.ParallelFor(static_cast<int64_t>(parts.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      Part& part = parts[static_cast<size_t>(p)];
      part.status = RoundPart(factor, options, pool, part);
    }
  });
  for (const Part& part : parts) part.job->status.Update(part.status);
}

double RelativeError(const Job& job) {
  double error = 0, power = 0;
  for (size_t r = 0; r < job.error.size(); ++r) {
    error += std::max(job.error[r], 0.0);
    power += job.power[r];
  }
  return power > 0 ? error / power : 0;
}

}  // namespace

bool CanRoundOnDevice(const WeightGrid& grid) { return !grid.trellis && grid.blocks == nullptr; }

std::vector<absl::StatusOr<RoundedWeights>> Gptq(absl::Span<const GptqTask> tasks,
                                                 const HessianFactor& factor, const GptqOptions& options,
                                                 ThreadPool& pool) {
  std::vector<Job> jobs;
  for (const GptqTask& task : tasks) {
    jobs.push_back({.task = &task,
                    .status = CheckInput(task.input, factor, task.grid),
                    .out = {},
                    .error = {},
                    .power = {}});
    if (jobs.back().status.ok()) MakeRoom(jobs.back());
  }
  if (factor.device != nullptr) {
    for (Job& job : jobs) {
      if (!job.status.ok()) continue;
      job.status =
          RoundOnDevice(*job.task, factor, options, pool, job.out, job.error.data(), job.power.data());
    }
  } else {
    RoundParts(factor, options, pool, jobs);
  }
  std::vector<absl::StatusOr<RoundedWeights>> results;
  for (Job& job : jobs) {
    if (!job.status.ok()) {
      results.emplace_back(job.status);
      continue;
    }
    job.out.relative_error = RelativeError(job);
    results.emplace_back(std::move(job.out));
  }
  return results;
}

absl::StatusOr<RoundedWeights> Gptq(const RoundingInput& input, const HessianFactor& factor,
                                    const WeightGrid& grid, const GptqOptions& options, ThreadPool& pool) {
  return std::move(Gptq({{.input = input, .grid = grid}}, factor, options, pool).front());
}

}  // namespace spikefold
