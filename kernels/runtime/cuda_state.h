// What the CUDA backend keeps in device memory: weights, small host objects by their address, cache rows.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/attention_f32_f32/attention_f32_f32_decode_cuda.h"
#include "kernels/cuda/graph.h"
#include "kernels/cuda/memory.h"
#include "kernels/cuda/outlier_tail_cuda.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32_cuda.h"
#include "kernels/kv_page_cuda.h"
#include "kernels/runtime/ops.h"

namespace spikefold {

namespace cuda = kernels::cuda;

class CudaBuffer : public Buffer {
 public:
  explicit CudaBuffer(int64_t width) { width_ = width; }
  float* host() override { return nullptr; }
  const float* host() const override { return nullptr; }
  float* data() const { return borrowed_ != nullptr ? borrowed_ : memory_.as<float>(); }
  absl::Status Reserve(int64_t rows);
  // Stands for rows of another buffer until it is told null.
  void Borrow(float* rows) { borrowed_ = rows; }

 private:
  cuda::DeviceMemory memory_;
  float* borrowed_ = nullptr;
};

class CudaActivation : public Activation {
 public:
  explicit CudaActivation(int64_t width) : buffer(width) {}
  Buffer& floats() override { return buffer; }
  const Buffer& floats() const override { return buffer; }

  CudaBuffer buffer;              // [rows, k] float rows; a kernel that quantizes leaves out unwanted ones
  cuda::DeviceMemory codes;       // [rows, RowBytes(k)]
  cuda::DeviceMemory scale;       // [rows], or a scale a group
  cuda::DeviceMemory zero;        // int32 [rows] of 8-bit codes with zero points
  cuda::DeviceMemory kept_x;      // [rows, num kept]
  cuda::DeviceMemory kept_rows;   // the same in bf16, [rows, KeptColumns(num kept)]
  cuda::DeviceMemory super_x;     // [rows, num super]
  cuda::DeviceMemory amax;        // [rows]
  cuda::DeviceMemory is_spike;    // [rows]
  cuda::DeviceMemory spike_rows;  // int32 [1 + room]: how many, then which
  int64_t max_spike_rows = 0;     // room of the last fill; 0: no threshold
};

// Weights of one linear. Bias, kept columns and super weights follow on first use, when loading is over.
struct CudaWeights : DeviceWeights {
  cuda::DeviceMemory w;  // f32 or bf16 [n, k], codes [n, RowBytes(k)], or tiles of 4-bit codes
  cuda::DeviceMemory zero;
  bool bf16 = false;  // f32 that was bf16 before
  // As matmul_f32_f32_s4g or matmul_f32_s8r_u4h wants them.
  enum class Tiles { kNone, kS4g, kU4h } tiles = Tiles::kNone;
  cuda::DeviceMemory scale, unit, bias;
  cuda::DeviceMemory code_sum, row_sum;  // LinearWeights::code_sum, row_sum
  cuda::DeviceMemory kept, kept_rows;    // bf16 [r, n]; [n, KeptColumns(r)]
  cuda::DeviceMemory super_slot, super_row, super_value;
  bool complete = false;
};

// What changes from step to step of a recording: arrays of an entry a sequence, in one piece of memory.
struct StepState {
  StepState() = default;
  StepState(void* memory, int64_t room)
      : caches(static_cast<kernels::attention_f32_f32::DecodeCache*>(memory)),
        places(reinterpret_cast<kernels::KvPlace*>(caches + room)),
        positions(reinterpret_cast<int32_t*>(places + room)),
        tokens(positions + room) {}
  static size_t Bytes(int64_t room) {
    return static_cast<size_t>(room) *
           (sizeof(*caches) + sizeof(*places) + sizeof(*positions) + sizeof(*tokens));
  }

  kernels::attention_f32_f32::DecodeCache* caches = nullptr;  // of float caches
  kernels::KvPlace* places = nullptr;                         // of caches in pages
  int32_t *positions = nullptr, *tokens = nullptr;
};

// Recorded steps.
struct Recordings {
  // Numbers of sequences and of splits of the attention, StepArgs::finds_best.
  using Key = std::tuple<int64_t, int64_t, bool>;
  struct Step {
    std::optional<cuda::Graph> graph;  // nothing: walked once, and to be recorded
    bool refused = false;              // it could not be: it is walked each time
  };
  std::map<Key, Step> steps;
  std::pair<int64_t, int64_t> valid_at = {-1, 0};  // cuda::NumAllocations() and StepArgs::rope_positions
};

// Keys and values of all layers, [capacity, num_kv_heads * head_dim] each.
struct CudaRows : KvCache::DeviceRows {
  cuda::DeviceMemory k, v;
  int64_t layer_floats = 0;
};

// Copies of host objects by their address. The contents are compared, because a temporary object may come to
// lie where another lay.
class CudaConstants {
 public:
  explicit CudaConstants(const cuda::Stream& stream) : stream_(stream) {}

  struct Form {
    int64_t k = 0;
    std::vector<int32_t> kept, super_columns;  // host
    cuda::DeviceMemory is_kept, device_kept, device_super;
  };
  absl::StatusOr<const float*> Vector(const std::vector<float>& values);
  absl::StatusOr<const Form*> Columns(const ActivationForm& form, int64_t k);
  absl::StatusOr<const kernels::hadamard_f32_f32::CudaPlan*> Rotation(const RowRotation& rotation);
  // Tables of all positions.
  struct Rope {
    int64_t positions = 0;
    std::vector<float> last;  // host: cos and sin of the last position
    cuda::DeviceMemory cos, sin;
  };
  absl::StatusOr<const Rope*> Tables(const RopeTable& table, int64_t head_dim);

 private:
  template <typename T>
  absl::Status Upload(const std::vector<T>& values, cuda::DeviceMemory& to);

  struct Values {
    std::vector<float> host;
    cuda::DeviceMemory device;
  };
  struct Turn {
    std::vector<int64_t> factors;
    std::vector<float> scale;
    kernels::hadamard_f32_f32::CudaRotation device;
  };
  const cuda::Stream& stream_;
  std::map<const void*, Values> vectors_;
  std::map<const void*, Form> forms_;
  std::map<const void*, Turn> rotations_;
  std::map<const void*, Rope> ropes_;
};

}  // namespace spikefold
