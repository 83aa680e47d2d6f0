#include "formats/tokenizer/spm.h"

#include <algorithm>
#include <queue>

#include "formats/tokenizer/utf8.h"

namespace spikefold::tok {
namespace {

struct Symbol {
  uint32_t begin, bytes;  // 0 bytes: merged into its left neighbour
  int32_t previous, next;
};

struct Candidate {
  float score;
  int32_t left, right;
  uint32_t bytes;                                 // of both when it was found; stale if they have changed
  bool operator<(const Candidate& other) const {  // std::priority_queue gives the greatest first
    return score != other.score ? score < other.score : left > other.left;
  }
};

size_t SymbolBytes(absl::string_view text, size_t pos) {
  return std::min<size_t>(AnnouncedUtf8Length(text[pos]), text.size() - pos);
}

uint32_t Pack(absl::string_view symbol) {  // at most four bytes; shorter ones cannot collide with longer ones
  uint32_t packed = 0;                     // because a first byte above 0x7F announces the length
  for (const char c : symbol) packed = packed << 8 | static_cast<uint8_t>(c);
  return packed;
}

}  // namespace

void SpmModel::Init(const std::vector<std::string>& tokens, const std::vector<float>& scores,
                    const std::array<int32_t, 256>& byte_ids) {
  byte_ids_ = byte_ids;
  index_.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    const absl::string_view text = tokens[id];
    index_.emplace(text, Token{static_cast<int32_t>(id), scores[id]});
    max_token_bytes_ = std::max(max_token_bytes_, text.size());
    uint64_t previous = 0;
    for (size_t pos = 0; pos < text.size();) {
      const size_t bytes = SymbolBytes(text, pos);
      const uint64_t symbol = Pack(text.substr(pos, bytes));
      if (pos > 0) inner_pairs_.insert(previous << 32 | symbol);
      previous = symbol;
      pos += bytes;
    }
  }
}

void SpmModel::Encode(absl::string_view text, PieceCache* cache, std::vector<int32_t>* out) const {
  size_t begin = 0;
  uint64_t previous = 0;
  const auto flush = [&](size_t end) {
    if (end == begin) return;
    cache->Append(
        text.substr(begin, end - begin), out,
        [this](absl::string_view segment, std::vector<int32_t>* ids) { EncodeSegment(segment, ids); });
    begin = end;
  };
  for (size_t pos = 0; pos < text.size();) {
    const size_t bytes = SymbolBytes(text, pos);
    const uint64_t symbol = Pack(text.substr(pos, bytes));
    if (pos > 0 && !inner_pairs_.contains(previous << 32 | symbol)) flush(pos);
    previous = symbol;
    pos += bytes;
  }
  flush(text.size());
}

const SpmModel::Token* SpmModel::Find(absl::string_view text) const {
  if (text.size() > max_token_bytes_) return nullptr;
  const auto it = index_.find(text);
  return it == index_.end() ? nullptr : &it->second;
}

void SpmModel::EncodeSegment(absl::string_view text, std::vector<int32_t>* out) const {
  std::vector<Symbol> chain;
  for (size_t pos = 0; pos < text.size();) {
    const size_t bytes = SymbolBytes(text, pos);
    const auto index = static_cast<int32_t>(chain.size());
    chain.push_back({static_cast<uint32_t>(pos), static_cast<uint32_t>(bytes), index - 1, index + 1});
    pos += bytes;
  }
  chain.back().next = -1;
  std::priority_queue<Candidate> queue;
  const auto consider = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const uint32_t bytes = chain[left].bytes + chain[right].bytes;
    if (const Token* token = Find(text.substr(chain[left].begin, bytes))) {
      queue.push({token->score, left, right, bytes});
    }
  };
  for (int32_t i = 1; i < static_cast<int32_t>(chain.size()); ++i) consider(i - 1, i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol &left = chain[best.left], &right = chain[best.right];
    if (left.bytes == 0 || right.bytes == 0 || left.bytes + right.bytes != best.bytes) continue;
    left.bytes = best.bytes;
    right.bytes = 0;
    left.next = right.next;
    if (right.next >= 0) chain[right.next].previous = best.left;
    consider(left.previous, best.left);
    consider(best.left, left.next);
  }
  for (int32_t i = 0; i >= 0; i = chain[i].next) {
    const absl::string_view symbol = text.substr(chain[i].begin, chain[i].bytes);
    if (const Token* token = Find(symbol)) {
      out->push_back(token->id);
    } else {
      for (const char c : symbol) out->push_back(byte_ids_[static_cast<uint8_t>(c)]);
    }
  }
}

}  // namespace spikefold::tok
