#include "kernels/attention_f32_f32/attention_f32_f32.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "kernels/attention_f32_f32/attention_f32_f32_isa.h"
#include "kernels/cpu/cpu_features.h"

namespace spikefold::kernels::attention_f32_f32 {
namespace {

constexpr char kName[] = "attention_f32_f32";

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Kept by each thread, so that decoding allocates nothing.
float* ThreadScratch(int64_t floats) {
  thread_local std::vector<float> scratch;
  if (static_cast<int64_t>(scratch.size()) < floats) scratch.resize(static_cast<size_t>(floats));
  return scratch.data();
}

class Call {
 public:
  Call(const Params& params, const TargetFunctions& target, ThreadPool& pool)
      : p_(params),
        target_(target),
        pool_(pool),
        rows_(params.m * (params.num_heads / params.num_kv_heads)),
        tiles_(CeilDiv(rows_, kTaskRows)),
        rows_per_task_(CeilDiv(rows_, tiles_)) {}

  void Run() {
    const int64_t num_tasks = p_.num_kv_heads * tiles_, num_spans = CeilDiv(p_.first + p_.m, kSpan);
    if (p_.column_mass != nullptr) {  // a head's mass is added to by one thread, in row order
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

  Task TaskAt(int64_t index) const {
    const int64_t row = index % tiles_ * rows_per_task_;
    return {index / tiles_, row, std::min(row + rows_per_task_, rows_), ThreadScratch(ScratchFloats(p_))};
  }

  // Few rows and a long cache: the spans of a task run beside each other. When there are enough of them, one
  // thread takes a span of all heads, in the order of memory.
  void RunSpans(int64_t num_tasks, int64_t num_spans) {
    const int64_t stride = StateFloats(p_, rows_per_task_) * num_spans;  // of a task's states
    thread_local std::vector<float> kept;
    if (static_cast<int64_t>(kept.size()) < num_tasks * stride) {
      kept.resize(static_cast<size_t>(num_tasks * stride));
    }
    float* states = kept.data();
    const auto state_of = [&](int64_t index, int64_t span) {
      const Task task = TaskAt(index);
      return states + index * stride + span * StateFloats(p_, task.row_end - task.row_begin);
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
  const TargetFunctions& target_;
  ThreadPool& pool_;
  int64_t rows_, tiles_, rows_per_task_;
};

}  // namespace

absl::Status Supports(const Params& p) {
  if (p.m < 1 || p.num_heads < 1 || p.num_kv_heads < 1 || p.head_dim < 1 || p.first < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        kName, ": M=", p.m, " num_heads=", p.num_heads, " num_kv_heads=", p.num_kv_heads,
        " head_dim=", p.head_dim, " first=", p.first, "; each must be at least 1, first at least 0"));
  }
  if (p.num_heads % p.num_kv_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": num_heads=", p.num_heads,
                                                   " is not a multiple of num_kv_heads=", p.num_kv_heads));
  }
  if (p.q == nullptr || p.k == nullptr || p.v == nullptr || p.o == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat(kName, ": q, k, v or o is null; set all four"));
  }
  return absl::OkStatus();
}

absl::Status Run(const Params& p, ThreadPool& pool) {
  SF_RETURN_IF_ERROR(Supports(p));
  if (ActiveIsa() >= Isa::kAvx2) {
    Call(p, ActiveIsa() >= Isa::kAvx512 ? kAvx512 : kAvx2, pool).Run();
    return absl::OkStatus();
  }
  pool.ParallelFor(p.num_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) RowsPlain(p, head, 0, p.m);
  });
  return absl::OkStatus();
}

}  // namespace spikefold::kernels::attention_f32_f32
