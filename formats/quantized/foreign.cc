#include "formats/quantized/foreign.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "formats/base/status.h"
#include "formats/base/vector_clones.h"

// Layouts as published: GPTQ's and AWQ's linear layers (AutoGPTQ, GPTQModel, AutoAWQ), compressed_tensors'
// pack-quantized and int-quantized compressors.

namespace spikefold {
namespace {

constexpr int64_t kDefaultGroup = 128;  // of GPTQ's and AWQ's tools

absl::Status NotRead(absl::string_view where, absl::string_view what, absl::string_view allowed) {
  return absl::UnimplementedError(absl::StrCat(where, ": ", what, "; ", allowed, " can be read"));
}

// One code of `bits` bits, number `i` of a sequence of words.
uint32_t CodeAt(const int32_t* words, int64_t stride, int64_t i, int bits) {
  const int64_t per_word = 32 / bits;
  const uint32_t word = static_cast<uint32_t>(words[i / per_word * stride]);
  return word >> (i % per_word * bits) & ((1u << bits) - 1);
}

// Where codes of rows go: row i at codes + i * stride.
struct CodeRows {
  int64_t begin = 0, count = 0;  // of the rows
  int16_t* codes = nullptr;
  int64_t stride = 0;
};
// Of words whose next is a row further on: so many share a cache line.
constexpr int64_t kRowsTogether = 16;

// Rows of `k` codes of kBits bits: word j of row r is words[j * word_stride + r * row_stride]. Rows inside,
// so that each cache line is read once whichever way it lies.
template <int kBits>
void UnpackWords(const int32_t* words, int64_t word_stride, int64_t row_stride, int64_t k,
                 const CodeRows& rows) {
  constexpr int64_t kPerWord = 32 / kBits;
  constexpr uint32_t kMask = (1u << kBits) - 1;
  words += rows.begin * row_stride;
  for (int64_t c = 0; c < k; c += kPerWord, words += word_stride) {
    const int64_t count = std::min(kPerWord, k - c);
    for (int64_t r = 0; r < rows.count; ++r) {
      const uint32_t word = static_cast<uint32_t>(words[r * row_stride]);
      int16_t* to = rows.codes + r * rows.stride + c;
      if (count == kPerWord) {
        for (int64_t i = 0; i < kPerWord; ++i) to[i] = static_cast<int16_t>(word >> (kBits * i) & kMask);
      } else {
        for (int64_t i = 0; i < count; ++i) to[i] = static_cast<int16_t>(word >> (kBits * i) & kMask);
      }
    }
  }
}
void Unpack(int bits, const int32_t* words, int64_t word_stride, int64_t row_stride, int64_t k,
            const CodeRows& rows) {
  if (bits == 2) return UnpackWords<2>(words, word_stride, row_stride, k, rows);
  if (bits == 4) return UnpackWords<4>(words, word_stride, row_stride, k, rows);
  UnpackWords<8>(words, word_stride, row_stride, k, rows);
}

// What all layouts come down to: the codes of some rows, and zeros by (row, group).
struct Grid {
  int64_t n = 0, k = 0, groups = 0;
  int64_t group_size = 0;                  // of columns that follow each other; 0: group_of says
  std::vector<int32_t> group_of;           // [k], only then
  Tensor codes, zeros;                     // as stored, for those functions; zeros may be empty
  Tensor scales;                           // F32
  int64_t scale_row = 0, scale_group = 0;  // strides
};

SF_VECTOR_CLONES void ScaleCodes(const int16_t* codes, int64_t count, int32_t zero, float scale, float* out) {
  for (int64_t i = 0; i < count; ++i) out[i] = scale * static_cast<float>(codes[i] - zero);
}

template <typename Codes, typename Zero>
class GridRows : public WeightRows {
 public:
  GridRows(Grid grid, Codes codes, Zero zero)
      : grid_(std::move(grid)), codes_(std::move(codes)), zero_(std::move(zero)) {}

