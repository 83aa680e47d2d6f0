#include "quant/folds/fold_builder.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "formats/base/dtype.h"
#include "formats/base/hadamard.h"
#include "formats/base/status.h"
#include "quant/folds/graph_links.h"

namespace spikefold {
namespace {

// The number to store for a gain. One of 16 bits where it is near enough, so that writing norms in bfloat16
// loses nothing: the linears take what it differs by.
float StoredGain(double gain, float offset) {
  const double wanted = gain - static_cast<double>(offset);
  const float narrow = Bf16ToFloat(FloatToBf16(static_cast<float>(wanted)));
  const double error = std::fabs(static_cast<double>(narrow + offset) - gain);
  if (error <= std::fabs(gain) / 64) return narrow;
  const float wide = static_cast<float>(wanted);
  if (gain == 0 || wide + offset != 0) return wide;
  return std::nextafter(wide, gain > 0 ? INFINITY : -INFINITY);  // a gain of 0 could not be made good
}

// Steele, Lea, Flood, "Fast splittable pseudorandom number generators" (2014): SplitMix64.
uint64_t SplitMix64(uint64_t* state) {
  uint64_t z = *state += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

}  // namespace

Rewrite& FoldBuilder::RewriteOf(const std::string& tensor) {
  Rewrite& rewrite = model_.rewrites[tensor];
  if (rewrite.source.empty()) rewrite.source = tensor;
  return rewrite;
}

void FoldBuilder::Right(int index, Transform f) {
  RewriteOf(node(index).module + ".weight").right.push_back(std::move(f));
}

void FoldBuilder::Left(int index, Transform f) {
  if (node(index).has_bias) RewriteOf(node(index).module + ".bias").left.push_back(f);
  RewriteOf(node(index).module + ".weight").left.push_back(std::move(f));
}

absl::StatusOr<std::vector<float>> FoldBuilder::Gain(int index) const {
  const std::string name = node(index).module + ".weight";
  std::vector<float> gain;
  if (const auto it = model_.gains.find(name); it != model_.gains.end()) {
    gain = it->second;
  } else {
    SF_ASSIGN_OR_RETURN(const Tensor stored, base_.ReadF32(name));
    gain.assign(stored.as<float>().begin(), stored.as<float>().end());
  }
  for (float& g : gain) g += graph().config.norm_gain_offset;
  return gain;
}

std::vector<float> FoldBuilder::SetGain(int index, absl::Span<const double> gain) {
  const float offset = graph().config.norm_gain_offset;
  std::vector<float>& stored = model_.gains[node(index).module + ".weight"];
  stored.clear();
  std::vector<float> actual;
  for (const double g : gain) {
    stored.push_back(StoredGain(g, offset));
    actual.push_back(stored.back() + offset);
  }
  return actual;
}

void FoldBuilder::SetExactGain(int index, absl::Span<const double> gain) {
  std::vector<float>& stored = model_.gains[node(index).module + ".weight"];
  stored.clear();
  for (const double g : gain) {
    stored.push_back(static_cast<float>(g - static_cast<double>(graph().config.norm_gain_offset)));
  }
}

void FoldBuilder::DivideNormEps(double divisor) {
  float& eps = model_.graph.config.norm_eps;
  eps = static_cast<float>(static_cast<double>(eps) / divisor);
}

void FoldBuilder::Untie() {
  if (!graph().config.tied_embeddings) return;
  model_.graph.config.tied_embeddings = false;
  model_.untied = true;
  const Node& head = node(FindNode(graph(), -1, Op::kLinear, Role::kHead));
  const Node& embedding = node(FindNode(graph(), -1, Op::kEmbed, Role::kEmbedding));
  model_.rewrites[head.module + ".weight"].source = embedding.module + ".weight";
}

std::vector<float> FoldBuilder::Shift(int site_id, absl::Span<const float> values) {
  Site& site = model_.graph.sites[static_cast<size_t>(site_id)];
  for (const float v : values) site.shift.push_back(Bf16ToFloat(FloatToBf16(v)));
  for (const int linear : site.linears) {
    Node& n = model_.graph.nodes[static_cast<size_t>(linear)];
    const std::string name = n.module + ".bias";
    model_.shifted_biases[name] = linear;
    if (!n.has_bias) model_.new_biases.push_back(name);
    n.has_bias = true;
  }
  return site.shift;
}

void FoldBuilder::Applied(std::string fold, Json provenance) {
  model_.folds.push_back(std::move(fold));
  model_.provenance.Append(std::move(provenance));
}

void FoldBuilder::Refuse(std::string fold, std::string reason) {
  model_.refused.push_back({std::move(fold), std::move(reason)});
}

Rotation RandomRotation(const std::string& name, RotationPlace place, int64_t width, uint64_t seed) {
  Rotation r = {.name = name, .place = place, .factors = HadamardBlockFactors(width)};
  uint64_t state = seed;
  for (const char c : name) state = SplitMix64(&state) ^ static_cast<unsigned char>(c);
  for (int64_t i = 0; i < width; ++i) r.signs.push_back(SplitMix64(&state) >> 63 == 0 ? 1 : -1);
  return r;
}

Json RotationProvenance(const Rotation& r, uint64_t seed) {
  Json j = Json::MakeObject(), factors = Json::MakeArray();
  for (const int64_t f : r.factors) factors.Append(f);
  j.Set("kind", "rotation").Set("name", r.name).Set("at", RotationPlaceName(r.place));
  j.Set("factors", std::move(factors)).Set("block", r.block()).Set("width", r.width()).Set("seed", seed);
  return j;
}

Json LearnedProvenance(const std::string& name, RotationPlace place, int64_t width,
                       const LearnedRotations& learned) {
  return Json::MakeObject()
      .Set("kind", "learned rotation")
      .Set("name", name)
      .Set("at", RotationPlaceName(place))
      .Set("width", width)
      .Set("sha256", learned.sha256);
}

}  // namespace spikefold
