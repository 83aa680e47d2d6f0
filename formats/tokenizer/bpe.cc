#include "formats/tokenizer/bpe.h"

#include <queue>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "formats/base/json.h"
#include "formats/base/status.h"
#include "formats/base/utf8.h"
#include "formats/tokenizer/byte_alphabet.h"

namespace spikefold::tok {
namespace {

constexpr int32_t kBarrier = -1, kDead = -2;

uint64_t PairKey(int32_t left, int32_t right) {
  return static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32 | static_cast<uint32_t>(right);
}

struct Symbol {
  int32_t id;
  int32_t previous, next;  // -1: none
};

struct Candidate {
  int32_t rank;
  int32_t position;     // of the left symbol
  int32_t left, right;  // ids when it was found; stale if they have changed
  int32_t id;
  bool operator<(const Candidate& other) const {  // std::priority_queue gives the greatest first
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

}  // namespace

absl::Status BpeModel::Init(const std::vector<std::string>& tokens, const std::vector<Merge>& merges,
                            bool last_wins, const Options& options, absl::string_view where) {
  options_ = options;
  index_.reserve(tokens.size());
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (tokens[id].empty()) continue;
    index_.emplace(tokens[id], static_cast<int32_t>(id));
    if (!options.byte_level || !options.ignore_merges) continue;
    if (auto bytes = BytesFromAlphabet(tokens[id])) whole_.emplace(*bytes, static_cast<int32_t>(id));
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto it =
        index_.find(options.byte_level ? ByteAlphabet()[byte] : absl::StrFormat("<0x%02X>", byte));
    byte_ids_[byte] = it == index_.end() ? -1 : it->second;
  }
  merges_.reserve(merges.size());
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    SF_RETURN_IF_ERROR(AddMerge(merges[rank], static_cast<int32_t>(rank), last_wins, where));
  }
  return absl::OkStatus();
}

absl::Status BpeModel::AddMerge(const Merge& merge, int32_t rank, bool last_wins, absl::string_view where) {
  int32_t ids[3];
  const std::string texts[3] = {merge.first, merge.second, merge.first + merge.second};
  for (int i = 0; i < 3; ++i) {
    const auto it = index_.find(texts[i]);
    if (it == index_.end()) {
      return absl::DataLossError(absl::StrCat(where, "[", rank, "]: \"", Printable(merge.first), " ",
                                              Printable(merge.second), "\" needs the token \"",
                                              Printable(texts[i]), "\", which is not in the vocabulary"));
    }
    ids[i] = it->second;
  }
  const auto [it, is_new] = merges_.try_emplace(PairKey(ids[0], ids[1]), Rule{rank, ids[2]});
  if (!is_new && last_wins) it->second.rank = rank;
  return absl::OkStatus();
}

void BpeModel::EncodePiece(absl::string_view piece, std::vector<int32_t>* out) const {
  if (options_.ignore_merges) {
    const auto& whole = options_.byte_level ? whole_ : index_;
    if (const auto it = whole.find(piece); it != whole.end()) {
      out->push_back(it->second);
      return;
    }
  }
  std::vector<int32_t> symbols;
  symbols.reserve(piece.size());
  AppendSymbols(piece, &symbols);
  AppendMerged(symbols, out);
}

void BpeModel::AppendSymbols(absl::string_view piece, std::vector<int32_t>* symbols) const {
  bool pending_unk = false;
  for (size_t pos = 0; pos < piece.size();) {
    const size_t bytes = options_.byte_level ? 1 : NextUtf8(piece.substr(pos)).bytes;
    const absl::string_view text = piece.substr(pos, bytes);
    pos += bytes;
    int32_t id = -1;
    if (options_.byte_level) {
      id = byte_ids_[static_cast<uint8_t>(text[0])];
    } else if (const auto it = index_.find(text); it != index_.end()) {
      id = it->second;
    }
    if (id >= 0) {
      if (pending_unk) symbols->push_back(options_.unk_id);
      pending_unk = false;
      symbols->push_back(id);
      continue;
    }
    if (options_.byte_fallback && !options_.byte_level) {
      bool complete = true;
      for (const char c : text) complete = complete && byte_ids_[static_cast<uint8_t>(c)] >= 0;
      if (complete) {  // a pending unknown stays pending, as in the `tokenizers` library
        for (const char c : text) symbols->push_back(byte_ids_[static_cast<uint8_t>(c)]);
        continue;
      }
    }
    if (options_.unk_id >= 0) {
      if (pending_unk && !options_.fuse_unk) symbols->push_back(options_.unk_id);
      pending_unk = true;
    } else if (options_.unknown_is_barrier) {
      symbols->push_back(kBarrier);
    }
  }
  if (pending_unk) symbols->push_back(options_.unk_id);
}

void BpeModel::AppendMerged(const std::vector<int32_t>& symbols, std::vector<int32_t>* out) const {
  const auto n = static_cast<int32_t>(symbols.size());
  std::vector<Symbol> chain(n);
  for (int32_t i = 0; i < n; ++i) chain[i] = {symbols[i], i - 1, i + 1 < n ? i + 1 : -1};
  std::vector<Candidate> storage;
  storage.reserve(n);
  std::priority_queue<Candidate> queue(std::less<Candidate>(), std::move(storage));
  const auto consider = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const auto it = merges_.find(PairKey(chain[left].id, chain[right].id));
    if (it != merges_.end()) {
      queue.push({it->second.rank, left, chain[left].id, chain[right].id, it->second.id});
    }
  };
  for (int32_t i = 1; i < n; ++i) consider(i - 1, i);
  while (!queue.empty()) {
    const Candidate best = queue.top();
    queue.pop();
    Symbol& left = chain[best.position];
    if (left.id != best.left || left.next < 0) continue;
    Symbol& right = chain[left.next];
    if (right.id != best.right) continue;
    left.id = best.id;
    right.id = kDead;
    left.next = right.next;
    if (right.next >= 0) chain[right.next].previous = best.position;
    consider(left.previous, best.position);
    consider(best.position, left.next);
  }
  for (const Symbol& symbol : chain) {
    if (symbol.id >= 0) out->push_back(symbol.id);
  }
}

}  // namespace spikefold::tok