  absl::Status Read(int64_t begin, int64_t end, float* out) const override {
    const int64_t stride = grid_.k + 32;  // rows that lie a multiple of pages apart would push each other out
    std::vector<int16_t> codes(static_cast<size_t>(kRowsTogether * stride));
    for (int64_t first = begin; first < end; first += kRowsTogether) {
      const int64_t count = std::min(kRowsTogether, end - first);
      codes_(CodeRows{.begin = first, .count = count, .codes = codes.data(), .stride = stride});
      for (int64_t i = 0; i < count; ++i, out += grid_.k) {
        if (grid_.group_size > 0) {
          ScaleRow(first + i, codes.data() + i * stride, out);
        } else {
          ScaleColumns(first + i, codes.data() + i * stride, out);
        }
      }
    }
    return absl::OkStatus();
  }
  int64_t rows_together() const override { return kRowsTogether; }

 private:
  float Scale(int64_t row, int64_t g) const {
    return static_cast<const float*>(grid_.scales.data())[row * grid_.scale_row + g * grid_.scale_group];
  }
  void ScaleRow(int64_t row, const int16_t* codes, float* out) const {
    for (int64_t g = 0; g < grid_.groups; ++g) {
      const int64_t first = g * grid_.group_size, count = std::min(grid_.group_size, grid_.k - first);
      ScaleCodes(codes + first, count, zero_(row, g), Scale(row, g), out + first);
    }
  }
  void ScaleColumns(int64_t row, const int16_t* codes, float* out) const {
    std::vector<int32_t> zeros(static_cast<size_t>(grid_.groups));
    std::vector<float> scales(zeros.size());
    for (int64_t g = 0; g < grid_.groups; ++g) {
      zeros[static_cast<size_t>(g)] = zero_(row, g);
      scales[static_cast<size_t>(g)] = Scale(row, g);
    }
    for (int64_t c = 0; c < grid_.k; ++c) {
      const size_t g = static_cast<size_t>(grid_.group_of[static_cast<size_t>(c)]);
      out[c] = scales[g] * static_cast<float>(codes[c] - zeros[g]);
    }
  }

  const Grid grid_;
  const Codes codes_;
  const Zero zero_;
};
using Rows = std::unique_ptr<WeightRows>;

template <typename Codes, typename Zero>
Rows OpenGrid(Grid grid, Codes codes, Zero zero) {
  return std::make_unique<GridRows<Codes, Zero>>(std::move(grid), std::move(codes), std::move(zero));
}

class Reader {
 public:
  Reader(const ForeignConfig& config, const ForeignParts& parts, absl::string_view module, int64_t n,
         int64_t k)
      : config_(config), parts_(parts), module_(module) {
    grid_.n = n;
    grid_.k = k;
  }

  absl::StatusOr<Rows> Gptq(bool v2) {
    SF_ASSIGN_OR_RETURN(grid_.codes, Words("qweight"));
    const Tensor& codes = grid_.codes;
    SF_ASSIGN_OR_RETURN(const int bits, Bits("qweight", codes.shape(),
                                             [&](int b) { return codes.dim(0) * 32 == grid_.k * b; }));
    SF_RETURN_IF_ERROR(Expect("qweight", codes.shape(), {grid_.k * bits / 32, grid_.n}));
    SF_RETURN_IF_ERROR(GroupsInRows(bits, "g_idx"));
    if (grid_.n * bits % 32 != 0) {
      return Bad("qzeros", absl::StrCat(grid_.n, " rows of ", bits, " bits are no whole words of 32"));
    }
    SF_ASSIGN_OR_RETURN(grid_.zeros, Words("qzeros"));
    SF_RETURN_IF_ERROR(Expect("qzeros", grid_.zeros.shape(), {grid_.groups, grid_.n * bits / 32}));
    const int32_t *w = grid_.zeros.as<int32_t>().data(), *q = codes.as<int32_t>().data();
    const int64_t n = grid_.n, k = grid_.k, row_words = grid_.zeros.dim(1);
    const int32_t top = (1 << bits) - 1;
    return OpenGrid(
        std::move(grid_), [=](const CodeRows& rows) { Unpack(bits, q, n, 1, k, rows); },
        [=](int64_t row, int64_t g) {
          const int32_t stored = static_cast<int32_t>(CodeAt(w + g * row_words, 1, row, bits));
          return v2 ? stored : (stored + 1) & top;
        });
  }

