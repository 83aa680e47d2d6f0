#include "tests/formats/export_kit.h"

#include <algorithm>
#include <catch2/catch.hpp>
#include <cstring>
#include <random>
#include <set>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/safetensors_model.h"

namespace spikefold::export_kit {
namespace {

size_t Size(int64_t n) { return static_cast<size_t>(n); }

QuantizedLinear FloatLinear(const CheckpointReader& base, const Node& node) {
  QuantizedLinear linear;
  linear.module = node.module;
  linear.n = node.n;
  linear.k = node.k;
  linear.float_dtype = DType::kF32;
  linear.float_weight = *base.ReadF32(node.module + ".weight");
  if (node.has_bias) {
    const Tensor bias = *base.ReadF32(node.module + ".bias");
    linear.has_bias = true;
    linear.bias.assign(bias.as<float>().begin(), bias.as<float>().end());
  }
  return linear;
}

// Element i of words that hold 32 / bits of them from the lowest bits on.
int Unpack(const int32_t* words, int64_t stride, int64_t i, int bits) {
  const uint32_t word = static_cast<uint32_t>(words[i * bits / 32 * stride]);
  return static_cast<int>(word >> (i * bits % 32) & ((1u << bits) - 1));
}

// compressed-tensors: rows of weight_packed run along K, zero points along N; both hold code + 2^(bits-1).
void FillFromCompressed(const SafetensorsModel& model, QuantizedLinear& q) {
  const Tensor scales = *model.Read(q.module + ".weight_scale");
  const Tensor values = ToF32(scales.view());
  const int64_t groups = scales.dim(1);
  q.float_weight = Tensor();
  q.scales.assign(values.as<float>().begin(), values.as<float>().end());
  q.codes.resize(Size(q.n * q.k));
  const SafetensorsEntry* packed = model.Find(q.module + ".weight_packed");
  q.format = packed == nullptr || groups == 1 ? WeightFormat::kS8c : WeightFormat::kS4g;
  if (q.format.grouped) {
    q.group = q.k / groups;
    q.scale_dtype = DType::kF16;
  }
  const int half = 1 << (q.format.bits - 1);
  if (packed == nullptr) {
    const Tensor codes = *model.Read(q.module + ".weight");
    std::copy(codes.as<int8_t>().begin(), codes.as<int8_t>().end(), q.codes.begin());
    q.act = ActivationFormat::kS8Static;
    const Tensor input_scale = *model.Read(q.module + ".input_scale");
    q.input_scale = ToF32(input_scale.view()).as<float>()[0];
  } else {
    const Tensor words = *model.Read(packed->name);
    for (int64_t i = 0; i < q.n * q.k; ++i) {
      const int32_t* row = words.as<int32_t>().data() + i / q.k * words.dim(1);
      q.codes[Size(i)] = static_cast<int8_t>(Unpack(row, 1, i % q.k, q.format.bits) - half);
    }
  }
  for (int8_t& code : q.codes) code = std::max(code, static_cast<int8_t>(q.format.lo()));
  if (model.Find(q.module + ".weight_zero_point") == nullptr) return;
  q.format.symmetric = false;
  const Tensor words = *model.Read(q.module + ".weight_zero_point");
  for (int64_t i = 0; i < q.n * groups; ++i) {
    const int32_t* column = words.as<int32_t>().data() + i % groups;
    q.zeros.push_back(static_cast<int8_t>(Unpack(column, groups, i / groups, q.format.bits) - half));
  }
}

// GPTQ: words of qweight run down K, of qzeros along N; scales are [groups, N]. Columns that are in order of
// activation are put into the order of their groups.
void FillFromGptq(const SafetensorsModel& model, QuantizedLinear& q, int bits, bool v2) {
  const Tensor words = *model.Read(q.module + ".qweight"), zeros = *model.Read(q.module + ".qzeros");
  const Tensor scales = *model.Read(q.module + ".scales"), index = *model.Read(q.module + ".g_idx");
  const Tensor values = ToF32(scales.view());
  const int64_t groups = scales.dim(0);
  const int half = 1 << (bits - 1);
  q.float_weight = Tensor();
  q.format = {.bits = bits, .grouped = true, .symmetric = false};
  q.group = q.k / groups;
  q.scale_dtype = DType::kF16;
  std::vector<int64_t> columns(Size(q.k));
  for (size_t i = 0; i < columns.size(); ++i) columns[i] = static_cast<int64_t>(i);
  std::stable_sort(columns.begin(), columns.end(), [&](int64_t a, int64_t b) {
    return index.as<int32_t>()[Size(a)] < index.as<int32_t>()[Size(b)];
  });
  for (int64_t row = 0; row < q.n; ++row) {
    for (const int64_t column : columns) {
      q.codes.push_back(
          static_cast<int8_t>(Unpack(words.as<int32_t>().data() + row, q.n, column, bits) - half));
    }
    for (int64_t g = 0; g < groups; ++g) {
      const int zero = Unpack(zeros.as<int32_t>().data() + g * zeros.dim(1), 1, row, bits) + (v2 ? 0 : 1);
      q.zeros.push_back(static_cast<int8_t>(zero - half));
      q.scales.push_back(values.as<float>()[Size(g * q.n + row)]);
    }
  }
}

}  // namespace

void RandomCodes(QuantizedLinear& q, const WeightFormat& format, int64_t group) {
  std::mt19937 random(static_cast<unsigned>(q.n * 1000 + q.k + format.bits));
  q.float_weight = Tensor();
  q.format = format;
  q.group = group;
  q.scale_dtype = DType::kF16;
  const auto draw = [&](int lo, int hi) {
    return lo + static_cast<int>(random() % static_cast<unsigned>(hi - lo + 1));
  };
  for (int64_t i = 0; i < q.n * q.k; ++i) {
    q.codes.push_back(static_cast<int8_t>(draw(format.lo(), format.hi())));
  }
  for (int64_t i = 0; i < q.n * q.num_groups(); ++i) {
    q.scales.push_back(static_cast<float>(draw(8, 15)) / 1024);
    if (!format.symmetric) q.zeros.push_back(static_cast<int8_t>(draw(format.lo(), format.hi())));
  }
}

void KeepColumns(QuantizedLinear& q, const std::vector<int32_t>& columns) {
  q.num_kept = static_cast<int64_t>(columns.size());
  q.kept_columns = columns;
  for (int64_t row = 0; row < q.n; ++row) {
    for (const int32_t column : columns) {
      const int64_t scale = row * q.num_groups() + (q.group > 0 ? column / q.group : 0);
      q.codes[Size(row * q.k + column)] = q.zeros.empty() ? int8_t{0} : q.zeros[Size(scale)];
      q.kept_weight_bf16.push_back(FloatToBf16(0.25f + static_cast<float>(row % 8) / 16));
    }
  }
}

void KeepWeight(QuantizedLinear& q, int32_t row, int32_t column, float value) {
  const int64_t scale = row * q.num_groups() + (q.group > 0 ? column / q.group : 0);
  q.codes[Size(row * q.k + column)] = q.zeros.empty() ? int8_t{0} : q.zeros[Size(scale)];
  q.supers.push_back({row, column, value});
  q.num_super = static_cast<int64_t>(q.supers.size());
}

void WriteNative(const CheckpointReader& base, const std::string& path, const Fill& fill,
                 const NativeExtras& extras) {
  NativeInfo info;
  info.architecture = base.graph().config.architecture;
  info.base_fingerprint = Sha256Hex(path);
  std::vector<QuantizedLinear> linears;
  std::set<std::string> modules;
  for (const Node& node : base.graph().nodes) {
    if (node.op != Op::kLinear || base.Find(node.module + ".weight") == nullptr) continue;
    linears.push_back(FloatLinear(base, node));
    fill(linears.back());
    info.linears.push_back(linears.back());
    modules.insert(node.module);
  }
  if (extras.info) extras.info(info);
  std::vector<SafetensorsWriter::Spec> plain;
  for (const StoredTensor& t : base.tensors()) {
    if (modules.count(t.name.substr(0, t.name.rfind('.'))) == 0) {
      plain.push_back({t.name, DType::kF32, t.shape});
    }
  }
  auto writer = NativeWriter::Create(path, info, plain, base.config_json(), extras.side_files, {});
  REQUIRE(writer.status() == absl::OkStatus());
  for (const QuantizedLinear& linear : linears) REQUIRE((*writer)->WriteLinear(linear) == absl::OkStatus());
  for (const auto& spec : plain)
    REQUIRE((*writer)->WriteTensor(spec.name, base.ReadF32(spec.name)->view()).ok());
  REQUIRE((*writer)->WritePrefix(extras.prefix) == absl::OkStatus());
  REQUIRE((*writer)->Commit() == absl::OkStatus());
}

std::unique_ptr<ExportSource> Native(const CheckpointReader& base, const std::string& path, const Fill& fill,
                                     const NativeExtras& extras) {
  WriteNative(base, path, fill, extras);
  auto source = ExportSource::Open(path);
  REQUIRE(source.status() == absl::OkStatus());
  return *std::move(source);
}

std::string ForeignFixture(const std::string& name) { return SPIKEFOLD_TEST_DATA "/foreign/" + name; }

std::unique_ptr<ExportSource> NativeOfForeign(const std::string& name, const std::string& path) {
  const auto base = CheckpointReader::Open(ForeignFixture(name));
  const auto model = SafetensorsModel::Open(ForeignFixture(name));
  REQUIRE(base.ok());
  REQUIRE(model.ok());
  return Native(**base, path, [&](QuantizedLinear& q) {
    if ((*model)->Find(q.module + ".qweight") != nullptr) {
      FillFromGptq(**model, q, name == "gptq" ? 4 : 8, name == "gptq_v2");
    } else if ((*model)->Find(q.module + ".weight_scale") != nullptr) {
      FillFromCompressed(**model, q);
    }
  });
}

void CheckSameValues(const ExportSource& source, const CheckpointReader& reader,
                     const std::vector<std::string>& rounded) {
  for (const ExportWeight& w : source.weights()) {
    INFO(w.weight_name());
    const auto ours = source.ReadWeight(w), theirs = reader.ReadF32(w.weight_name());
    REQUIRE(theirs.status() == absl::OkStatus());
    REQUIRE(ours->shape() == theirs->shape());
    if (std::find(rounded.begin(), rounded.end(), w.node.module) != rounded.end()) {
      CHECK(RelativeError(ours->as<float>(), theirs->as<float>()) > 0);
      continue;
    }
    CHECK(std::memcmp(ours->data(), theirs->data(), Size(ours->num_bytes())) == 0);
  }
}

const ExportedTensor& TensorOf(const ExportReport& report, const std::string& module) {
  const auto it = std::find_if(report.tensors.begin(), report.tensors.end(),
                               [&](const ExportedTensor& t) { return t.name == module + ".weight"; });
  INFO(module);
  REQUIRE(it != report.tensors.end());
  return *it;
}

bool HasLoss(const ExportReport& report, const std::string& what) {
  return std::any_of(report.losses.begin(), report.losses.end(),
                     [&](const ExportLoss& loss) { return loss.what == what; });
}

const ExportLoss& LossOf(const ExportReport& report, const std::string& what) {
  INFO(what);
  REQUIRE(HasLoss(report, what));
  return *std::find_if(report.losses.begin(), report.losses.end(),
                       [&](const ExportLoss& loss) { return loss.what == what; });
}

}  // namespace spikefold::export_kit
