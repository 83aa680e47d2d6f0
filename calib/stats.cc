#include "calib/stats.h"

#include <cmath>
#include <cstring>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "calib/zstd_frame.h"
#include "formats/base/file.h"
#include "formats/base/json.h"
#include "formats/base/status.h"
#include "formats/base/version.h"
#include "formats/safetensors.h"

namespace spikefold {
namespace {

constexpr int kFormatVersion = 1;
constexpr absl::string_view kKind = "spikefold calibration statistics";
constexpr uint64_t kMaxFileBytes = uint64_t{8} << 30;
constexpr int64_t kMaxArms = 16, kMaxSites = 1 << 16, kMaxWindows = 1 << 20;

// One tensor of the file; on writing `data` points into CalibStats.
struct Piece {
  std::string name;
  DType dtype;
  Shape shape;
  const void* data = nullptr;
  uint64_t bytes() const { return static_cast<uint64_t>(NumElements(shape) * DTypeBytes(dtype)); }
};

std::string PieceName(size_t arm, size_t site, absl::string_view field) {
  return absl::StrCat("arm", arm, ".site", site, ".", field);
}

std::string KeyName(size_t arm, size_t index) {
  return absl::StrCat("arm", arm, ".keys", index, ".quantiles");
}

std::string WindowName(size_t window) { return absl::StrCat("window.", window); }

std::vector<Piece> Pieces(const CalibStats& stats) {
  std::vector<Piece> pieces;
  for (size_t a = 0; a < stats.arms.size(); ++a) {
    for (size_t s = 0; s < stats.arms[a].sites.size(); ++s) {
      const SiteStats& site = stats.arms[a].sites[s];
      const auto add = [&](absl::string_view field, DType dtype, Shape shape, const void* data) {
        pieces.push_back({PieceName(a, s, field), dtype, std::move(shape), data});
      };
      add("min", DType::kF32, {site.k}, site.min.data());
      add("max", DType::kF32, {site.k}, site.max.data());
      add("sum", DType::kF64, {site.k}, site.sum.data());
      add("sum_sq", DType::kF64, {site.k}, site.sum_sq.data());
      add("histogram", DType::kU32, {site.k, kMagnitudeBins}, site.histogram.data());
      add("weight_sq", DType::kF64, {static_cast<int64_t>(site.weight_sq.size())}, site.weight_sq.data());
      add("row_peak", DType::kF32, {static_cast<int64_t>(site.row_peak.size())}, site.row_peak.data());
    }
    for (size_t k = 0; k < stats.arms[a].keys.size(); ++k) {
      const std::vector<float>& values = stats.arms[a].keys[k].quantiles;
      pieces.push_back({KeyName(a, k), DType::kF32, {static_cast<int64_t>(values.size())}, values.data()});
    }
  }
  const auto add_layers = [&](absl::string_view name, const std::vector<std::vector<uint16_t>>& layers) {
    for (size_t l = 0; l < layers.size(); ++l) {
      pieces.push_back({absl::StrCat("prefix.", name, ".", l),
                        DType::kBF16,
                        {static_cast<int64_t>(layers[l].size())},
                        layers[l].data()});
    }
  };
  for (size_t w = 0; w < stats.windows.size(); ++w) {
    pieces.push_back({WindowName(w),
                      DType::kI32,
                      {static_cast<int64_t>(stats.windows[w].size())},
                      stats.windows[w].data()});
  }
  add_layers("k", stats.prefix.k);
  add_layers("v", stats.prefix.v);
  return pieces;
}

Json TokensToJson(const std::vector<int32_t>& tokens) {
  Json out = Json::MakeArray();
  for (const int32_t token : tokens) out.Append(static_cast<int64_t>(token));
  return out;
}

Json Description(const CalibStats& stats) {
  Json arms = Json::MakeArray();
  for (const StatsArm& arm : stats.arms) {
    Json sites = Json::MakeArray();
    for (const SiteStats& site : arm.sites) sites.Append(static_cast<int64_t>(site.site));
    Json keys = Json::MakeArray();
    for (const KeyStats& k : arm.keys) {
      keys.Append(Json::MakeObject().Set("layer", static_cast<int64_t>(k.layer)).Set("rows", k.rows));
    }
    arms.Append(Json::MakeObject()
                    .Set("name", arm.name)
                    .Set("prefix", TokensToJson(arm.prefix))
                    .Set("sites", std::move(sites))
                    .Set("keys", std::move(keys)));
  }
  return Json::MakeObject()
      .Set("format_version", kFormatVersion)
      .Set("tool_version", stats.tool_version.empty() ? ToolVersionAndCommit() : stats.tool_version)
      .Set("model_fingerprint", stats.model_fingerprint)
      .Set("tokenizer_fingerprint", stats.tokenizer_fingerprint)
      .Set("text_sha256", stats.text_sha256)
      .Set("text_source", stats.text_source)
      .Set("bos", stats.bos)
      .Set("num_windows", stats.num_windows)
      .Set("window_length", stats.window_length)
      .Set("seed", absl::StrCat(stats.seed))
      .Set("windows", static_cast<int64_t>(stats.windows.size()))
      .Set("arms", std::move(arms))
      .Set("prefix", TokensToJson(stats.prefix.tokens))
      .Set("prefix_layers", static_cast<int64_t>(stats.prefix.k.size()));
}

std::string SafetensorsHeader(const std::vector<Piece>& pieces, const Json& description) {
  Json header = Json::MakeObject();
  header.Set("__metadata__", Json::MakeObject().Set("kind", kKind).Set("spikefold", description.Dump()));
  uint64_t offset = 0;
  for (const Piece& piece : pieces) {
    Json shape = Json::MakeArray(), offsets = Json::MakeArray();
    for (const int64_t n : piece.shape) shape.Append(n);
    offsets.Append(static_cast<int64_t>(offset));
    offset += piece.bytes();
    offsets.Append(static_cast<int64_t>(offset));
    header.Set(piece.name, Json::MakeObject()
                               .Set("dtype", DTypeName(piece.dtype))
                               .Set("shape", std::move(shape))
                               .Set("data_offsets", std::move(offsets)));
  }
  std::string text = header.Dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t size = text.size();
  std::string out(8, '\0');
  std::memcpy(out.data(), &size, 8);
  return out + text;
}

// Reads pieces by name and checks their types and shapes.
class Loader {
 public:
  Loader(const SafetensorsFile& file, const std::string& path) : file_(file), path_(path) {}