  absl::StatusOr<Rows> Awq() {
    SF_ASSIGN_OR_RETURN(grid_.codes, Words("qweight"));
    SF_RETURN_IF_ERROR(Expect("qweight", grid_.codes.shape(), {grid_.k, grid_.n / 8}));
    if (grid_.n % 8 != 0) return Bad("qweight", absl::StrCat(grid_.n, " rows are no whole words of 8"));
    SF_RETURN_IF_ERROR(GroupsInRows(4, ""));
    SF_ASSIGN_OR_RETURN(grid_.zeros, Words("qzeros"));
    SF_RETURN_IF_ERROR(Expect("qzeros", grid_.zeros.shape(), {grid_.groups, grid_.n / 8}));
    const int32_t *z = grid_.zeros.as<int32_t>().data(), *q = grid_.codes.as<int32_t>().data();
    const int64_t words = grid_.n / 8, k = grid_.k;
    static constexpr int kNibbleOf[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of the eight columns of a word
    const auto nibble = [](const int32_t* from, int64_t row) {
      const uint32_t word = static_cast<uint32_t>(from[row / 8]);
      return static_cast<int32_t>(word >> (4 * kNibbleOf[row % 8]) & 15u);
    };
    return OpenGrid(
        std::move(grid_),
        [=](const CodeRows& rows) {
          for (int64_t c = 0; c < k; ++c) {
            for (int64_t r = 0; r < rows.count; ++r) {
              rows.codes[r * rows.stride + c] = static_cast<int16_t>(nibble(q + c * words, rows.begin + r));
            }
          }
        },
        [=](int64_t row, int64_t g) { return nibble(z + g * words, row); });
  }

  absl::StatusOr<Rows> Compressed() {
    const bool packed = parts_.has("weight_packed");
    if (!packed) return CompressedBytes();
    SF_ASSIGN_OR_RETURN(const Tensor shape, parts_.read("weight_shape"));
    if (shape.dtype() != DType::kI64 || shape.num_elements() != 2 || shape.as<int64_t>()[0] != grid_.n ||
        shape.as<int64_t>()[1] != grid_.k) {
      return Bad("weight_shape", absl::StrCat("is not [", grid_.n, ", ", grid_.k, "]"));
    }
    SF_ASSIGN_OR_RETURN(grid_.codes, Words("weight_packed"));
    const Tensor& codes = grid_.codes;
    SF_ASSIGN_OR_RETURN(const int bits, Bits("weight_packed", codes.shape(), [&](int b) {
                          return codes.dim(1) == (grid_.k + 32 / b - 1) / (32 / b);
                        }));
    SF_RETURN_IF_ERROR(RowScales(bits));
    SF_RETURN_IF_ERROR(Expect("weight_packed", codes.shape(), {grid_.n, codes.dim(1)}));
    if (parts_.has("weight_zero_point")) {
      SF_ASSIGN_OR_RETURN(grid_.zeros, Words("weight_zero_point"));
      const int64_t per_word = 32 / bits;
      SF_RETURN_IF_ERROR(Expect("weight_zero_point", grid_.zeros.shape(),
                                {(grid_.n + per_word - 1) / per_word, grid_.groups}));
    }
    const int32_t* q = codes.as<int32_t>().data();
    const int32_t* z = grid_.zeros.empty() ? nullptr : grid_.zeros.as<int32_t>().data();
    const int64_t words = codes.dim(1), groups = grid_.groups;
    const int64_t k = grid_.k;
    const int32_t middle = 1 << (bits - 1);
    return OpenGrid(
        std::move(grid_), [=](const CodeRows& rows) { Unpack(bits, q, 1, words, k, rows); },
        [=](int64_t row, int64_t g) {
          return z == nullptr ? middle : static_cast<int32_t>(CodeAt(z + g, groups, row, bits));
        });
  }

 private:
  absl::StatusOr<Rows> CompressedBytes() {
    SF_ASSIGN_OR_RETURN(grid_.codes, parts_.read("weight"));
    const Tensor& codes = grid_.codes;
    if (codes.dtype() != DType::kI8) return Bad("weight", "is not I8");
    SF_RETURN_IF_ERROR(Expect("weight", codes.shape(), {grid_.n, grid_.k}));
    SF_RETURN_IF_ERROR(RowScales(kAnyBits));
    Tensor& zeros = grid_.zeros;
    if (parts_.has("weight_zero_point")) {
      SF_ASSIGN_OR_RETURN(zeros, parts_.read("weight_zero_point"));
      if (zeros.dtype() != DType::kI8 || zeros.num_elements() != grid_.scales.num_elements()) {
        return Bad("weight_zero_point", absl::StrCat(ShapeString(zeros.shape()), " is not I8 as the scale"));
      }
    }
    const int8_t* q = codes.as<int8_t>().data();
    const int8_t* z = zeros.empty() ? nullptr : zeros.as<int8_t>().data();
    const int64_t k = grid_.k, by_row = grid_.scale_row, by_group = grid_.scale_group;
    return OpenGrid(
        std::move(grid_),
        [=](const CodeRows& rows) {
          for (int64_t r = 0; r < rows.count; ++r) {
            std::copy_n(q + (rows.begin + r) * k, k, rows.codes + r * rows.stride);
          }
        },
        [=](int64_t row, int64_t g) {
          return z == nullptr ? 0 : static_cast<int32_t>(z[row * by_row + g * by_group]);
        });
  }

  absl::Status Bad(absl::string_view suffix, absl::string_view what) const {
    return absl::DataLossError(absl::StrCat(module_, ".", suffix, ": ", what));
  }
  absl::Status BadBits(absl::string_view suffix, const Shape& shape) const {
    return absl::UnimplementedError(absl::StrCat(module_, ".", suffix, ": ", ShapeString(shape), " for [",
                                                 grid_.n, ", ", grid_.k,
                                                 "] weights; codes of 2, 4 and 8 bits can be read"));
  }
  absl::Status Expect(absl::string_view suffix, const Shape& is, const Shape& needed) const {
    if (is == needed) return absl::OkStatus();
    return Bad(suffix, absl::StrCat("is ", ShapeString(is), "; weights [", grid_.n, ", ", grid_.k,
                                    "] with these scales need ", ShapeString(needed)));
  }

  absl::StatusOr<Tensor> Words(const std::string& suffix) const {
    SF_ASSIGN_OR_RETURN(Tensor t, parts_.read(suffix));
    if (t.dtype() == DType::kI32 && t.shape().size() == 2) return t;
    return Bad(suffix, absl::StrCat("is ", DTypeName(t.dtype()), " ", ShapeString(t.shape()),
                                    "; a matrix of I32 is needed"));
  }
  // The number of bits that the shape and the configuration agree on.
  template <typename Fits>
  absl::StatusOr<int> Bits(absl::string_view suffix, const Shape& shape, const Fits& fits) const {
    int stored = 0;
    for (const int bits : {2, 4, 8}) {
      if (!fits(bits)) continue;
      stored = bits;
      for (const ForeignCodes& c : config_.codes) {
        if (c.bits == bits) return bits;
      }
    }
    if (stored == 0) return BadBits(suffix, shape);
    const auto append = [](std::string* out, const ForeignCodes& c) { absl::StrAppend(out, c.bits); };
    return Bad(suffix, absl::StrCat(ShapeString(shape), " for [", grid_.n, ", ", grid_.k,
                                    "] weights holds codes of ", stored, " bits; the configuration says ",
                                    absl::StrJoin(config_.codes, ", ", append)));
  }

  // The columns of a group: what the configuration says of such codes and the number of groups agrees with.
  absl::StatusOr<int64_t> GroupSize(absl::string_view suffix, int64_t groups, int bits, bool indexed) const {
    const int64_t k = grid_.k;
    int64_t found = 0;
    std::vector<std::string> said;
    for (const ForeignCodes& c : config_.codes) {
      if (bits != kAnyBits && c.bits != bits) continue;
      const int64_t size = c.group_size == 0 ? k : std::min(c.group_size, k);
      const int64_t needed = (k - 1) / size + 1;
      said.push_back(c.group_size == 0 ? "1 a row"
                                       : absl::StrCat(needed, " of ", c.group_size, " columns (group_size",
                                                      c.assumed ? ", by default)" : ")"));
      if (needed != groups || size == found) continue;
      if (c.assumed && !indexed && groups > 1 && k % size != 0) {
        return Bad(suffix, absl::StrCat(groups, " groups of ", k, " columns need not be of ", size,
                                        " each, the default; say group_size in quantization_config"));
      }
      if (found != 0) {
        return Bad(suffix, absl::StrCat(groups, " groups of ", k, " columns may have ", found, " or ", size,
                                        " columns each: the configuration says both"));
      }
      found = size;
    }
    if (found != 0) return found;
    return Bad(suffix, absl::StrCat(groups, " groups of ", k, " columns; the configuration says ",
                                    absl::StrJoin(said, ", or ")));
  }

  absl::StatusOr<Tensor> Scales(const std::string& suffix) const {
    SF_ASSIGN_OR_RETURN(const Tensor raw, parts_.read(suffix));
    if (!IsFloat(raw.dtype())) return Bad(suffix, absl::StrCat("is ", DTypeName(raw.dtype()), ", not float"));
    return ToF32(raw.view());
  }

  // scales [groups, n], and the groups of the columns.
  absl::Status GroupsInRows(int bits, const std::string& index) {
    SF_ASSIGN_OR_RETURN(grid_.scales, Scales("scales"));
    const Shape& shape = grid_.scales.shape();
    if (shape.size() != 2 || shape[1] != grid_.n) {
      return Bad("scales", absl::StrCat("is ", ShapeString(shape), "; rows of ", grid_.n, " are needed"));
    }
    grid_.scale_row = 1;
    grid_.scale_group = grid_.n;
    return AssignGroups("scales", shape[0], bits, index);
  }

  // weight_scale [n, groups], [n, 1], [n], [1] or [].
  absl::Status RowScales(int bits) {
    SF_ASSIGN_OR_RETURN(grid_.scales, Scales("weight_scale"));
    const Shape& shape = grid_.scales.shape();
    const int64_t count = grid_.scales.num_elements();
    if (count == 1 && grid_.n != 1) {
      return AssignGroups("weight_scale", 1, bits, "");  // strides stay 0
    }
    if (shape.empty() || shape.size() > 2 || shape[0] != grid_.n) {
      return Bad("weight_scale",
                 absl::StrCat("is ", ShapeString(shape), "; one row for each of ", grid_.n, " is needed"));
    }
    const int64_t groups = shape.size() == 2 ? shape[1] : 1;
    grid_.scale_row = groups;
    grid_.scale_group = 1;
    return AssignGroups("weight_scale", groups, bits, "weight_g_idx");
  }

  // The last group may be shorter where K is no multiple.
  absl::Status AssignGroups(absl::string_view suffix, int64_t groups, int bits, const std::string& index) {
    const int64_t k = grid_.k;
    if (groups < 1 || groups > k) return Bad(suffix, absl::StrCat(groups, " groups of ", k, " columns"));
    const bool indexed = !index.empty() && parts_.has(index);
    SF_ASSIGN_OR_RETURN(const int64_t size, GroupSize(suffix, groups, bits, indexed));
    grid_.groups = groups;
    grid_.group_size = size;
    if (!indexed) return absl::OkStatus();
    SF_ASSIGN_OR_RETURN(const Tensor ids, parts_.read(index));
    if (ids.dtype() != DType::kI32 || ids.num_elements() != k) {
      return Bad(index, absl::StrCat("is ", DTypeName(ids.dtype()), " ", ShapeString(ids.shape()), "; I32 [",
                                     k, "] is needed"));
    }
    const auto values = ids.as<int32_t>();
    if (std::all_of(values.begin(), values.end(), [](int32_t v) { return v == -1; })) {  // unused
      return absl::OkStatus();
    }
    bool in_order = true;
    for (int64_t c = 0; c < k; ++c) {
      const int32_t g = values[static_cast<size_t>(c)];
      if (g < 0 || g >= groups)
        return Bad(index, absl::StrCat("column ", c, " is of group ", g, " of ", groups));
      in_order = in_order && g == c / size;
    }
    if (in_order) return absl::OkStatus();
    grid_.group_size = 0;
    grid_.group_of.assign(values.begin(), values.end());
    return absl::OkStatus();
  }

  static constexpr int kAnyBits = 0;  // a byte for each code, whatever its width

  const ForeignConfig& config_;
  const ForeignParts& parts_;
  const std::string module_;
  Grid grid_;
};

absl::StatusOr<std::string> Word(const Json& config, absl::string_view key, std::string absent,
                                 absl::string_view where) {
  const Json* value = config.Find(key);
  if (value == nullptr || value->is_null()) return absent;
  SF_ASSIGN_OR_RETURN(const std::string word, config.GetString(key, where));
  return absl::AsciiStrToLower(word);
}

absl::StatusOr<int64_t> Integer(const Json& config, absl::string_view key, int64_t absent,
                                absl::string_view where) {
  const Json* value = config.Find(key);
  if (value == nullptr || value->is_null()) return absent;
  return config.GetInt(key, where);
}

absl::Status AddCodes(int64_t bits, int64_t group_size, absl::string_view where, ForeignConfig& out,
                      bool assumed = false) {
  if (bits != 2 && bits != 4 && bits != 8) {
    return NotRead(where, absl::StrCat("codes of ", bits, " bits"), "2, 4 and 8");
  }
  if (group_size < -1 || group_size == 0) {
    return absl::DataLossError(absl::StrCat(where, ": group_size is ", group_size, "; -1 or at least 1"));
  }
  out.codes.push_back({static_cast<int>(bits), std::max<int64_t>(group_size, 0), assumed});
  return absl::OkStatus();
}

// bits and group_size, and the rules of "dynamic", which may change both for some linears.
absl::StatusOr<ForeignConfig> WithTopLevelCodes(ForeignConfig out, const Json& config,
                                                absl::string_view where) {
  SF_ASSIGN_OR_RETURN(const int64_t bits, config.GetInt("bits", where));
  const auto says = [](const Json& rule) {
    const Json* size = rule.Find("group_size");
    return size != nullptr && !size->is_null();
  };
  SF_ASSIGN_OR_RETURN(const int64_t group_size, Integer(config, "group_size", kDefaultGroup, where));
  SF_RETURN_IF_ERROR(AddCodes(bits, group_size, where, out, !says(config)));
  const Json* dynamic = config.Find("dynamic");
  if (dynamic == nullptr || !dynamic->is_object()) return out;
  for (const auto& [pattern, rule] : dynamic->object()) {
    if (absl::StartsWith(pattern, "-:")) continue;  // float linears
    SF_ASSIGN_OR_RETURN(const int64_t rule_bits, Integer(rule, "bits", bits, where));
    SF_ASSIGN_OR_RETURN(const int64_t rule_group, Integer(rule, "group_size", group_size, where));
    SF_RETURN_IF_ERROR(AddCodes(rule_bits, rule_group, where, out, !says(config) && !says(rule)));
  }
  return out;
}

absl::Status AddWeightArguments(const Json& weights, absl::string_view where, ForeignConfig& out) {
  SF_ASSIGN_OR_RETURN(const std::string type, Word(weights, "type", "int", where));
  if (type != "int") return NotRead(where, absl::StrCat("weights of type \"", Printable(type), "\""), "int");
  SF_ASSIGN_OR_RETURN(const int64_t bits, Integer(weights, "num_bits", 8, where));
  SF_ASSIGN_OR_RETURN(const int64_t group_size, Integer(weights, "group_size", -1, where));
  SF_ASSIGN_OR_RETURN(const std::string strategy,
                      Word(weights, "strategy", group_size > 0 ? "group" : "channel", where));
  if (strategy == "channel" || strategy == "tensor") return AddCodes(bits, -1, where, out);
  if (strategy == "group") return AddCodes(bits, group_size, where, out);
  return NotRead(where, absl::StrCat("weight strategy \"", Printable(strategy), "\""),
                 "group, channel and tensor");
}

bool IsNothing(const Json* value) {
  if (value == nullptr || value->is_null()) return true;
  if (value->is_array()) return value->array().empty();
  if (!value->is_object()) return false;
  return std::all_of(value->object().begin(), value->object().end(),
                     [](const Json::Member& m) { return IsNothing(&m.second); });
}

absl::StatusOr<ForeignConfig> WithConfigGroups(ForeignConfig out, const Json& config,
                                               absl::string_view where) {
  if (!IsNothing(config.Find("transform_config"))) {
    return NotRead(where, "transform_config turns activations while the model runs",
                   "compressed-tensors models without it");
  }
  const Json* groups = config.Find("config_groups");
  if (groups == nullptr || !groups->is_object()) return out;
  for (const auto& [name, group] : groups->object()) {
    if (!group.is_object()) {
      return NotRead(where, absl::StrCat("config group \"", Printable(name), "\" by a preset's name"),
                     "groups that are written out");
    }
    const Json* weights = group.Find("weights");
    if (weights == nullptr || weights->is_null()) continue;
    SF_RETURN_IF_ERROR(AddWeightArguments(*weights, where, out));
  }
  return out;
}

}  // namespace

absl::StatusOr<ForeignConfig> ParseForeignConfig(const Json& config, absl::string_view where) {
  SF_ASSIGN_OR_RETURN(const std::string method, Word(config, "quant_method", "", where));
  if (method == "gptq") {
    SF_ASSIGN_OR_RETURN(const std::string format, Word(config, "checkpoint_format", "gptq", where));
    if (format == "gptq") return WithTopLevelCodes({ForeignLayout::kGptq, "GPTQ", {}}, config, where);
    if (format == "gptq_v2") {
      return WithTopLevelCodes({ForeignLayout::kGptqV2, "GPTQ v2", {}}, config, where);
    }
    return NotRead(where, absl::StrCat("checkpoint_format \"", Printable(format), "\""), "gptq and gptq_v2");
  }
  if (method == "awq") {
    SF_ASSIGN_OR_RETURN(const std::string version, Word(config, "version", "gemm", where));
    if (version == "gemm") {
      SF_ASSIGN_OR_RETURN(const int64_t bits, config.GetInt("bits", where));
      if (bits != 4) return NotRead(where, absl::StrCat("AWQ with codes of ", bits, " bits"), "4");
      return WithTopLevelCodes({ForeignLayout::kAwq, "AWQ", {}}, config, where);
    }
    return NotRead(where, absl::StrCat("AWQ version \"", Printable(version), "\""), "gemm");
  }
  if (method == "compressed-tensors") {
    SF_ASSIGN_OR_RETURN(const std::string format, Word(config, "format", "", where));
    for (const char* known : {"pack-quantized", "int-quantized", "mixed-precision", "dense"}) {
      if (format != known) continue;
      return WithConfigGroups({ForeignLayout::kCompressedTensors, "compressed-tensors", {}}, config, where);
    }
    return NotRead(where, absl::StrCat("compressed-tensors format \"", Printable(format), "\""),
                   "pack-quantized, int-quantized and mixed-precision");
  }
  return NotRead(
      where,
      absl::StrCat("is quantized by ",
                   method.empty() ? "an unnamed method" : absl::StrCat("\"", Printable(method), "\"")),
      "spikefold, gptq, awq, compressed-tensors and unquantized models");
}

const std::vector<std::string>& ForeignSuffixes(ForeignLayout layout) {
  static const auto* const kWords = new std::vector<std::string>{"qweight"};
  static const auto* const kCompressed = new std::vector<std::string>{"weight_packed", "weight"};
  return layout == ForeignLayout::kCompressedTensors ? *kCompressed : *kWords;
}

absl::StatusOr<std::unique_ptr<WeightRows>> OpenForeign(const ForeignConfig& config,
                                                        const ForeignParts& parts, absl::string_view module,
                                                        int64_t n, int64_t k) {
  Reader reader(config, parts, module, n, k);
  switch (config.layout) {
    case ForeignLayout::kGptq:
    case ForeignLayout::kGptqV2:
      return reader.Gptq(config.layout == ForeignLayout::kGptqV2);
    case ForeignLayout::kAwq:
      return reader.Awq();
    case ForeignLayout::kCompressedTensors:
      return reader.Compressed();
  }
  return absl::InternalError("an unknown layout");
}

absl::StatusOr<Tensor> DequantizeForeign(const ForeignConfig& config, const ForeignParts& parts,
                                         absl::string_view module, int64_t n, int64_t k) {
  SF_ASSIGN_OR_RETURN(const std::unique_ptr<WeightRows> rows, OpenForeign(config, parts, module, n, k));
  Tensor out(DType::kF32, {n, k});
  SF_RETURN_IF_ERROR(rows->Read(0, n, out.as<float>().data()));
  return out;
}

}  // namespace spikefold
