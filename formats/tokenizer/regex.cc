#include "formats/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <string>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "formats/base/status.h"
#include "formats/base/utf8.h"
#include "formats/tokenizer/unicode_additions.h"

namespace spikefold::tok {
namespace {

// A pre-tokenizer pattern needs a handful of steps a byte; `(a+)+$` needs 2^n.
constexpr uint32_t kMatchLimit = 20'000'000;
constexpr size_t kMaxPatternBytes = 20'000;
constexpr size_t kJitStackStart = 32 << 10, kJitStackMax = 16 << 20;
constexpr char kWhiteSpace[] =
    R"(\x09-\x0D\x20\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";

absl::Status Unsupported(absl::string_view where, absl::string_view pattern, size_t pos,
                         absl::string_view what) {
  return absl::UnimplementedError(
      absl::StrCat(where, ": pattern offset ", pos, ": ", what, " is not supported in \"", pattern, "\""));
}

// Rewrites a pattern of Oniguruma's dialect for PCRE2, refusing what the two read differently.
class Translator {
 public:
  Translator(absl::string_view pattern, absl::string_view where) : pattern_(pattern), where_(where) {}

  absl::StatusOr<std::string> Run() {
    while (pos_ < pattern_.size()) {
      const char c = pattern_[pos_];
      absl::Status status;
      if (c == '\\') {
        status = Escape();
      } else if (in_class_) {
        status = InClass(c);
      } else {
        status = Outside(c);
      }
      SF_RETURN_IF_ERROR(status);
    }
    return std::move(out_);
  }

 private:
  absl::string_view Rest() const { return pattern_.substr(pos_); }
  bool StartsWith(absl::string_view prefix) const { return Rest().substr(0, prefix.size()) == prefix; }
  void Copy(size_t bytes) {
    out_.append(pattern_.data() + pos_, bytes);
    pos_ += bytes;
  }
  absl::Status Refuse(absl::string_view what) const { return Unsupported(where_, pattern_, pos_, what); }

  absl::Status Escape() {
    if (pos_ + 1 >= pattern_.size()) {
      return absl::DataLossError(absl::StrCat(where_, ": pattern \"", pattern_, "\" ends in a backslash"));
    }
    const char c = pattern_[pos_ + 1];
    switch (c) {
      case 's':
        absl::StrAppend(&out_, in_class_ ? "" : "[", kWhiteSpace, in_class_ ? "" : "]");
        break;
      case 'S':
        if (in_class_) return Refuse("\\S inside a class");
        absl::StrAppend(&out_, "[^", kWhiteSpace, "]");
        break;
      case 'p':
      case 'P':
        return Property();
      case 'n':
      case 'r':
      case 't':
      case 'd':
      case 'D':  // clang-format off
        out_.append({'\\', c});
        break;  // clang-format on
      default:
        if (absl::ascii_isalnum(static_cast<unsigned char>(c)) || (c & 0x80) != 0) {
          return Refuse(absl::StrCat("\\", pattern_.substr(pos_ + 1, 1)));
        }
        out_.append({'\\', c});
    }
    pos_ += 2;
    return absl::OkStatus();
  }

  absl::Status Property() {
    const size_t close = pattern_.find('}', pos_);
    if (pattern_.substr(pos_ + 2, 1) != "{" || close == absl::string_view::npos) {
      return Refuse("a property without braces");
    }
    Copy(close + 1 - pos_);
    return absl::OkStatus();
  }

