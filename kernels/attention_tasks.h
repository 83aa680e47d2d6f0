// How attention kernels share their work out, whatever the cache looks like: for dispatchers (<name>.cc) and,
// the plain structs alone, for their targets.
//
// The rows of a KV head are its queries of all positions and of the heads that share it: row r is query
// position r / group of head kv_head * group + r % group, group = num_heads / num_kv_heads. A task is a range
// of rows of one KV head. The keys are cut into spans of kSpanBlocks blocks at places that do not depend on
// the call; each span is an online softmax of its own, and the spans' states are merged in order. So spans
// may run on different threads (a long cache, few rows) or one after the other (a prefill) with the same
// result.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "formats/base/thread_pool.h"

namespace spikefold::kernels {

inline constexpr int64_t kKeyBlock = 64;
inline constexpr int64_t kSpanBlocks = 4;
inline constexpr int64_t kTaskRows = 96;

// head_dim padded to whole register tiles.
inline int64_t PaddedDim(int64_t head_dim) { return (head_dim + 31) / 32 * 32; }
// State of `rows` rows: max[rows], sum[rows], o[rows, PaddedDim], in that order.
inline int64_t StateFloats(int64_t head_dim, int64_t rows) { return rows * (2 + PaddedDim(head_dim)); }

struct AttentionTask {
  int64_t kv_head, row_begin, row_end;
  float* scratch;  // [AttentionSizes::scratch_floats]
};

template <typename Params>
struct AttentionTarget {
  // Rows of a task from the first key to the last: writes o and adds to column_mass.
  void (*run)(const Params& p, const AttentionTask& task);
  // One span of a task into `state`.
  void (*run_span)(const Params& p, const AttentionTask& task, int64_t span, float* state);
  // The same for every KV head; head h into states + h * state_stride. task.kv_head is not read.
  void (*run_all_heads_span)(const Params& p, const AttentionTask& task, int64_t span, float* states,
                             int64_t state_stride);
  // Merges the states of `num_spans` consecutive spans and writes o.
  void (*merge)(const Params& p, const AttentionTask& task, const float* states, int64_t num_spans);
};

struct AttentionSizes {
  int64_t num_spans = 0;
  int64_t scratch_floats = 0;  // what a task needs beside its states
  bool head_by_head = false;   // a head's rows must stay on one thread, in order
};

template <typename Params>
class AttentionCall {
 public:
  AttentionCall(const Params& params, const AttentionSizes& sizes, const AttentionTarget<Params>& target,
                ThreadPool& pool)
      : p_(params),
        sizes_(sizes),
        target_(target),
        pool_(pool),
        rows_(params.m * (params.num_heads / params.num_kv_heads)),
        tiles_((rows_ + kTaskRows - 1) / kTaskRows),
        rows_per_task_((rows_ + tiles_ - 1) / tiles_) {}

  void Run() {
    const int64_t num_tasks = p_.num_kv_heads * tiles_, num_spans = sizes_.num_spans;
    if (sizes_.head_by_head) {
      pool_.ParallelFor(p_.num_kv_heads, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin * tiles_; i < end * tiles_; ++i) target_.run(p_, TaskAt(i));
      });
    } else if (num_spans > 1 && num_tasks < kTasksPerThread * pool_.num_threads()) {
      RunSpans(num_tasks, num_spans);
    } else {
      // The last rows see most keys: longest tasks first.
      pool_.ParallelFor(num_tasks, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t tile = tiles_ - 1 - i / p_.num_kv_heads;
          target_.run(p_, TaskAt(i % p_.num_kv_heads * tiles_ + tile));
        }
      });
    }
  }

 private:
  static constexpr int64_t kTasksPerThread = 4;

  // Kept by each thread, so that decoding allocates nothing; begins with a cache line.
  static float* ThreadScratch(int64_t floats) {
    constexpr int64_t kLine = 64 / sizeof(float);
    thread_local std::vector<float> scratch;
    if (static_cast<int64_t>(scratch.size()) < floats + kLine)
      scratch.resize(static_cast<size_t>(floats + kLine));
    const size_t past = reinterpret_cast<uintptr_t>(scratch.data()) / sizeof(float) % kLine;
    return scratch.data() + (kLine - past) % kLine;
  }

  AttentionTask TaskAt(int64_t index) const {
    const int64_t row = index % tiles_ * rows_per_task_;
    return {index / tiles_, row, std::min(row + rows_per_task_, rows_), ThreadScratch(sizes_.scratch_floats)};
  }

  // Few rows and a long cache: the spans of a task run beside each other. When there are enough of them, one
  // thread takes a span of all heads, in the order of memory.
  void RunSpans(int64_t num_tasks, int64_t num_spans) {
    const int64_t stride = StateFloats(p_.head_dim, rows_per_task_) * num_spans;  // of a task's states
    thread_local std::vector<float> kept;
    if (static_cast<int64_t>(kept.size()) < num_tasks * stride) {
      kept.resize(static_cast<size_t>(num_tasks * stride));
    }
    float* states = kept.data();
    const auto state_of = [&](int64_t index, int64_t span) {
      const AttentionTask task = TaskAt(index);
      return states + index * stride + span * StateFloats(p_.head_dim, task.row_end - task.row_begin);
    };
    if (num_spans >= kTasksPerThread * pool_.num_threads()) {
      pool_.ParallelFor(tiles_ * num_spans, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t tile = i % tiles_, span = i / tiles_;
          target_.run_all_heads_span(p_, TaskAt(tile), span, state_of(tile, span), tiles_ * stride);
        }
      });
    } else {
      pool_.ParallelFor(num_tasks * num_spans, 1, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t index = i % num_tasks, span = i / num_tasks;
          target_.run_span(p_, TaskAt(index), span, state_of(index, span));
        }
      });
    }
    for (int64_t i = 0; i < num_tasks; ++i) target_.merge(p_, TaskAt(i), states + i * stride, num_spans);
  }

  const Params& p_;
  const AttentionSizes sizes_;
  const AttentionTarget<Params>& target_;
  ThreadPool& pool_;
  int64_t rows_, tiles_, rows_per_task_;
};

}  // namespace spikefold::kernels