  absl::Status Corrupt(absl::string_view what) const {
    return absl::DataLossError(absl::StrCat(path_, ": ", what, "; scan again"));
  }
  // `count` elements are expected, or any number if it is negative.
  template <typename T>
  absl::Status Read(const std::string& name, DType dtype, int64_t count, std::vector<T>& out) const {
    const SafetensorsEntry* entry = file_.Find(name);
    if (entry == nullptr) return Corrupt(absl::StrCat("tensor ", name, " is missing"));
    const int64_t found = NumElements(entry->shape);
    if (entry->dtype != dtype || (count >= 0 && found != count)) {
      return Corrupt(absl::StrCat("tensor ", name, " is ", DTypeName(entry->dtype), " ",
                                  ShapeString(entry->shape), "; expected ", DTypeName(dtype),
                                  count >= 0 ? absl::StrCat(" with ", count, " elements") : ""));
    }
    SF_ASSIGN_OR_RETURN(const Tensor tensor, file_.Read(*entry));
    out.assign(tensor.as<T>().begin(), tensor.as<T>().end());
    return absl::OkStatus();
  }

  absl::Status ReadSite(size_t arm, size_t index, SiteStats& site) const {
    const auto name = [&](absl::string_view field) { return PieceName(arm, index, field); };
    SF_RETURN_IF_ERROR(Read(name("min"), DType::kF32, -1, site.min));
    site.k = static_cast<int64_t>(site.min.size());
    SF_RETURN_IF_ERROR(Read(name("max"), DType::kF32, site.k, site.max));
    SF_RETURN_IF_ERROR(Read(name("sum"), DType::kF64, site.k, site.sum));
    SF_RETURN_IF_ERROR(Read(name("sum_sq"), DType::kF64, site.k, site.sum_sq));
    SF_RETURN_IF_ERROR(Read(name("histogram"), DType::kU32, site.k * kMagnitudeBins, site.histogram));
    SF_RETURN_IF_ERROR(Read(name("weight_sq"), DType::kF64, -1, site.weight_sq));
    if (!site.weight_sq.empty() && static_cast<int64_t>(site.weight_sq.size()) != site.k) {
      return Corrupt(absl::StrCat("tensor ", name("weight_sq"), " has ", site.weight_sq.size(),
                                  " elements; expected ", site.k));
    }
    SF_RETURN_IF_ERROR(Read(name("row_peak"), DType::kF32, -1, site.row_peak));
    site.rows = static_cast<int64_t>(site.row_peak.size());
    return absl::OkStatus();
  }

