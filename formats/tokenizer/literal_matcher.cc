#include "formats/tokenizer/literal_matcher.h"

#include <algorithm>

namespace spikefold::tok {

void LiteralMatcher::Add(std::string literal, int32_t value) {
  if (literal.empty()) return;
  literals_.push_back({std::move(literal), value, static_cast<int32_t>(literals_.size())});
}

void LiteralMatcher::Build() {
  std::sort(literals_.begin(), literals_.end(), [](const Literal& a, const Literal& b) {
    return a.text != b.text ? a.text < b.text : a.order < b.order;
  });
  by_first_.assign(256, {0, 0});
  for (int32_t i = 0; i < static_cast<int32_t>(literals_.size()); ++i) {
    auto& [begin, end] = by_first_[static_cast<uint8_t>(literals_[i].text[0])];
    if (begin == end) begin = i;
    end = i + 1;
  }
}

template <typename Visit>
void LiteralMatcher::ForEachPrefix(absl::string_view text, size_t pos, const Visit& visit) const {
  auto [begin, end] = by_first_[static_cast<uint8_t>(text[pos])];
  for (size_t depth = 1; begin < end; ++depth) {
    // All of [begin, end) agree with the text in their first `depth` bytes; shorter ones sort first.
    for (; begin < end && literals_[begin].text.size() == depth; ++begin) visit(begin);
    if (pos + depth >= text.size()) return;
    const auto byte = static_cast<uint8_t>(text[pos + depth]);
    const auto at = [depth](const Literal& l) { return static_cast<uint8_t>(l.text[depth]); };
    const auto first = literals_.begin();
    begin = static_cast<int32_t>(
        std::partition_point(first + begin, first + end, [&](const Literal& l) { return at(l) < byte; }) -
        first);
    end = static_cast<int32_t>(
        std::partition_point(first + begin, first + end, [&](const Literal& l) { return at(l) <= byte; }) -
        first);
  }
}

std::vector<LiteralMatcher::Fragment> LiteralMatcher::PartitionLongestFirst(absl::string_view text) const {
  std::vector<Fragment> fragments;
  if (text.empty()) return fragments;
  fragments.push_back({0, text.size(), -1});
  if (literals_.empty()) return fragments;
  std::vector<bool> present(literals_.size());
  for (size_t pos = 0; pos < text.size(); ++pos) {
    ForEachPrefix(text, pos, [&](int32_t i) { present[i] = true; });
  }
  std::vector<const Literal*> literals;
  for (size_t i = 0; i < literals_.size(); ++i) {
    if (present[i]) literals.push_back(&literals_[i]);
  }
  std::sort(literals.begin(), literals.end(), [](const Literal* a, const Literal* b) {
    return a->text.size() != b->text.size() ? a->text.size() > b->text.size() : a->order < b->order;
  });
  std::vector<Fragment> refined;
  for (const Literal* literal : literals) {
    refined.clear();
    for (const Fragment& fragment : fragments) {
      size_t begin = fragment.begin;
      while (fragment.value < 0) {
        const size_t found = text.substr(0, fragment.end).find(literal->text, begin);
        if (found == absl::string_view::npos) break;
        if (found > begin) refined.push_back({begin, found, -1});
        begin = found + literal->text.size();
        refined.push_back({found, begin, literal->value});
      }
      if (begin < fragment.end) refined.push_back({begin, fragment.end, fragment.value});
    }
    fragments.swap(refined);
  }
  return fragments;
}

std::vector<LiteralMatcher::Fragment> LiteralMatcher::MatchLeftmostLongest(absl::string_view text) const {
  std::vector<Fragment> matches;
  if (literals_.empty()) return matches;
  for (size_t pos = 0; pos < text.size();) {
    int32_t longest = -1;
    ForEachPrefix(text, pos, [&](int32_t i) {
      if (longest < 0 || literals_[i].text.size() > literals_[longest].text.size()) longest = i;
    });
    if (longest < 0) {
      ++pos;
      continue;
    }
    const size_t end = pos + literals_[longest].text.size();
    matches.push_back({pos, end, literals_[longest].value});
    pos = end;
  }
  return matches;
}

}  // namespace spikefold::tok
