// The frozen texts and ids of the tokenizer tests (tests/data/tokenizer, made by
// tests/data/make/tokenizer_*).
#pragma once

#include <catch2/catch.hpp>
#include <cstring>
#include <string>
#include <vector>

#include "formats/base/file.h"
#include "formats/base/hash.h"
#include "formats/base/json.h"
#include "formats/base/utf8.h"
#include "formats/gguf.h"
#include "formats/tokenizer.h"

namespace spikefold {

inline std::string TokenizerData(const std::string& name) { return SPIKEFOLD_TEST_DATA "/tokenizer/" + name; }

template <typename T>
T Value(absl::StatusOr<T> value) {
  INFO(value.status().ToString());
  REQUIRE(value.ok());
  return std::move(value).value();
}

inline std::string ReadAll(const std::string& path) { return Value(ReadFileToString(path, 1 << 26)); }
inline Json ReadJson(const std::string& path) { return Value(ParseJson(ReadAll(path), path)); }

// The adversarial strings: 1,800 of valid UTF-8, then 200 others.
inline std::vector<std::string> AdversarialStrings() {
  const std::string all = ReadAll(TokenizerData("strings.bin"));
  std::vector<std::string> strings;
  for (size_t pos = 0; pos < all.size();) {
    uint32_t bytes = 0;
    std::memcpy(&bytes, &all[pos], 4);
    strings.push_back(all.substr(pos + 4, bytes));
    pos += 4 + bytes;
  }
  return strings;
}

// Of the stream that the oracles wrote: for each text i32 count, i32 ids, little-endian.
struct IdStream {
  int64_t ids = 0;
  std::string sha256;
};
inline IdStream EncodeAll(const Tokenizer& tokenizer, const std::vector<std::string>& texts,
                          bool parse_special) {
  Sha256 sha;
  IdStream stream;
  for (const std::string& text : texts) {
    std::vector<int32_t> ids = Value(tokenizer.Encode(text, {.parse_special = parse_special}));
    stream.ids += static_cast<int64_t>(ids.size());
    ids.insert(ids.begin(), static_cast<int32_t>(ids.size()));
    sha.Update(absl::MakeConstSpan(reinterpret_cast<const char*>(ids.data()), ids.size() * sizeof(int32_t)));
  }
  stream.sha256 = sha.Hex();
  return stream;
}

inline std::vector<int32_t> Ids(const Json& array) {
  std::vector<int32_t> ids;
  for (const Json& id : array.array()) ids.push_back(static_cast<int32_t>(id.int_value()));
  return ids;
}

// `expected` is {"ids": count, "sha256": ...}.
inline void CheckStream(const IdStream& stream, const Json& expected) {
  CHECK(stream.ids == expected.Find("ids")->int_value());
  CHECK(stream.sha256 == expected.Find("sha256")->string_value());
}

// A family's row of expected_*.json. The shown strings come first: they tell more when they fail.
inline void CheckFamily(const Tokenizer& tokenizer, const Json& row,
                        const std::vector<std::string>& strings) {
  for (const Json& shown : row.Find("shown")->array()) {
    const std::string& text = shown.array()[0].string_value();
    INFO(text);
    CHECK(Value(tokenizer.Encode(text, {.parse_special = true})) == Ids(shown.array()[1]));
  }
  CheckStream(EncodeAll(tokenizer, strings, false), *row.Find("plain"));
  CheckStream(EncodeAll(tokenizer, strings, true), *row.Find("parsed"));
}

inline std::unique_ptr<Tokenizer> GgufTokenizerOf(const std::string& path) {
  return Value(Tokenizer::FromGguf(*Value(GgufFile::Open(path))));
}

}  // namespace spikefold
