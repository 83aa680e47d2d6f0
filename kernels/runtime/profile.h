// Where the time of one walk goes: each kind of op timed by itself, over all layers.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "formats/base/progress.h"
#include "kernels/runtime/kv_cache.h"
#include "kernels/runtime/model.h"

namespace spikefold {

struct OpTime {
  std::string name;          // "embedding", "norm", "qkv_proj", "attention", "gated_product", "head", ...
  int64_t calls = 0;         // of one walk
  double seconds = 0;        // of all of them, without those of other kinds between them
  uint64_t bytes = 0;        // of weights that they read; of linears alone
  double ops = 0;            // 2 m n k of the linears
  double int8_ops = 0;       // those among them of codes that meet codes
  double peer_seconds = 0;   // of the same products by Ops::TimePeer(); 0: not known
  bool repeats_fit = false;  // the weights may have stayed in a cache of the device between the repetitions
};
struct WalkProfile {
  int64_t sequences = 0, rows = 0;  // rows: of all sequences
  int64_t position = 0;             // rows that the first sequence's cache holds
  double seconds = 0;               // of a walk with all of them, timed in the same way
  std::vector<OpTime> kernels;      // in order of execution
  bool has_host = false;            // of some times: Ops::Timing
  std::string no_peer;              // why a peer's time is missing; empty: none is
};

// One walk behind the caches' rows, which stay as they are: one token of each sequence, as a step of
// decoding, or a block of one, as the end of a prompt (the head reads its last row). InvalidArgument as
// Forward() and ForwardBatch(), and more rows than Ops::block_rows(). FailedPrecondition: a cache has lost
// rows by it. Also InvalidArgument: a block behind text in pages, whose rows would come back as codes.
// Cancelled by `progress`, which is called before each kind.
absl::StatusOr<WalkProfile> ProfileWalk(const RuntimeModel& model, absl::Span<const int32_t> tokens,
                                        absl::Span<KvCache* const> caches,
                                        const Progress& progress = nullptr);

}  // namespace spikefold
