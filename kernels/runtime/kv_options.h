// How a key/value cache stores its rows.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "formats/model_config.h"
#include "formats/quantized/native_kv.h"
#include "kernels/kv_page.h"

namespace spikefold {

// Static scales of keys before rotary embedding: key = code * scale + min.
struct KvChannels {
  std::vector<std::vector<float>> scale, min;  // [num_layers][num_kv_heads * head_dim]
  bool operator==(const KvChannels&) const = default;
};

// A row is 16 bits wide at first. Rows are coded in pages of 64 positions, counted from the pinned rows on,
// when every later query has `recent` rows (its own included) behind the page: so a query at position i reads
// row j as codes if j lies behind the pinned rows in a page that ends at i + 1 - recent or before, whatever
// call it comes in. Rows are rounded to f16 first; codes are made from the rounded rows.
struct KvOptions {
  int k_bits = 32, v_bits = 32;  // 32: float32 rows (both or neither); 16: f16; 8, 4, 3, 2: codes
  kernels::KeyScale k_scale = kernels::KeyScale::kPage;
  // Keys are coded as they are before rotary embedding and turned when they are read: channels are cleaner
  // there. Always for kChannel. Not with a rotation of q and k behind the embedding.
  bool k_before_rope = false;
  int64_t sinks = 0;    // the first rows of a sequence that stay 16 bit, never evicted; prefix rows always do
  int64_t recent = 16;  // >= 1
  int64_t evict = 0;  // > 0: of the rows behind the pinned ones only so many stay, at positions behind those
  std::shared_ptr<const KvChannels> channels;  // kChannel

  bool is_float() const { return k_bits == 32; }
};
// InvalidArgument: unknown bits, a form that does not fit the model, missing or odd scales.
absl::Status CheckKvOptions(const KvOptions& options, const ModelConfig& config);
// InvalidArgument: what a model gives that rotates queries and keys behind their embedding (R3) and is to
// keep a window of rows: a query is turned back to the pinned rows, which it cannot be through the rotation.
absl::Status EvictsBehindRotation();

// The same in a native checkpoint's words.
KvOptions KvFromNative(const NativeKv& kv);
NativeKv KvToNative(const KvOptions& options, const ModelConfig& config);

// Bits a value of K and V that lies in pages, scales included; and bytes a position over all layers there.
double KvBits(const KvOptions& options, const ModelConfig& config);
double KvBytesPerPosition(const KvOptions& options, const ModelConfig& config);

}  // namespace spikefold
