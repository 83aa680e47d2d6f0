#include "formats/export/gguf_metadata.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/base/version.h"
#include "formats/families/family.h"

namespace spikefold {
namespace {

// llama.cpp's enum llama_ftype: what most weights are.
uint32_t FileType(GgmlType type) {
  switch (type) {
    case GgmlType::kF32:
      return 0;
    case GgmlType::kF16:
      return 1;
    case GgmlType::kQ4_0:
      return 2;
    case GgmlType::kQ4_1:
      return 3;
    case GgmlType::kQ5_0:
      return 8;
    case GgmlType::kQ5_1:
      return 9;
    case GgmlType::kQ4_K:
      return 14;  // Q4_K_S: no tensor gets more bits than the others
    case GgmlType::kQ5_K:
      return 16;  // Q5_K_S
    case GgmlType::kQ6_K:
      return 18;
    case GgmlType::kBF16:
      return 32;
    default:
      return 7;  // Q8_0
  }
}

uint32_t Size(int64_t value) { return static_cast<uint32_t>(value); }

absl::Status Refuse(absl::string_view what) { return absl::UnimplementedError(absl::StrCat("gguf: ", what)); }

// llama.cpp slides five of six layers of Gemma 3, whose rope it does not scale, and scales scores by the
// head's width (27B: hidden / heads).
absl::Status CheckGemma(const ModelConfig& c) {
  if (c.sliding_window > 0 && c.rope_local.scaling != RopeScaling::kNone) {
    return Refuse("a scaled rope of sliding layers; llama.cpp scales that of Gemma 3's global ones alone");
  }
  for (size_t i = 0; i < c.sliding_layers.size(); ++i) {
    if (c.sliding_layers[i] != ((i + 1) % 6 != 0)) {
      return Refuse(
          "layer_types other than five sliding layers to a global one; llama.cpp has no other Gemma 3");
    }
  }
  const int64_t scalar = c.num_layers == 62 ? c.hidden / c.num_heads : c.head_dim;
  if (std::fabs(c.attention_scale * std::sqrt(static_cast<float>(scalar)) - 1) > 1e-5f) {
    return Refuse(absl::StrCat("query_pre_attn_scalar; llama.cpp takes ", scalar, " for this Gemma 3"));
  }
  return absl::OkStatus();
}

absl::Status AddWindow(const ModelConfig& c, const std::string& arch, GgufMetadata* out,
                       ExportReport* report) {
  if (c.sliding_window <= 0) return absl::OkStatus();
  if (arch == "gemma3") {
    out->AddU32("gemma3.attention.sliding_window", Size(c.sliding_window));
    if (c.rope_local.theta != 1e4) {
      out->AddF32("gemma3.rope.freq_base_swa", static_cast<float>(c.rope_local.theta));
    }
    return absl::OkStatus();
  }
  const bool slides = c.sliding_layers.empty() || std::find(c.sliding_layers.begin(), c.sliding_layers.end(),
                                                            true) != c.sliding_layers.end();
  if (slides && (c.max_positions == 0 || c.sliding_window < c.max_positions)) {
    report->losses.push_back(
        {.what = "sliding window",
         .detail =
             absl::StrCat("the window of ", c.sliding_window, " positions is not applied by llama.cpp's ",
                          arch, " architecture: texts longer than it are computed with full attention"),
         .changes_function = true});
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> GgufArchitecture(const ModelConfig& config) {
  SF_ASSIGN_OR_RETURN(const Family* family, FamilyByName(config.family));
  return std::string(family->gguf_architecture == nullptr ? "llama" : family->gguf_architecture);
}

absl::Status CheckGgufModel(const ModelConfig& c) {
  SF_ASSIGN_OR_RETURN(const std::string arch, GgufArchitecture(c));
  const bool llama = arch == "llama", gemma = arch == "gemma3";
  if (!gemma && c.activation != GateActivation::kSilu) {
    return Refuse(absl::StrCat("the activation gelu_pytorch_tanh; llama.cpp's ", arch, " has silu"));
  }
  if (!llama && c.rope.scaling == RopeScaling::kLlama3) {
    return Refuse(absl::StrCat("llama3 scaling of rope; llama.cpp's ", arch, " reads no rope_freqs.weight"));
  }
  if (!llama && (c.o_bias || c.mlp_bias)) {
    return Refuse(absl::StrCat("biases of ", c.o_bias ? "o_proj" : "the MLP", "; llama.cpp's ", arch,
                               " has no place for them"));
  }
  return gemma ? CheckGemma(c) : absl::OkStatus();
}

absl::Status AddModelMetadata(const ModelConfig& c, const std::string& name, GgmlType main_type,
                              GgufMetadata* out, ExportReport* report) {
  SF_RETURN_IF_ERROR(CheckGgufModel(c));
  SF_ASSIGN_OR_RETURN(const std::string arch, GgufArchitecture(c));
  const auto key = [&arch](const char* rest) { return absl::StrCat(arch, ".", rest); };
  out->AddString("general.architecture", arch);
  out->AddString("general.type", "model");
  out->AddString("general.name", name);
  out->AddString("general.quantized_by", absl::StrCat("spikefold ", ToolVersion()));
  out->AddU32("general.file_type", FileType(main_type));
  const bool quantized = FindGgmlType(static_cast<uint32_t>(main_type))->block_elements > 1;
  if (quantized) out->AddU32("general.quantization_version", 2);
  out->AddU32(key("vocab_size"), Size(c.vocab));
  constexpr int64_t kContext = 2048;  // where the model names none: engines want a number
  if (c.max_positions == 0) {
    report->losses.push_back({.what = "positions",
                              .detail = absl::StrCat("the model names no limit of positions; ", kContext,
                                                     " is written, which engines take for one"),
                              .changes_function = false});
  }
  out->AddU32(key("context_length"), Size(c.max_positions > 0 ? c.max_positions : kContext));
  out->AddU32(key("embedding_length"), Size(c.hidden));
  out->AddU32(key("block_count"), Size(c.num_layers));
  out->AddU32(key("feed_forward_length"), Size(c.intermediate));
  out->AddU32(key("attention.head_count"), Size(c.num_heads));
  out->AddU32(key("attention.head_count_kv"), Size(c.num_kv_heads));
  out->AddF32(key("attention.layer_norm_rms_epsilon"), c.norm_eps);
  out->AddU32(key("attention.key_length"), Size(c.head_dim));
  out->AddU32(key("attention.value_length"), Size(c.head_dim));
  out->AddU32(key("rope.dimension_count"), Size(c.head_dim));
  out->AddF32(key("rope.freq_base"), static_cast<float>(c.rope.theta));
  if (c.rope.scaling == RopeScaling::kLinear) {
    out->AddString(key("rope.scaling.type"), "linear");
    out->AddF32(key("rope.scaling.factor"), static_cast<float>(c.rope.factor));
  }
  return AddWindow(c, arch, out, report);
}

std::vector<float> RopeFactors(const ModelConfig& c) {
  std::vector<float> factors;
  if (c.rope.scaling != RopeScaling::kLlama3) return factors;
  const double old = static_cast<double>(c.rope.original_max_positions);
  for (int64_t i = 0; i < c.head_dim / 2; ++i) {
    // transformers, _compute_llama3_parameters.
    const double wavelength =
        2 * M_PI * std::pow(c.rope.theta, 2 * static_cast<double>(i) / static_cast<double>(c.head_dim));
    double divisor = 1;
    if (wavelength > old / c.rope.low_freq_factor) {
      divisor = c.rope.factor;
    } else if (wavelength >= old / c.rope.high_freq_factor) {
      const double smooth =
          (old / wavelength - c.rope.low_freq_factor) / (c.rope.high_freq_factor - c.rope.low_freq_factor);
      divisor = 1 / ((1 - smooth) / c.rope.factor + smooth);
    }
    factors.push_back(static_cast<float>(divisor));
  }
  return factors;
}

}  // namespace spikefold
