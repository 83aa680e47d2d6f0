#include "kernels/runtime/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/runtime/forward.h"
#include "kernels/runtime/ops.h"

namespace spikefold {
namespace {

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Rate Summarize(std::vector<double> seconds, int64_t tokens) {
  Rate rate;
  const double n = static_cast<double>(seconds.size()), count = static_cast<double>(tokens);
  for (const double s : seconds) {
    rate.mean += count / s / n;
    rate.best = std::max(rate.best, count / s);
  }
  for (const double s : seconds) rate.stddev += (count / s - rate.mean) * (count / s - rate.mean);
  rate.stddev = seconds.size() > 1 ? std::sqrt(rate.stddev / (n - 1)) : 0;
  rate.seconds = std::move(seconds);
  return rate;
}

// Of a table of embeddings that is no head, a step reads a row.
uint64_t StepBytes(const RuntimeModel& model) {
  const ModelGraph& graph = model.graph();
  uint64_t bytes = 0;
  for (const Site& site : graph.sites) {
    for (const int node : site.linears) bytes += model.linear(node)->MemoryBytes();
  }
  return bytes;
}

class Runner {
 public:
  Runner(const RuntimeModel& model, const BenchOptions& options)
      : model_(model),
        caches_(static_cast<size_t>(options.batch),
                KvCache(model.graph().config, std::max(options.prompt, options.decode) + PrefixLength(model),
                        model.prefix(), model.kv())),
        next_(static_cast<size_t>(options.batch)),
        hidden_(static_cast<size_t>(model.graph().config.hidden)),
        logits_(static_cast<size_t>(model.graph().config.vocab)) {
    for (KvCache& cache : caches_) pointers_.push_back(&cache);
    // One token of each sequence after the other; a prompt takes them as they come.
    tokens_.resize(static_cast<size_t>(std::max(options.prompt, options.batch * options.decode)));
    uint64_t state = options.seed;
    for (int32_t& token : tokens_) {  // a linear congruential generator is random enough for timing
      state = state * 6364136223846793005ull + 1442695040888963407ull;
      token = static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(model.graph().config.vocab));
    }
  }

  absl::StatusOr<double> Prefill(int64_t count) {
    caches_.front().Reset();
    const double start = Now();
    SF_RETURN_IF_ERROR(Forward(model_, absl::MakeConstSpan(tokens_).first(static_cast<size_t>(count)),
                               caches_.front(), absl::MakeSpan(hidden_), {.last_row_only = true}));
    SF_RETURN_IF_ERROR(Logits(model_, absl::MakeSpan(hidden_), absl::MakeSpan(logits_)));
    return Now() - start;
  }
  // The prompt's first block.
  absl::StatusOr<WalkProfile> ProfilePrefill(int64_t count, const Progress& progress) {
    caches_.front().Reset();
    const int64_t rows = std::min(count, model_.ops().block_rows());
    return ProfileWalk(model_, absl::MakeConstSpan(tokens_).first(static_cast<size_t>(rows)),
                       absl::MakeSpan(pointers_).first(1), progress);
  }
  // The step in the middle.
  absl::StatusOr<WalkProfile> ProfileDecode(int64_t count, const Progress& progress) {
    SF_RETURN_IF_ERROR(Decode(count / 2).status());
    const size_t batch = caches_.size();
    return ProfileWalk(model_,
                       absl::MakeConstSpan(tokens_).subspan(static_cast<size_t>(count / 2) * batch, batch),
                       pointers_, progress);
  }
  // As generate's greedy choice: a step ends when the host knows the next token of every sequence.
  absl::StatusOr<double> Decode(int64_t count) {
    for (KvCache& cache : caches_) cache.Reset();
    const size_t batch = caches_.size();
    const double start = Now();
    for (int64_t i = 0; i < count; ++i) {
      const auto tokens = absl::MakeConstSpan(tokens_).subspan(static_cast<size_t>(i) * batch, batch);
      SF_RETURN_IF_ERROR(ForwardGreedy(model_, tokens, pointers_, absl::MakeSpan(next_)));
    }
    return Now() - start;
  }

 private:
  static int64_t PrefixLength(const RuntimeModel& model) {
    return model.prefix() == nullptr ? 0 : model.prefix()->size();
  }

  const RuntimeModel& model_;
  std::vector<KvCache> caches_;
  std::vector<KvCache*> pointers_;
  std::vector<int32_t> tokens_, next_;
  std::vector<float> hidden_, logits_;  // of a prompt's last token
};

// What was measured before stays, where kernels cannot be timed (no memory for another recording, say).
void ProfileKernels(const BenchOptions& options, Runner& runner, BenchResult& result) {
  const auto keep = [&](const char* of, absl::StatusOr<WalkProfile> profile, std::optional<WalkProfile>& to) {
    if (profile.ok()) {
      to = *std::move(profile);
      return;
    }
    const absl::Status& status = profile.status();
    absl::StrAppend(&result.no_kernels, result.no_kernels.empty() ? "" : "; ", of, ": ", status.message());
    const bool cannot = absl::IsResourceExhausted(status) || absl::IsUnimplemented(status);
    if (!cannot) result.fault = status;
  };
  if (options.prompt > 0) {
    keep("prompt", runner.ProfilePrefill(options.prompt, options.progress), result.prefill_kernels);
  }
  if (options.decode > 0 && result.fault.ok()) {
    keep("decode", runner.ProfileDecode(options.decode, options.progress), result.decode_kernels);
  }
}

}  // namespace

absl::StatusOr<BenchResult> Bench(const RuntimeModel& model, const BenchOptions& options) {
  if (options.prompt < 0 || options.decode < 0 || options.batch < 1 || options.repetitions < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("bench: prompt ", options.prompt, ", decode ", options.decode, ", batch ", options.batch,
                     ", repetitions ", options.repetitions, "; counts of at least 0, 0, 1 and 1 are needed"));
  }
  Runner runner(model, options);
  std::vector<double> prefill, decode;
  for (int64_t i = -1; i < options.repetitions; ++i) {
    if (!Report(options.progress, "timing", i + 1, options.repetitions + 1)) {
      return absl::CancelledError(absl::StrCat("bench: stopped after ", std::max<int64_t>(i, 0), " of ",
                                               options.repetitions, " repetitions"));
    }
    if (options.prompt > 0) {
      SF_ASSIGN_OR_RETURN(const double seconds, runner.Prefill(options.prompt));
      if (i >= 0) prefill.push_back(seconds);
    }
    if (options.decode > 0) {
      SF_ASSIGN_OR_RETURN(const double seconds, runner.Decode(options.decode));
      if (i >= 0) decode.push_back(seconds);
    }
  }
  BenchResult result;
  if (!prefill.empty()) result.prefill = Summarize(std::move(prefill), options.prompt);
  if (!decode.empty()) {
    result.decode = Summarize(std::move(decode), options.batch * options.decode);
    result.step_bytes = StepBytes(model);
  }
  if (options.decode == 0 && !options.kernels) return result;
  if (options.kernels) ProfileKernels(options, runner, result);
  if (!result.fault.ok()) return result;
  const absl::StatusOr<double> rate = model.ops().MeasureReadRate();
  if (!rate.ok() && !absl::IsResourceExhausted(rate.status())) return rate.status();
  result.read_rate = rate.value_or(0);
  return result;
}

}  // namespace spikefold