  absl::Status ReadArm(const Json& json, size_t index, StatsArm& arm) const {
    SF_ASSIGN_OR_RETURN(arm.name, json.GetString("name", path_));
    SF_RETURN_IF_ERROR(ReadTokens(json.Find("prefix"), arm.prefix));
    const Json* sites = json.Find("sites");
    if (sites == nullptr || !sites->is_array() || static_cast<int64_t>(sites->array().size()) > kMaxSites) {
      return Corrupt("the list of sites is missing or too long");
    }
    for (size_t s = 0; s < sites->array().size(); ++s) {
      const Json& id = sites->array()[s];
      if (!id.is_int() || id.int_value() < 0 || id.int_value() > kMaxSites)
        return Corrupt("a site has no number");
      arm.sites.push_back({.site = static_cast<int>(id.int_value())});
      SF_RETURN_IF_ERROR(ReadSite(index, s, arm.sites.back()));
    }
    return ReadKeys(json, index, arm);
  }

  absl::Status ReadKeys(const Json& json, size_t index, StatsArm& arm) const {
    const Json* keys = json.Find("keys");
    if (keys == nullptr) return absl::OkStatus();  // an older version's
    if (!keys->is_array() || static_cast<int64_t>(keys->array().size()) > kMaxSites) {
      return Corrupt("the list of keys is no list or too long");
    }
    for (size_t k = 0; k < keys->array().size(); ++k) {
      KeyStats stats;
      SF_ASSIGN_OR_RETURN(const int64_t layer, keys->array()[k].GetInt("layer", path_));
      SF_ASSIGN_OR_RETURN(stats.rows, keys->array()[k].GetInt("rows", path_));
      if (layer < 0 || layer > kMaxSites || stats.rows < 1) return Corrupt("keys of no layer or of no rows");
      stats.layer = static_cast<int>(layer);
      SF_RETURN_IF_ERROR(Read(KeyName(index, k), DType::kF32, -1, stats.quantiles));
      if (stats.quantiles.empty() || stats.quantiles.size() % kKeyQuantiles != 0) {
        return Corrupt(absl::StrCat("tensor ", KeyName(index, k), " has ", stats.quantiles.size(),
                                    " elements; a multiple of ", kKeyQuantiles, " is expected"));
      }
      arm.keys.push_back(std::move(stats));
    }
    return absl::OkStatus();
  }

  absl::Status ReadTokens(const Json* json, std::vector<int32_t>& tokens) const {
    if (json == nullptr || !json->is_array()) return Corrupt("a list of tokens is missing");
    for (const Json& token : json->array()) {
      if (!token.is_int() || token.int_value() < 0 || token.int_value() > INT32_MAX) {
        return Corrupt("a token is not an id");
      }
      tokens.push_back(static_cast<int32_t>(token.int_value()));
    }
    return absl::OkStatus();
  }

