// Byte pair encoding with ranked merges: the lowest rank first, the leftmost on ties.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace spikefold::tok {

class BpeModel {
 public:
  struct Options {
    bool byte_level = false;     // tokens are spelt in ByteAlphabet(); pieces are raw bytes
    bool ignore_merges = false;  // a piece that is a token is that token
    bool byte_fallback = false;  // unknown characters become <0xXX> tokens
    bool fuse_unk = false;       // neighbouring unknown characters become one unknown token
    int32_t unk_id = -1;         // -1: unknown characters vanish
    // An unknown character that vanishes keeps its neighbours from merging (llama.cpp) or not (`tokenizers`).
    bool unknown_is_barrier = false;
  };
  using Merge = std::pair<std::string, std::string>;

  // `tokens[id]`; ids without a token are empty strings. Of a merge listed twice the first counts, or
  // (last_wins) the last. DataLoss naming `where` for merges of unknown tokens.
  absl::Status Init(const std::vector<std::string>& tokens, const std::vector<Merge>& merges, bool last_wins,
                    const Options& options, absl::string_view where);

  // Appends the ids of one piece. O(n log n) in its length.
  void EncodePiece(absl::string_view piece, std::vector<int32_t>* out) const;

 private:
  struct Rule {
    int32_t rank, id;
  };
  absl::Status AddMerge(const Merge& merge, int32_t rank, bool last_wins, absl::string_view where);
  void AppendSymbols(absl::string_view piece, std::vector<int32_t>* symbols) const;
  void AppendMerged(const std::vector<int32_t>& symbols, std::vector<int32_t>* out) const;

  Options options_;
  absl::flat_hash_map<std::string, int32_t> index_;  // token text -> id
  absl::flat_hash_map<std::string, int32_t> whole_;  // raw bytes -> id, for ignore_merges at byte level
  absl::flat_hash_map<uint64_t, Rule> merges_;       // left id << 32 | right id
  int32_t byte_ids_[256];                            // byte_level: its character's id; else <0xXX>'s; or -1
};

// Remembers the ids of short pieces during one call: text repeats its words.
class PieceCache {
 public:
  // Runs encode(piece, out), or copies what it gave for the same piece before.
  template <typename Encode>
  void Append(absl::string_view piece, std::vector<int32_t>* out, const Encode& encode) {
    if (piece.size() > kMaxBytes || map_.size() >= kMaxEntries) return encode(piece, out);
    const auto [it, is_new] = map_.try_emplace(piece);
    if (is_new) {
      it->second.first = static_cast<uint32_t>(ids_.size());
      encode(piece, &ids_);
      it->second.second = static_cast<uint32_t>(ids_.size());
    }
    out->insert(out->end(), ids_.begin() + it->second.first, ids_.begin() + it->second.second);
  }

 private:
  static constexpr size_t kMaxBytes = 64, kMaxEntries = 1 << 17;
  absl::flat_hash_map<std::string, std::pair<uint32_t, uint32_t>> map_;  // range in ids_
  std::vector<int32_t> ids_;
};

}  // namespace spikefold::tok
