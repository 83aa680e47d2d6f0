// What every command is given beside its own options.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "apps/spikefold/console.h"
#include "formats/base/thread_pool.h"
#include "formats/checkpoint.h"
#include "kernels/runtime/model.h"
#include "kernels/runtime/ops.h"

namespace spikefold {

class Context {
 public:
  Context(Console& c, int threads, std::optional<uint64_t> seed_option, std::string command_line)
      : console(c),
        given_seed(seed_option),
        seed(seed_option.value_or(1)),
        command(std::move(command_line)),
        num_threads_(threads) {}

  Console& console;
  const std::optional<uint64_t> given_seed;  // of --seed
  const uint64_t seed;                       // the same, or 1
  const std::string command;                 // as typed, for provenance
  int num_threads() const { return num_threads_; }
  ThreadPool& pool();  // made on first use

  // What float models are calibrated on: the processor unless a command says so, before any other work. A GPU
  // is opened here and held, so that nothing begins without it and what its driver takes is in use by the
  // time that memory is foreseen. Unimplemented, Aborted: as MakeCudaOps.
  absl::Status CalibrateOn(const std::string& backend);  // "cpu" or "cuda"
  Backend calibration_backend() const { return device_ == nullptr ? Backend::kCpu : Backend::kCuda; }
  // Of whose floats journals and caches are: "fused" or "plain" (levels with fused multiply-adds give the
  // same floats, the plain one others), before it the GPU, whose kernels depend on its kind.
  std::string FloatArithmetic() const;

 private:
  const int num_threads_;
  std::unique_ptr<ThreadPool> pool_;
  std::unique_ptr<Ops> device_;
};

// A checkpoint on disk with its tokenizer, and the model in memory once it is loaded.
struct OpenedModel {
  std::shared_ptr<CheckpointReader> reader;
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<RuntimeModel> model;
};
// ResourceExhausted, before anything is read, if the weights alone exceed the memory that is left.
// Unimplemented: the backend is not built in. Aborted: this machine has no device for it.
struct OpenOptions {
  Backend backend = Backend::kCpu;
  bool simulate = false;
  bool tokenizer = true;
};
Backend BackendOf(const std::string& name);  // "cpu" or "cuda"

absl::StatusOr<OpenedModel> OpenModel(Context& context, const std::string& path,
                                      const OpenOptions& options = {});
absl::StatusOr<OpenedModel> OpenModel(Context& context, std::shared_ptr<CheckpointReader> reader,
                                      const OpenOptions& options = {});

// Headers only; what is odd about the files goes to stderr.
absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenReader(Context& context, const std::string& path);
// InvalidArgument if the model is quantized already.
absl::StatusOr<OpenedModel> OpenFloatModel(Context& context, const std::string& path);
absl::StatusOr<std::unique_ptr<CheckpointReader>> OpenFloatReader(Context& context, const std::string& path);

// Bytes that the weights of a checkpoint take in memory when it runs, from its headers: float32 but for
// quantized linears, whose codes stay codes unless they are simulated.
uint64_t WeightMemory(const CheckpointReader& reader, bool simulate);

}  // namespace spikefold
