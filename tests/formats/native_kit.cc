#include "tests/formats/native_kit.h"

#include <catch2/catch.hpp>

#include "absl/strings/str_replace.h"
#include "formats/base/file.h"

namespace spikefold::native_kit {
namespace {

// Codes of both signs that reach their limits; scales and side data that are all different.
void FillCodes(QuantizedLinear* q) {
  const int limit = q->format == WeightFormat::kS8c ? 127 : 7;
  for (int64_t i = 0; i < q->n * q->k; ++i) {
    q->codes.push_back(static_cast<int8_t>(i % (2 * limit + 1) - limit));
  }
  if (q->format == WeightFormat::kS4g) q->codes[1] = -8;
  const int64_t groups = q->format == WeightFormat::kS8c ? 1 : q->k / q->group;
  for (int64_t i = 0; i < q->n * groups; ++i) q->scales.push_back(0.25f + static_cast<float>(i) * 0.125f);
  for (const int32_t column : q->kept_columns) {
    for (int64_t row = 0; row < q->n; ++row) {
      q->codes[static_cast<size_t>(row * q->k + column)] = 0;
      q->kept_weight_bf16.push_back(0);
    }
  }
  for (size_t i = 0; i < q->kept_weight_bf16.size(); ++i) {
    q->kept_weight_bf16[i] = FloatToBf16(100.0f + static_cast<float>(i));
  }
  for (const SuperWeight& s : q->supers) q->codes[static_cast<size_t>(s.row * q->k + s.col)] = 0;
}

}  // namespace

QuantizedLinear DownProj() {
  QuantizedLinearSpec spec;
  spec.module = "model.layers.0.mlp.down_proj";
  spec.n = 3;
  spec.k = 10;
  spec.format = WeightFormat::kS4g;
  spec.group = 5;
  spec.num_kept = 2;
  spec.num_super = 2;
  spec.has_bias = true;
  spec.act = ActivationFormat::kS8Static;
  spec.bias_sources = {"original", "shift"};
  spec.spike_threshold = 0.1f;
  spec.max_spike_rows = 7;
  spec.reason = "step-up, \"ratio\" 4136";
  QuantizedLinear q(spec);
  q.kept_columns = {2, 9};
  q.supers = {{0, 4, 1e4f}, {2, 0, -3.5f}};
  q.bias = {0.5f, -1.0f, 2.0f};
  q.input_scale = 0.0123f;
  FillCodes(&q);
  return q;
}

QuantizedLinear QProj() {
  QuantizedLinearSpec spec;
  spec.module = "model.layers.0.self_attn.q_proj";
  spec.n = 4;
  spec.k = 6;
  spec.format = WeightFormat::kS8c;
  spec.act = ActivationFormat::kS8Token;
  QuantizedLinear q(spec);
  FillCodes(&q);
  return q;
}

QuantizedLinear Head() {
  QuantizedLinearSpec spec;
  spec.module = "lm_head";
  spec.n = 2;
  spec.k = 3;
  QuantizedLinear q(spec);
  q.float_weight = Tensor(DType::kBF16, {2, 3});
  q.float_weight.as<uint16_t>()[4] = FloatToBf16(1.5f);
  return q;
}

NativeInfo Info() {
  NativeInfo info;
  info.tool_version = "0.1.0";
  info.architecture = "LlamaForCausalLM";
  info.base_fingerprint = "f00d";
  info.scheme = "w4a8";
  info.linears = {DownProj(), QProj(), Head()};
  info.prefix.num_tokens = 2;
  info.prefix.kind = "bos";
  info.prefix.layers = {0, 3};
  info.prefix.num_kv_heads = 1;
  info.prefix.head_dim = 4;
  info.rotations = {{"R1", RotationPlace::kResidual, {2}, {1, -1, -1, 1, 1, -1}},
                    {"R4", RotationPlace::kDownIn, {12, 2}, std::vector<int8_t>(24, -1), {0, 2}}};
  info.shifts = {{"layers.0.ctx", {0.5f, -2.0f, 0.0f}}};
  info.kv.k_bits = 4;
  info.kv.v_bits = 3;
  info.kv.k_scale = NativeKv::KeyScale::kChannel;
  info.kv.before_rope = true;
  info.kv.sinks = 2;
  info.kv.window = 64;
  info.kv.num_kv_heads = 1;
  info.kv.head_dim = 4;
  for (int l = 0; l < 2; ++l) {
    const float x = static_cast<float>(l);
    info.kv.scale.push_back({1 + x, 0.5f, 0.1f, 2});
    info.kv.min.push_back({-7, -x, 0.25f, -1e4f});
  }
  info.calibration = Json::MakeObject();
  info.calibration.Set("tokens", 65536);
  return info;
}

NativePrefix Prefix() {
  NativePrefix prefix;
  prefix.ids = {1, 5};
  for (int l = 0; l < 2; ++l) {
    prefix.k.emplace_back(DType::kBF16, Shape{1, 2, 4});
    prefix.v.emplace_back(DType::kBF16, Shape{1, 2, 4});
    prefix.k.back().as<uint16_t>()[0] = FloatToBf16(static_cast<float>(l + 1));
    prefix.v.back().as<uint16_t>()[7] = FloatToBf16(static_cast<float>(l + 10));
  }
  return prefix;
}

absl::StatusOr<std::unique_ptr<NativeWriter>> Begin(const std::string& path,
                                                    const NativeWriter::Options& options,
                                                    std::vector<NativeSideFile> files, NativeInfo info) {
  const Json config = *ParseJson(R"({"architectures":["LlamaForCausalLM"],"hidden_size":6})", "config");
  return NativeWriter::Create(path, std::move(info), {{kGain, DType::kF32, {6}}}, config, std::move(files),
                              options);
}

void WriteAll(const std::string& path, const NativeWriter::Options& options, bool reversed) {
  auto writer = Begin(path, options);
  REQUIRE(writer.ok());
  std::vector<QuantizedLinear> linears;
  for (auto make : {DownProj, QProj, Head})
    linears.insert(reversed ? linears.begin() : linears.end(), make());
  if (reversed) REQUIRE((*writer)->WritePrefix(Prefix()).ok());
  for (const QuantizedLinear& q : linears) REQUIRE((*writer)->WriteLinear(q).ok());
  REQUIRE((*writer)->WriteTensor(kGain, Tensor::FromFloats({6}, {1, 2, 3, 4, 5, 6}).view()).ok());
  if (!reversed) REQUIRE((*writer)->WritePrefix(Prefix()).ok());
  CHECK_FALSE(PathExists(path));
  REQUIRE((*writer)->Commit().ok());
}

std::string Read(const std::string& path) { return *ReadFileToString(path, 1 << 20); }

void Edit(const std::string& path, const std::string& from, const std::string& to) {
  std::string text = Read(path);
  REQUIRE(absl::StrReplaceAll({{from, to}}, &text) == 1);
  REQUIRE(WriteFileAtomically(path, text).ok());
}

}  // namespace spikefold::native_kit