  absl::Status ReadPrefix(const Json& json, KvPrefix& prefix) const {
    SF_RETURN_IF_ERROR(ReadTokens(json.Find("prefix"), prefix.tokens));
    SF_ASSIGN_OR_RETURN(const int64_t layers, json.GetInt("prefix_layers", path_));
    if (layers < 0 || layers > kMaxSites) return Corrupt("prefix_layers is out of range");
    prefix.k.resize(static_cast<size_t>(layers));
    prefix.v.resize(static_cast<size_t>(layers));
    for (size_t l = 0; l < prefix.k.size(); ++l) {
      SF_RETURN_IF_ERROR(Read(absl::StrCat("prefix.k.", l), DType::kBF16, -1, prefix.k[l]));
      SF_RETURN_IF_ERROR(Read(absl::StrCat("prefix.v.", l), DType::kBF16,
                              static_cast<int64_t>(prefix.k[l].size()), prefix.v[l]));
    }
    return absl::OkStatus();
  }

  absl::Status ReadWindows(const Json& json, std::vector<std::vector<int32_t>>& windows) const {
    SF_ASSIGN_OR_RETURN(const int64_t count, json.GetInt("windows", path_));
    if (count < 0 || count > kMaxWindows) return Corrupt("the number of windows is out of range");
    windows.resize(static_cast<size_t>(count));
    for (size_t w = 0; w < windows.size(); ++w) {
      SF_RETURN_IF_ERROR(Read(WindowName(w), DType::kI32, -1, windows[w]));
      for (const int32_t token : windows[w]) {
        if (token < 0) return Corrupt(absl::StrCat("window ", w, " holds the token ", token));
      }
    }
    return absl::OkStatus();
  }

  absl::Status ReadProvenance(const Json& json, CalibStats& stats) const {
    const std::pair<const char*, std::string*> texts[] = {
        {"tool_version", &stats.tool_version},
        {"model_fingerprint", &stats.model_fingerprint},
        {"tokenizer_fingerprint", &stats.tokenizer_fingerprint},
        {"text_sha256", &stats.text_sha256},
        {"text_source", &stats.text_source},
        {"bos", &stats.bos}};
    for (const auto& [key, out] : texts) {
      SF_ASSIGN_OR_RETURN(*out, json.GetString(key, path_));
    }
    SF_ASSIGN_OR_RETURN(stats.num_windows, json.GetInt("num_windows", path_));
    SF_ASSIGN_OR_RETURN(stats.window_length, json.GetInt("window_length", path_));
    SF_ASSIGN_OR_RETURN(const std::string seed, json.GetString("seed", path_));
    if (!absl::SimpleAtoi(seed, &stats.seed)) return Corrupt("the seed is not a number");
    return absl::OkStatus();
  }

