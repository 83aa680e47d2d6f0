#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"
#include "formats/base/status.h"
#include "formats/base/version.h"
#include "formats/quantized/native.h"
#include "quant/refine/refine.h"

namespace spikefold {
namespace {

float Rounded(float value, DType dtype) {
  if (dtype == DType::kBF16) return Bf16ToFloat(FloatToBf16(value));
  if (dtype == DType::kF16) return F16ToFloat(FloatToF16(value));
  return value;
}

const std::vector<float>* Find(const std::map<int, std::vector<float>>& map, int node) {
  const auto it = map.find(node);
  return it == map.end() ? nullptr : &it->second;
}

// A scale that learning or rounding has brought to zero or beyond what its type holds stays what it was.
void TakeScales(const std::vector<float>& learnt, QuantizedLinear& q) {
  for (size_t i = 0; i < q.scales.size(); ++i) {
    const float scale = q.format.grouped ? Rounded(learnt[i], q.scale_dtype) : learnt[i];
    if (std::isfinite(scale) && scale > 0) q.scales[i] = scale;
  }
}

Json Record(const Refined& refined, const RefineSource& source) {
  return Json::MakeObject()
      .Set("source", source.text)
      .Set("sha256", source.sha256)
      .Set("tokens", source.tokens)
      .Set("steps", refined.best_step)
      .Set("rate", source.rate)
      .Set("parameters", refined.num_parameters)
      .Set("held_out_kld_before", refined.before)
      .Set("held_out_kld", refined.after);
}

absl::Status WriteAll(const CheckpointReader& reader, const NativeReader& native, const Refined& refined,
                      NativeWriter& writer) {
  const ModelGraph& graph = reader.graph();
  for (const QuantizedLinearSpec& spec : native.info().linears) {
    SF_ASSIGN_OR_RETURN(QuantizedLinear q, native.ReadLinear(spec.module));
    const int node = graph.FindModule(spec.module);
    if (const std::vector<float>* scales = Find(refined.scales, node)) {
      TakeScales(*scales, q);
      q.weight_error = -1;  // of the scales there were
      absl::StrAppend(&q.reason, "; scales refined");
    }
    if (const std::vector<float>* bias = Find(refined.biases, node)) q.bias = *bias;
    SF_RETURN_IF_ERROR(writer.WriteLinear(q));
  }
  for (const SafetensorsEntry& entry : native.plain()) {
    SF_ASSIGN_OR_RETURN(Tensor tensor, native.ReadTensor(entry.name));
    for (const auto& [node, gain] : refined.gains) {
      if (graph.nodes[static_cast<size_t>(node)].module + ".weight" != entry.name) continue;
      tensor = Tensor::FromFloats(tensor.shape(), gain);
    }
    SF_RETURN_IF_ERROR(writer.WriteTensor(entry.name, tensor.view()));
  }
  SF_ASSIGN_OR_RETURN(const NativePrefix prefix, native.ReadPrefix());
  return prefix.ids.empty() ? absl::OkStatus() : writer.WritePrefix(prefix);
}

}  // namespace

absl::Status WriteRefined(const CheckpointReader& quantized, const Refined& refined,
                          const RefineSource& source, const RefineOutput& output) {
  SF_ASSIGN_OR_RETURN(const auto native, NativeReader::Open(quantized.path()));
  NativeInfo info = native->info();
  info.tool_version = ToolVersion();
  const bool learnt = !refined.scales.empty() || !refined.biases.empty() || !refined.gains.empty();
  if (learnt) info.plan_sha256.clear();
  if (!info.calibration.is_object()) info.calibration = Json::MakeObject();
  info.calibration.Set("refinement", Record(refined, source));
  std::vector<SafetensorsWriter::Spec> plain;
  for (const SafetensorsEntry& entry : native->plain()) {
    const bool gain = std::any_of(refined.gains.begin(), refined.gains.end(), [&](const auto& g) {
      return quantized.graph().nodes[static_cast<size_t>(g.first)].module + ".weight" == entry.name;
    });
    plain.push_back({.name = entry.name, .dtype = gain ? DType::kF32 : entry.dtype, .shape = entry.shape});
  }
  SF_ASSIGN_OR_RETURN(const auto files, quantized.SideFiles());
  std::vector<NativeSideFile> side_files;
  side_files.reserve(files.size());
  for (const auto& file : files) side_files.push_back({file.name, file.bytes});
  NativeWriter::Options options{.overwrite = output.overwrite};
  if (!output.command.empty()) options.arguments = {output.command};
  SF_ASSIGN_OR_RETURN(const auto writer,
                      NativeWriter::Create(output.path, std::move(info), std::move(plain),
                                           native->config_json(), std::move(side_files), options));
  SF_RETURN_IF_ERROR(WriteAll(quantized, *native, refined, *writer));
  return writer->Commit();
}

}  // namespace spikefold
