// How sequences of a native checkpoint's model keep their keys and values: the sidecar's "kv" object, null or
// absent for float32 rows.
//
//   {"k": word, "v": word, "before_rope": bool, "sinks": int, "window": int, "evict": int}
//   word          f16, or u8, u4, u3, u2 and where scale and minimum come from: r for each row (position and
//   head),
//                 p for each channel and page of 64 positions (keys), c for each channel, static (keys)
//   before_rope   keys are coded before rotary embedding; default false, true with static scales
//   sinks         the first rows of a sequence that stay 16 bit      window   the latest rows that stay 16
//   bit evict         of the others only so many are kept; default 0: all
// With static scales also "layers", "kv_heads", "head_dim" and for each layer L
//   spikefold.kv.L.k_scale, spikefold.kv.L.k_min  F32 [kv_heads, head_dim]: key = code * scale + min
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "formats/base/json.h"
#include "formats/safetensors.h"

namespace spikefold {

struct NativeKv {
  enum class KeyScale : uint8_t { kRow, kPage, kChannel };
  int k_bits = 32, v_bits = 32;  // 32 (both): float32; 16: f16; 8, 4, 3, 2: codes
  KeyScale k_scale = KeyScale::kPage;
  bool before_rope = false;
  int64_t sinks = 0, window = 1, evict = 0;
  // kChannel:
  int64_t num_kv_heads = 0, head_dim = 0;
  std::vector<std::vector<float>> scale, min;  // [num_layers][num_kv_heads * head_dim]

  bool is_float() const { return k_bits == 32; }
  bool has_tensors() const { return k_bits < 16 && k_scale == KeyScale::kChannel; }
  bool operator==(const NativeKv&) const = default;
};

// InvalidArgument: bits, sizes or scales that make no sense.
absl::Status CheckNativeKv(const NativeKv& kv);
Json NativeKvToJson(const NativeKv& kv);  // null: float32
// Scales are 1 until their tensors are read. DataLoss, Unimplemented: another word or key.
absl::StatusOr<NativeKv> NativeKvFromJson(const Json& json, absl::string_view sidecar);

// The tensors in order: scale and min of layer 0, of layer 1 ...
std::vector<SafetensorsWriter::Spec> NativeKvTensorSpecs(const NativeKv& kv);
std::vector<float>& NativeKvTensor(NativeKv& kv, size_t index);  // the values of tensor `index` of that list

}  // namespace spikefold
