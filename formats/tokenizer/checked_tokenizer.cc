#include "formats/tokenizer/checked_tokenizer.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "formats/base/status.h"

namespace spikefold {
namespace {

class Checked : public Tokenizer {
 public:
  Checked(std::unique_ptr<Tokenizer> base, int64_t vocab, std::string where)
      : base_(std::move(base)), vocab_(vocab), where_(std::move(where)) {}

  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text,
                                              const EncodeOptions& options) const override {
    SF_ASSIGN_OR_RETURN(std::vector<int32_t> ids, base_->Encode(text, options));
    for (const int32_t id : ids) {
      if (id < vocab_) continue;
      return absl::DataLossError(absl::StrCat(Printable(where_, 1024), ": its tokenizer makes token ", id,
                                              ", \"", Printable(base_->TokenText(id)),
                                              "\", but its embedding has ", vocab_,
                                              " rows; take tokenizer and weights of one model"));
    }
    return ids;
  }
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const override {
    return base_->Decode(ids, skip_special);
  }
  int64_t vocab_size() const override { return base_->vocab_size(); }
  std::string TokenText(int32_t id) const override { return base_->TokenText(id); }
  int32_t bos_id() const override { return base_->bos_id(); }
  int32_t eos_id() const override { return base_->eos_id(); }
  bool add_bos() const override { return base_->add_bos(); }
  bool is_special(int32_t id) const override { return base_->is_special(id); }
  std::string fingerprint() const override { return base_->fingerprint(); }

 private:
  std::unique_ptr<Tokenizer> base_;
  int64_t vocab_;
  std::string where_;
};

}  // namespace

std::unique_ptr<Tokenizer> CheckedTokenizer(std::unique_ptr<Tokenizer> tokenizer, int64_t vocab,
                                            std::string where) {
  return std::make_unique<Checked>(std::move(tokenizer), vocab, std::move(where));
}

}  // namespace spikefold
