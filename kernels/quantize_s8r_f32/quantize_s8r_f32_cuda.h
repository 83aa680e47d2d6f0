// quantize_s8r_f32 on a GPU. Codes, scales, lists and counts equal the CPU's bit for bit.
// Method    a block a row: largest magnitude, then codes. With a spike threshold the largest magnitudes come
//           first in a launch of their own and one block picks the first spike rows in order. Zero points and
//           groups have a kernel of their own, which no other fuses: a warp a group.
// Requires  16-byte alignment of x and q where K is a multiple of 4.
// Moves     5*M*K bytes; a row is read twice, the second time from L1 or L2.
// Targets   sm_80.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>

#include "absl/status/status.h"
#include "kernels/cuda/stream.h"
#include "kernels/hadamard_f32_f32/hadamard_f32_f32_cuda.h"

namespace spikefold::kernels::quantize_s8r_f32 {

struct CudaCounters {
  unsigned long long spike_rows = 0, missed = 0, saturated = 0;
};

struct CudaParams {  // device addresses
  int64_t m = 0, k = 0, q_stride = 0;
  const float* x = nullptr;  // [m, k]
  int code_max = 127;        // or 7
  float static_scale = 0;    // 0: found here
  int bits = 8;              // or 4
  bool symmetric = true;
  int64_t group = 0;                 // columns that share a scale; 0: all of a row
  int static_zero = 0;               // static asymmetric: the code of 0
  int32_t* zero = nullptr;           // [m] of asymmetric 8 bits
  const uint8_t* is_kept = nullptr;  // [k] 1 at kept columns; null: none
  int64_t num_kept = 0;
  const int32_t* kept = nullptr;  // [num_kept]
  int64_t num_super = 0;
  const int32_t* super = nullptr;  // [num_super]
  float spike_threshold = 0;
  int64_t max_spike_rows = 0;
  int8_t* q = nullptr;            // [m, q_stride]; columns from k on become 0
  float* scale = nullptr;         // [m], or [m, k/group]
  float* kept_x = nullptr;        // [m, num_kept], values rounded to bf16
  int64_t kept_row_columns = 0;   // of kept_rows, num_kept or more
  uint16_t* kept_rows = nullptr;  // [m, kept_row_columns] kept_x in bf16, then zeros; null: not written
  float* super_x = nullptr;       // [m, num_super]
  float* amax = nullptr;          // [m] scratch, with a threshold
  uint8_t* is_spike = nullptr;    // [m] scratch, with a threshold
  int32_t* spike_rows = nullptr;  // [max_spike_rows]
  int32_t* num_spike_rows = nullptr;
  CudaCounters* counters = nullptr;  // added to
};
absl::Status RunCuda(const CudaParams& params, const cuda::Stream& stream);

// For the kernels that make a row and quantize it at once.
inline constexpr int64_t kFewRows = 64;  // a block each leaves half of a large GPU idle
// Threads of a row's block: few wide rows leave multiprocessors idle, then a row gets more of them.
inline constexpr int kMostThreads = 1024;
constexpr unsigned RowThreads(int64_t m, int64_t k) {
  if (m <= kFewRows && k > 512) return kMostThreads;
  return k > 8192 ? 512 : 256;  // shared memory holds few wide rows
}
// A row in shared memory: its bytes, and whether a block may have them and what the kernels declare beside it
// (cuda::DeviceInfo says how many).
constexpr int64_t FusedBytes(int64_t k) { return 4 * hadamard_f32_f32::RowFloats(k); }
constexpr bool Fits(int64_t k, int64_t max_shared_bytes) {
  return FusedBytes(k) + (1 << 10) <= max_shared_bytes;
}
// A row in registers: nobody asks for single columns of it, and a block's threads hold it in fours.
inline constexpr int kMostPieces = 8;  // of a thread
constexpr unsigned HoldingThreads(const CudaParams& p) {
  const int64_t pieces = p.m <= kFewRows ? 1 : kMostPieces;
  const uint64_t threads = std::bit_ceil(static_cast<uint64_t>((p.q_stride + 4 * pieces - 1) / (4 * pieces)));
  return static_cast<unsigned>(std::clamp<uint64_t>(threads, 128, kMostThreads));
}
constexpr bool Holds(const CudaParams& p, unsigned threads) {
  return p.k % 4 == 0 && p.q_stride % 4 == 0 && p.is_kept == nullptr && p.num_kept == 0 && p.num_super == 0 &&
         p.kept_rows == nullptr && p.q_stride <= int64_t{4} * kMostPieces * threads;
}

}  // namespace spikefold::kernels::quantize_s8r_f32
