// A page of the key/value cache: kPageTokens consecutive positions of one layer, all KV heads, keys and
// values in 2, 3, 4 or 8 bits or in f16. Layout and quantizer: the definition that attention_f32_f32_ukv
// reads.
//
//   value = code * scale + min            scale and min: f16 (kChannel: float32, static)
//   K  kToken    scale and min of each position and head (over its channels)
//      kPage     of each channel, over the page's positions
//      kChannel  of each channel, the same for all pages: calibrated
//   V            of each position and head
//   16 bits      the f16 values themselves, no scales
//
// A page is [num_kv_heads] parts of head_bytes each (a multiple of 64); a part, in this order:
//   K codes   [head_dim] runs: the 64 positions of a channel side by side, so that vector lanes are positions
//   K scales  f16 scale[64], min[64] (kToken) or scale[head_dim], min[head_dim] (kPage)
//   V codes   [64][ceil(head_dim / 64)] runs: channels of a position side by side, the last run padded
//   V scales  f16 scale[64], min[64]
// A run holds 64 codes of b bits in 8 * b bytes. Lane l, 0..15, holds the codes l, 16 + l, 32 + l, 48 + l:
//   16, 8 bits  in order            4, 2 bits  side by side, from the low bits of the lane's u16 or u8
//   3 bits      the low two bits of each code as 2 bits, then a u64 whose bit i is the high bit of code i
#pragma once

#include <cstddef>
#include <cstdint>

namespace spikefold::kernels {

inline constexpr int64_t kPageTokens = 64;

enum class KeyScale : uint8_t { kToken, kPage, kChannel };

struct KvFormat {
  int64_t num_kv_heads = 0, head_dim = 0;
  int k_bits = 16, v_bits = 16;          // 2, 3, 4, 8 or 16
  KeyScale key_scale = KeyScale::kPage;  // of no meaning at 16 bits
  bool operator==(const KvFormat&) const = default;
};
bool IsKvBits(int bits);

// Byte offsets inside a head's part.
struct KvPageLayout {
  explicit KvPageLayout(const KvFormat& format);
  int64_t k_codes = 0, k_scales = 0, v_codes = 0, v_scales = 0;
  int64_t k_run = 0, v_run = 0;  // bytes of a run
  int64_t v_runs = 0;            // runs of a position
  int64_t num_k_scales = 0;      // 0, 64 or head_dim
  int64_t head_bytes = 0, page_bytes = 0;
};

// What the keys of a page are turned by (rotary embedding, pairs i and i + head_dim/2) between being stored
// and being read; all null: not at all. Position p of the page that begins at position b: by b, then by p.
struct KeyRotation {
  const float* base = nullptr;    // [2, head_dim/2] cos and sin of the page's first position
  const float* offset = nullptr;  // [2, head_dim/2, 64] cos and sin of positions 0..63
};
struct ChannelScales {
  const float *scale = nullptr, *min = nullptr;  // [num_kv_heads, head_dim], for KeyScale::kChannel
};

// Fills one head's part of a page. k, v: [64, num_kv_heads, head_dim] as attention sees them, values that f16
// holds; keys are turned back before they are coded. Codes are round-half-even. A group's grid covers its
// range, but that keys of a channel and page at 2 and 3 bits get a narrower one where that makes the sum of
// the errors' fourth powers smaller. Returns the number of keys that lay more than half a step outside a
// static scale. A group that holds NaN or infinity gets a scale that is not a number.
int64_t QuantizePageHead(const KvFormat& format, int64_t head, const float* k, const float* v,
                         const KeyRotation& rotation, const ChannelScales& channels, uint8_t* page);

// The values of one position and head: k, v [head_dim], keys turned as attention sees them.
void ReadPageRow(const KvFormat& format, int64_t head, int64_t row, const uint8_t* page,
                 const KeyRotation& rotation, const ChannelScales& channels, float* k, float* v);

}  // namespace spikefold::kernels
