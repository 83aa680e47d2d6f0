// The paged key/value cache of one sequence in device memory (kernels/kv_page_cuda.h), page for page what
// KvPages keeps on the host.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/kv_page_cuda.h"
#include "kernels/runtime/cuda_state.h"
#include "kernels/runtime/kv_pages.h"

namespace spikefold {

class CudaPages : public KvCache::DeviceRows {
 public:
  // Rows that AppendRows takes at once: bounds the ring.
  static constexpr int64_t kChunkRows = 192;

  // Room for `capacity` positions; pinned rows before `first` (a prefix) are copied. FailedPrecondition:
  // `first` lies behind them, so rows of the text were kept elsewhere.
  static absl::StatusOr<std::unique_ptr<CudaPages>> Make(const KvPages& pages, int64_t capacity,
                                                         int64_t first, const cuda::Stream& stream);

  kernels::CudaKvLayer Layer(int layer, const CudaConstants::Rope* rope) const;
  // Pages before it are codes for every row.
  int64_t first_row_page(int layer) const { return layers_[static_cast<size_t>(layer)].first_row_page; }
  // Whether rows from `first` on follow a step back into a coded page, and that page's rows made again.
  bool StepsBack(int layer, int64_t first) const;
  absl::Status StepBack(int layer, int64_t first, const CudaConstants::Rope* rope,
                        const cuda::Stream& stream);
  // Rows up to `end` have been appended and attended to.
  void Settle(int layer, int64_t end);
  void SettleAll(int64_t end);
  bool Truncate(int64_t length) override;

  Recordings recordings;  // of this sequence alone: they hold its pages' addresses

 private:
  struct LayerState {
    int64_t first_row_page = 0, first_page = 0;  // as in KvPages
    int64_t reach = 0;                           // rows that a query sees behind the pinned ones; 0: all
    int64_t page_slots = 0, pages_at = 0;        // bytes into pages_
  };
  int64_t PageBegin(int64_t page) const { return num_pinned_ + kernels::kPageTokens * page; }

  kernels::KvFormat format_;
  KvOptions options_;
  int64_t num_pinned_ = 0, width_ = 0, ring_rows_ = 0;
  std::vector<LayerState> layers_;
  cuda::DeviceMemory pages_, pinned_, rows_;  // [layers][k, v]
  cuda::DeviceMemory channels_;               // [layers][scale, min][width]
};

}  // namespace spikefold
