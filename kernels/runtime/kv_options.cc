#include "kernels/runtime/kv_options.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

// Both name the three places that a key's scale can come from, in one order.
static_assert(static_cast<int>(kernels::KeyScale::kToken) == static_cast<int>(NativeKv::KeyScale::kRow));
static_assert(static_cast<int>(kernels::KeyScale::kPage) == static_cast<int>(NativeKv::KeyScale::kPage));
static_assert(static_cast<int>(kernels::KeyScale::kChannel) ==
              static_cast<int>(NativeKv::KeyScale::kChannel));

constexpr int64_t kMaxRows = int64_t{1} << 20;  // sinks, recent rows

absl::Status CheckChannels(const KvOptions& o, const ModelConfig& c) {
  const size_t layers = static_cast<size_t>(c.num_layers);
  const size_t width = static_cast<size_t>(c.num_kv_heads * c.head_dim);
  if (o.channels == nullptr || o.channels->scale.size() != layers || o.channels->min.size() != layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv: keys with static scales need scales of all ", layers, " layers; calibrate them"));
  }
  for (size_t l = 0; l < layers; ++l) {
    const std::vector<float>&scale = o.channels->scale[l], &min = o.channels->min[l];
    bool sane = scale.size() == width && min.size() == width;
    for (size_t i = 0; sane && i < width; ++i) {
      sane =
          std::isfinite(scale[i]) && scale[i] > 0 && std::isfinite(1.0f / scale[i]) && std::isfinite(min[i]);
    }
    if (!sane) {
      return absl::InvalidArgumentError(
          absl::StrCat("kv: key scales of layer ", l, " are not ", width, " positive numbers and minima"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckKvOptions(const KvOptions& o, const ModelConfig& c) {
  const auto known = [](int bits) { return bits == 32 || kernels::IsKvBits(bits); };
  if (!known(o.k_bits) || !known(o.v_bits) || (o.k_bits == 32) != (o.v_bits == 32)) {
    return absl::InvalidArgumentError(absl::StrCat("kv: keys of ", o.k_bits, " and values of ", o.v_bits,
                                                   " bits; use 2, 3, 4, 8 or 16, or 32 for both"));
  }
  if (o.is_float()) {
    if (o.evict == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("kv: a window of ", o.evict, " rows needs a cache of 16 bits or fewer; use 16"));
  }
  if (o.recent < 1 || o.recent > kMaxRows || o.sinks < 0 || o.sinks > kMaxRows || o.evict < 0) {
    return absl::InvalidArgumentError(absl::StrCat("kv: ", o.recent, " recent rows, ", o.sinks,
                                                   " sinks, a window of ", o.evict,
                                                   "; at least 1, 0 and 0 (none) are needed"));
  }
  if ((o.k_before_rope || o.evict > 0) && c.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("kv: head_dim=", c.head_dim, " is odd: keys cannot be turned"));
  }
  if (o.k_bits < 16 && o.k_scale == kernels::KeyScale::kChannel) {
    if (!o.k_before_rope) {
      return absl::InvalidArgumentError(
          "kv: static key scales are those before rotary embedding; set k_before_rope");
    }
    return CheckChannels(o, c);
  }
  return absl::OkStatus();
}

absl::Status EvictsBehindRotation() {
  return absl::InvalidArgumentError(
      "kv: a window of rows in a model that rotates queries and keys behind rotary embedding (R3); leave out "
      "one of them");
}

KvOptions KvFromNative(const NativeKv& kv) {
  KvOptions o = {.k_bits = kv.k_bits,
                 .v_bits = kv.v_bits,
                 .k_scale = static_cast<kernels::KeyScale>(kv.k_scale),
                 .k_before_rope = kv.before_rope,
                 .sinks = kv.sinks,
                 .recent = kv.window,
                 .evict = kv.evict};
  if (kv.has_tensors()) {
    auto channels = std::make_shared<KvChannels>();
    channels->scale = kv.scale;
    channels->min = kv.min;
    o.channels = std::move(channels);
  }
  return o;
}

NativeKv KvToNative(const KvOptions& o, const ModelConfig& c) {
  NativeKv kv;
  if (o.is_float()) return kv;
  kv.k_bits = o.k_bits;
  kv.v_bits = o.v_bits;
  if (o.k_bits < 16) kv.k_scale = static_cast<NativeKv::KeyScale>(o.k_scale);
  kv.before_rope = o.k_before_rope;
  kv.sinks = o.sinks;
  kv.window = o.recent;
  kv.evict = o.evict;
  if (kv.has_tensors()) {
    kv.num_kv_heads = c.num_kv_heads;
    kv.head_dim = c.head_dim;
    kv.scale = o.channels->scale;
    kv.min = o.channels->min;
  }
  return kv;
}

double KvBytesPerPosition(const KvOptions& o, const ModelConfig& c) {
  const double layers = static_cast<double>(c.num_layers);
  if (o.is_float()) return layers * static_cast<double>(8 * c.num_kv_heads * c.head_dim);
  const kernels::KvPageLayout page({c.num_kv_heads, c.head_dim, o.k_bits, o.v_bits, o.k_scale});
  return layers * static_cast<double>(page.page_bytes) / static_cast<double>(kernels::kPageTokens);
}

double KvBits(const KvOptions& o, const ModelConfig& c) {
  const double values = 2.0 * static_cast<double>(c.num_layers * c.num_kv_heads * c.head_dim);
  return 8 * KvBytesPerPosition(o, c) / values;
}

}  // namespace spikefold
