// Finds literal strings (special and added tokens) in text before anything else happens to it.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"

namespace spikefold::tok {

class LiteralMatcher {
 public:
  struct Fragment {
    size_t begin, end;   // bytes of the text
    int32_t value = -1;  // what Add() was given; -1: ordinary text
  };

  void Add(std::string literal, int32_t value);  // empty literals are ignored
  void Build();                                  // after the last Add
  bool empty() const { return literals_.empty(); }

  // llama.cpp's rule: literals from the longest to the shortest (equally long ones in the order of Add), each
  // taking all its occurrences in the text that is still free.
  std::vector<Fragment> PartitionLongestFirst(absl::string_view text) const;
  // The rule of the `tokenizers` library: from left to right, the longest literal at each position. Returns
  // the matches only.
  std::vector<Fragment> MatchLeftmostLongest(absl::string_view text) const;

 private:
  struct Literal {
    std::string text;
    int32_t value;
    int32_t order;
  };
  // Calls visit(index) for every literal that is a prefix of text[pos..], shortest first.
  template <typename Visit>
  void ForEachPrefix(absl::string_view text, size_t pos, const Visit& visit) const;

  std::vector<Literal> literals_;                      // sorted by text
  std::vector<std::pair<int32_t, int32_t>> by_first_;  // [256] range in literals_
};

}  // namespace spikefold::tok