 private:
  const SafetensorsFile& file_;
  const std::string& path_;
};

absl::StatusOr<Json> ReadDescription(const SafetensorsFile& file, const Loader& loader,
                                     const std::string& path) {
  std::string kind, text;
  for (const auto& [key, value] : file.metadata()) {
    if (key == "kind") kind = value;
    if (key == "spikefold") text = value;
  }
  if (kind != kKind) return loader.Corrupt("holds no calibration statistics");
  SF_ASSIGN_OR_RETURN(Json json, ParseJson(text, path));
  SF_ASSIGN_OR_RETURN(const int64_t version, json.GetInt("format_version", path));
  if (version != kFormatVersion) {
    return absl::UnimplementedError(absl::StrCat(path, ": format version ", version,
                                                 "; this Spikefold reads ", kFormatVersion, "; scan again"));
  }
  return json;
}

}  // namespace

double KeyQuantileShare(int i) {
  constexpr int kTail = 7, kInner = 31;
  if (i > kKeyQuantiles / 2) return 1 - KeyQuantileShare(kKeyQuantiles - 1 - i);
  if (i == 0) return 0;
  if (i <= kTail) return std::ldexp(1.0, i - 13);
  return static_cast<double>(i - kTail) / (kInner + 1);
}

absl::Status SaveStats(const CalibStats& stats, const std::string& path) {
  const std::vector<Piece> pieces = Pieces(stats);
  const std::string header = SafetensorsHeader(pieces, Description(stats));
  uint64_t bytes = header.size();
  for (const Piece& piece : pieces) bytes += piece.bytes();
  SF_ASSIGN_OR_RETURN(const auto writer, ZstdFrameWriter::Create(bytes));
  SF_RETURN_IF_ERROR(writer->Append(header));
  for (const Piece& piece : pieces) {
    SF_RETURN_IF_ERROR(
        writer->Append({static_cast<const char*>(piece.data), static_cast<size_t>(piece.bytes())}));
  }
  SF_ASSIGN_OR_RETURN(const std::string frame, writer->Finish());
  return WriteFileAtomically(path, frame);
}

absl::StatusOr<CalibStats> LoadStats(const std::string& path) {
  std::string content;
  {
    SF_ASSIGN_OR_RETURN(const std::string frame, ReadFileToString(path, kMaxFileBytes));
    SF_ASSIGN_OR_RETURN(content, ReadZstdFrame(frame, path));
  }
  SF_ASSIGN_OR_RETURN(const auto file, SafetensorsFile::FromSource(MemorySource(std::move(content), path)));
  const Loader loader(*file, path);
  SF_ASSIGN_OR_RETURN(const Json json, ReadDescription(*file, loader, path));
  CalibStats stats;
  SF_RETURN_IF_ERROR(loader.ReadProvenance(json, stats));
  const Json* arms = json.Find("arms");
  if (arms == nullptr || !arms->is_array() || static_cast<int64_t>(arms->array().size()) > kMaxArms) {
    return loader.Corrupt("the list of arms is missing or too long");
  }
  for (size_t a = 0; a < arms->array().size(); ++a) {
    stats.arms.emplace_back();
    SF_RETURN_IF_ERROR(loader.ReadArm(arms->array()[a], a, stats.arms.back()));
  }
  SF_RETURN_IF_ERROR(loader.ReadWindows(json, stats.windows));
  SF_RETURN_IF_ERROR(loader.ReadPrefix(json, stats.prefix));
  return stats;
}

absl::Status CheckStats(const CalibStats& stats, const ModelGraph& graph, absl::string_view where) {
  const ModelConfig& c = graph.config;
  const auto refuse = [&](const auto&... what) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", what..., "; scan this model"));
  };
  std::vector<absl::Span<const int32_t>> texts = {stats.prefix.tokens};
  texts.insert(texts.end(), stats.windows.begin(), stats.windows.end());
  for (const StatsArm& arm : stats.arms) {
    texts.push_back(arm.prefix);
    if (arm.sites.size() != graph.sites.size()) {
      return refuse("the scan saw ", arm.sites.size(), " linear inputs, the model has ", graph.sites.size());
    }
    for (size_t s = 0; s < arm.sites.size(); ++s) {
      const Site& place = graph.sites[s];
      if (arm.sites[s].site == place.id && arm.sites[s].k == place.k) continue;
      return refuse(place.name, ": the scan saw ", arm.sites[s].k, " channels of input ", arm.sites[s].site,
                    ", the model has ", place.k, " of input ", place.id);
    }
  }
  for (const absl::Span<const int32_t> tokens : texts) {
    for (const int32_t token : tokens) {
      if (token < 0 || token >= c.vocab) return refuse("token ", token, "; the model has ", c.vocab);
    }
  }
  const KvPrefix& prefix = stats.prefix;
  const size_t layers = prefix.empty() ? 0 : static_cast<size_t>(c.num_layers);
  const size_t values = static_cast<size_t>(c.num_kv_heads * prefix.size() * c.head_dim);
  bool fits = prefix.k.size() == layers && prefix.v.size() == layers;
  for (size_t l = 0; fits && l < layers; ++l) {
    fits = prefix.k[l].size() == values && prefix.v[l].size() == values;
  }
  return fits ? absl::OkStatus() : refuse("the prefix has not ", values, " keys and values in each layer");
}

}  // namespace spikefold
