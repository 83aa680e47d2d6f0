#include "formats/quantized/native_kv.h"

#include <cmath>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/quantized/native_parts.h"

namespace spikefold {
namespace {

constexpr int64_t kMaxRows = int64_t{1} << 20, kMaxLayers = 65536, kMaxHeadDim = 65536;

bool IsCodeBits(int bits) { return bits == 2 || bits == 3 || bits == 4 || bits == 8; }

std::string Word(int bits, NativeKv::KeyScale scale) {
  if (bits == 16) return "f16";
  const char* letter = scale == NativeKv::KeyScale::kRow    ? "r"
                       : scale == NativeKv::KeyScale::kPage ? "p"
                                                            : "c";
  return absl::StrCat("u", bits, letter);
}

absl::Status ReadWord(const Json& j, const char* key, absl::string_view where, int* bits, char* letter) {
  SF_ASSIGN_OR_RETURN(const std::string word, j.GetString(key, where));
  *bits = 16;
  *letter = 0;
  if (word == "f16") return absl::OkStatus();
  const bool coded = word.size() == 3 && word[0] == 'u' && absl::SimpleAtoi(word.substr(1, 1), bits) &&
                     IsCodeBits(*bits) &&
                     (word[2] == 'r' || (*key == 'k' && (word[2] == 'p' || word[2] == 'c')));
  if (!coded) {
    return absl::UnimplementedError(absl::StrCat(where, ": \"", key, "\": \"", Printable(word),
                                                 "\" is not supported; known: f16, u8, u4, u3 and u2 with r",
                                                 *key == 'k' ? ", p or c" : ""));
  }
  *letter = word[2];
  return absl::OkStatus();
}

absl::Status ReadOptional(const Json& j, const char* key, absl::string_view where, int64_t* value) {
  if (j.Find(key) == nullptr) return absl::OkStatus();
  SF_ASSIGN_OR_RETURN(*value, j.GetInt(key, where));
  return absl::OkStatus();
}

absl::Status ReadSizes(const Json& j, absl::string_view where, NativeKv* kv) {
  if (!kv->has_tensors()) {
    if (j.Find("layers") == nullptr && j.Find("kv_heads") == nullptr && j.Find("head_dim") == nullptr) {
      return absl::OkStatus();
    }
    return absl::DataLossError(
        absl::StrCat(where, ": \"layers\", \"kv_heads\" and \"head_dim\" belong to static scales only"));
  }
  SF_ASSIGN_OR_RETURN(const int64_t layers, j.GetInt("layers", where));
  SF_ASSIGN_OR_RETURN(kv->num_kv_heads, j.GetInt("kv_heads", where));
  SF_ASSIGN_OR_RETURN(kv->head_dim, j.GetInt("head_dim", where));
  const auto sane = [](int64_t v, int64_t most) { return v >= 1 && v <= most; };
  if (!sane(layers, kMaxLayers) || !sane(kv->num_kv_heads, kMaxHeadDim) || !sane(kv->head_dim, kMaxHeadDim) ||
      layers * kv->num_kv_heads * kv->head_dim > int64_t{1} << 30) {
    return absl::DataLossError(absl::StrCat(where, ": scales of ", layers, " layers, ", kv->num_kv_heads,
                                            " KV heads, head_dim ", kv->head_dim, "; impossible sizes"));
  }
  const size_t width = static_cast<size_t>(kv->num_kv_heads * kv->head_dim);
  kv->scale.assign(static_cast<size_t>(layers), std::vector<float>(width, 1.0f));
  kv->min.assign(static_cast<size_t>(layers), std::vector<float>(width, 0.0f));
  return absl::OkStatus();
}

absl::Status CheckScales(const NativeKv& kv) {
  const size_t width = static_cast<size_t>(kv.num_kv_heads * kv.head_dim);
  if (kv.scale.empty() || kv.scale.size() != kv.min.size() || width == 0) {
    return absl::InvalidArgumentError("kv: keys with static scales have none");
  }
  for (size_t l = 0; l < kv.scale.size(); ++l) {
    if (kv.scale[l].size() != width || kv.min[l].size() != width) {
      return absl::InvalidArgumentError(absl::StrCat("kv: layer ", l, " has ", kv.scale[l].size(),
                                                     " scales and ", kv.min[l].size(), " minima; ", width,
                                                     " are needed"));
    }
    for (size_t i = 0; i < width; ++i) {
      const float scale = kv.scale[l][i], min = kv.min[l][i];
      if (scale > 0 && std::isfinite(scale) && std::isfinite(1 / scale) && std::isfinite(min)) continue;
      return absl::InvalidArgumentError(absl::StrCat("kv: layer ", l, ", channel ", i, " has scale ", scale,
                                                     " and minimum ", min,
                                                     "; a positive number and a finite one are needed"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckNativeKv(const NativeKv& kv) {
  if (kv.is_float() && kv.v_bits == 32) return absl::OkStatus();
  for (const int bits : {kv.k_bits, kv.v_bits}) {
    if (bits == 16 || IsCodeBits(bits)) continue;
    return absl::InvalidArgumentError(absl::StrCat("kv: keys of ", kv.k_bits, " and values of ", kv.v_bits,
                                                   " bits; 2, 3, 4, 8 and 16 exist"));
  }
  if (kv.sinks < 0 || kv.sinks > kMaxRows || kv.window < 1 || kv.window > kMaxRows || kv.evict < 0) {
    return absl::InvalidArgumentError(absl::StrCat("kv: ", kv.sinks, " sinks, a window of ", kv.window,
                                                   ", evict ", kv.evict, "; at least 0, 1 and 0 are needed"));
  }
  if (!kv.has_tensors()) return absl::OkStatus();
  if (!kv.before_rope) {
    return absl::InvalidArgumentError("kv: static key scales are those before rotary embedding");
  }
  return CheckScales(kv);
}

Json NativeKvToJson(const NativeKv& kv) {
  if (kv.is_float()) return Json();
  Json j = Json::MakeObject();
  j.Set("k", Word(kv.k_bits, kv.k_scale)).Set("v", Word(kv.v_bits, NativeKv::KeyScale::kRow));
  j.Set("before_rope", kv.before_rope).Set("sinks", kv.sinks).Set("window", kv.window).Set("evict", kv.evict);
  if (kv.has_tensors()) {
    j.Set("layers", static_cast<int64_t>(kv.scale.size()));
    j.Set("kv_heads", kv.num_kv_heads).Set("head_dim", kv.head_dim);
  }
  return j;
}

absl::StatusOr<NativeKv> NativeKvFromJson(const Json& j, absl::string_view sidecar) {
  NativeKv kv;
  if (j.is_null()) return kv;
  const std::string where = absl::StrCat(sidecar, ": kv");
  SF_RETURN_IF_ERROR(CheckKeys(
      j, {"k", "v", "before_rope", "sinks", "window", "evict", "layers", "kv_heads", "head_dim"}, where));
  char k_letter = 0, v_letter = 0;
  SF_RETURN_IF_ERROR(ReadWord(j, "k", where, &kv.k_bits, &k_letter));
  SF_RETURN_IF_ERROR(ReadWord(j, "v", where, &kv.v_bits, &v_letter));
  if (k_letter == 'r') kv.k_scale = NativeKv::KeyScale::kRow;
  if (k_letter == 'c') kv.k_scale = NativeKv::KeyScale::kChannel;
  if (j.Find("before_rope") != nullptr) {
    SF_ASSIGN_OR_RETURN(kv.before_rope, j.GetBool("before_rope", where));
  }
  SF_ASSIGN_OR_RETURN(kv.sinks, j.GetInt("sinks", where));
  SF_ASSIGN_OR_RETURN(kv.window, j.GetInt("window", where));
  SF_RETURN_IF_ERROR(ReadOptional(j, "evict", where, &kv.evict));
  SF_RETURN_IF_ERROR(ReadSizes(j, where, &kv));
  if (const absl::Status status = CheckNativeKv(kv); !status.ok()) {
    return absl::DataLossError(absl::StrCat(sidecar, ": ", status.message()));
  }
  return kv;
}

std::vector<SafetensorsWriter::Spec> NativeKvTensorSpecs(const NativeKv& kv) {
  std::vector<SafetensorsWriter::Spec> specs;
  if (!kv.has_tensors()) return specs;
  for (size_t l = 0; l < kv.scale.size(); ++l) {
    for (const char* what : {"k_scale", "k_min"}) {
      specs.push_back(
          {absl::StrCat("spikefold.kv.", l, ".", what), DType::kF32, {kv.num_kv_heads, kv.head_dim}});
    }
  }
  return specs;
}

std::vector<float>& NativeKvTensor(NativeKv& kv, size_t index) {
  return index % 2 == 0 ? kv.scale[index / 2] : kv.min[index / 2];
}

}  // namespace spikefold