  absl::Status InClass(char c) {
    if (c == '[') return Refuse("a class inside a class");
    if (StartsWith("&&")) return Refuse("an intersection of classes");
    if (c == ']') in_class_ = false;
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status Outside(char c) {
    if (c == '[') {
      in_class_ = true;
      Copy(StartsWith("[^") ? 2 : 1);
      if (StartsWith("]")) return Refuse("a class that begins with ]");
      return absl::OkStatus();
    }
    if (StartsWith("(*")) return Refuse("(*");
    if (StartsWith("(?")) return Group();
    if (StartsWith("}+")) return Refuse("}+");
    if (c == '.') {  // any character but a line feed, whatever PCRE2's build says of newlines
      out_ += "[^\\n]";
      ++pos_;
      return absl::OkStatus();
    }
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status Group() {
    for (absl::string_view known : {"(?:", "(?i:", "(?i)", "(?=", "(?!", "(?>", "(?<=", "(?<!"}) {
      if (StartsWith(known)) {
        Copy(known.size());
        return absl::OkStatus();
      }
    }
    return Refuse(Rest().substr(0, 3));
  }

  absl::string_view pattern_, where_;
  size_t pos_ = 0;
  bool in_class_ = false;
  std::string out_;
};

// What PCRE2 is shown in place of `text`: same length and offsets, but later letters and numbers and the
// surrogates of lenient UTF-8 replaced by stand-ins. Empty when `text` itself will do.
std::string StandIn(absl::string_view text, UnicodeVersion version) {
  std::string out;
  for (size_t pos = 0; pos < text.size();) {
    if (static_cast<uint8_t>(text[pos]) < 0xE1) {  // nothing below U+1000 was assigned later
      ++pos;
      continue;
    }
    const Utf8Char c = NextUtf8(text.substr(pos));
    const absl::string_view other = !c.valid ? absl::string_view("\uE000")  // a surrogate
                                             : StandInFor(c.code, static_cast<int>(version));
    if (!other.empty()) {
      if (out.empty()) out = std::string(text);
      out.replace(pos, other.size(), other.data(), other.size());
    }
    pos += c.valid ? c.bytes : 3;
  }
  return out;
}

std::string PcreMessage(int code) {
  PCRE2_UCHAR buffer[256] = {};
  pcre2_get_error_message(code, buffer, sizeof buffer);
  return reinterpret_cast<const char*>(buffer);
}

}  // namespace

struct Regex::Impl {
  pcre2_code* code = nullptr;
  UnicodeVersion version = UnicodeVersion::k16;
  std::string pattern, where;
  ~Impl() { pcre2_code_free(code); }
};

Regex::Regex(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Regex::~Regex() = default;

absl::StatusOr<std::unique_ptr<Regex>> Regex::Compile(absl::string_view pattern, UnicodeVersion version,
                                                      absl::string_view where) {
  if (pattern.size() > kMaxPatternBytes) {
    return absl::DataLossError(
        absl::StrCat(where, ": pattern of ", pattern.size(), " bytes; at most ", kMaxPatternBytes));
  }
  SF_ASSIGN_OR_RETURN(const std::string translated, Translator(pattern, where).Run());
  auto impl = std::make_unique<Impl>();
  impl->version = version;
  impl->pattern = std::string(pattern);
  impl->where = std::string(where);
  int error = 0;
  size_t offset = 0;
  impl->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()), translated.size(),
                             PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error,
                             &offset, nullptr);
  if (impl->code == nullptr) {
    return absl::DataLossError(
        absl::StrCat(where, ": pattern \"", pattern, "\" does not compile: ", PcreMessage(error)));
  }
  pcre2_jit_compile(impl->code, PCRE2_JIT_COMPLETE);  // without JIT pcre2_match interprets
  return std::unique_ptr<Regex>(new Regex(std::move(impl)));
}

struct Regex::Matcher::State {
  explicit State(const pcre2_code* code)
      : context(pcre2_match_context_create(nullptr)),
        stack(pcre2_jit_stack_create(kJitStackStart, kJitStackMax, nullptr)),
        data(pcre2_match_data_create_from_pattern(code, nullptr)) {
    if (context == nullptr) return;
    pcre2_set_match_limit(context, kMatchLimit);
    pcre2_set_depth_limit(context, 100'000);
    pcre2_set_heap_limit(context, 256 << 10);  // KiB; the interpreter's, should there be no JIT
    if (stack != nullptr) pcre2_jit_stack_assign(context, nullptr, stack);
  }
  ~State() {
    pcre2_match_data_free(data);
    pcre2_jit_stack_free(stack);
    pcre2_match_context_free(context);
  }
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  pcre2_match_context* context;
  pcre2_jit_stack* stack;
  pcre2_match_data* data;
};

Regex::Matcher::Matcher(const Regex& regex)
    : regex_(regex), state_(std::make_unique<State>(regex.impl_->code)) {}
Regex::Matcher::~Matcher() = default;

absl::Status Regex::Matcher::FindAll(absl::string_view text, std::vector<Range>* matches) {
  matches->clear();
  const Impl& impl = *regex_.impl_;
  const State& state = *state_;
  const std::string stand_in = StandIn(text, impl.version);
  const absl::string_view subject = stand_in.empty() ? text : absl::string_view(stand_in);
  if (state.context == nullptr || state.data == nullptr) {
    return absl::ResourceExhaustedError(absl::StrCat(impl.where, ": no memory to match the pattern"));
  }
  const size_t* ovector = pcre2_get_ovector_pointer(state.data);
  size_t pos = 0, last_end = SIZE_MAX;
  while (pos <= subject.size()) {
    const int rc = pcre2_match(impl.code, reinterpret_cast<PCRE2_SPTR>(subject.data()), subject.size(), pos,
                               PCRE2_NO_UTF_CHECK, state.data, state.context);
    if (rc == PCRE2_ERROR_NOMATCH) break;
    if (rc < 0) {
      return absl::DataLossError(absl::StrCat(
          impl.where, ": pattern \"", impl.pattern, "\" gives up at byte ", pos, " of ", subject.size(), " (",
          PcreMessage(rc), "); use a pattern that does not backtrack without bound"));
    }
    const size_t begin = ovector[0], end = ovector[1];
    // An empty match right behind the last match is no match of its own.
    if (begin != end || end != last_end) matches->emplace_back(begin, end);
    last_end = end;
    pos = end;
    if (begin == end) {
      if (pos >= subject.size()) break;
      pos += NextUtf8(subject.substr(pos)).bytes;
    }
  }
  return absl::OkStatus();
}

std::string QuoteRegex(absl::string_view text) {
  std::string quoted;
  for (const char c : text) {
    if (absl::ascii_ispunct(static_cast<unsigned char>(c))) quoted.push_back('\\');
    quoted.push_back(c);
  }
  return quoted;
}

}  // namespace spikefold::tok
