#include "apps/spikefold/console.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "apps/spikefold/interrupt.h"
#include "apps/spikefold/text.h"
#include "formats/base/version.h"

namespace spikefold {
namespace {

constexpr double kSecondsBetweenDraws = 0.1, kSecondsBetweenLogs = 10;
constexpr int64_t kBarWidth = 24;

double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

bool UsesColor(When when, int fd) {
  if (when != When::kAuto) return when == When::kAlways;
  const char* no_color = getenv("NO_COLOR");
  const char* term = getenv("TERM");
  const bool dumb = term != nullptr && strcmp(term, "dumb") == 0;
  return isatty(fd) == 1 && !dumb && (no_color == nullptr || *no_color == '\0');
}

// 0, or the errno of the write that failed.
int WriteAll(int fd, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = write(fd, bytes.data(), bytes.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return errno;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
  return 0;
}

size_t TerminalWidth() {
  winsize size = {};
  return ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

When ParseWhen(const std::string& word) {
  return word == "always" ? When::kAlways : word == "never" ? When::kNever : When::kAuto;
}

Console::Console(const Options& options)
    : options_(options),
      terminal_(isatty(STDOUT_FILENO) == 1),
      color_stdout_(UsesColor(options.color, STDOUT_FILENO)),
      color_stderr_(UsesColor(options.color, STDERR_FILENO)) {
  const bool terminal = isatty(STDERR_FILENO) == 1;
  const bool wanted = options.verbosity >= 0 && options.progress != When::kNever;
  draw_ = wanted && terminal;
  log_ = wanted && !terminal && options.progress == When::kAlways;
}

Console::~Console() { EndProgress(); }

void Console::PrintForeign(absl::string_view text) {
  if (!terminal_) return Print(text);
  for (const char c : text) {
    const unsigned char byte = static_cast<unsigned char>(c);
    const bool harmless = (byte >= 0x20 && byte != 0x7f) || c == '\n' || c == '\t';
    Print(harmless ? std::string(1, c) : absl::StrFormat("\\x%02x", byte));
  }
}

absl::Status Console::PrintJson(const Json& document) {
  Print(document.Dump(2));
  Print("\n");
  return Flush();
}

absl::Status Console::Flush() {
  EndProgress();
  if (!output_status_.ok()) return output_status_;
  if (const int error = WriteAll(STDOUT_FILENO, output_); error != 0) {
    output_status_ = absl::UnavailableError(
        absl::StrCat("stdout: ", strerror(error), error == EPIPE ? "; its reader has gone" : ""));
  }
  output_.clear();
  return output_status_;
}

void Console::Line(absl::string_view text) {
  EndProgress();
  WriteAll(STDERR_FILENO, absl::StrCat(text, "\n"));
}

void Console::Note(absl::string_view text) {
  if (options_.verbosity >= 0) Line(text);
}
void Console::Detail(absl::string_view text) {
  if (options_.verbosity > 0) Line(text);
}
void Console::Warn(absl::string_view text) {
  if (options_.verbosity < 0 || !warned_.insert(std::string(text)).second) return;
  Line(absl::StrCat(color_stderr_ ? "\033[33mwarning:\033[0m " : "warning: ", text));
}
void Console::Error(absl::string_view text) { Line(text); }

Progress Console::progress() {
  return [this](absl::string_view what, int64_t done, int64_t total) {
    if (Interrupted()) return false;
    if (draw_) Draw(what, done, total);
    if (log_) Log(what, done, total);
    return true;
  };
}

void Console::EndProgress() {
  what_.clear();
  if (!line_drawn_) return;
  line_drawn_ = false;
  WriteAll(STDERR_FILENO, "\r\033[K");
}

void Console::Draw(absl::string_view what, int64_t done, int64_t total) {
  const double now = Now();
  if (what != what_) {
    what_ = std::string(what);
    stage_start_ = now;
  }
  if (now - last_drawn_ < kSecondsBetweenDraws) return;
  last_drawn_ = now;
  const double share = total > 0 ? std::min(1.0, static_cast<double>(done) / static_cast<double>(total)) : 0;
  const int64_t filled = static_cast<int64_t>(share * kBarWidth);
  std::string line =
      absl::StrFormat("%s  [%s%s] %3.0f %%", what, std::string(static_cast<size_t>(filled), '#'),
                      std::string(static_cast<size_t>(kBarWidth - filled), '-'), 100 * share);
  const double elapsed = now - stage_start_;
  if (share > 0.02 && elapsed > 2) {
    absl::StrAppend(&line, "  ", SecondsText(elapsed * (1 - share) / share), " left");
  }
  line.resize(std::min(line.size(), TerminalWidth() - 1));
  WriteAll(STDERR_FILENO, absl::StrCat("\r\033[K", line));
  line_drawn_ = true;
}

// Where lines stay (a file, a build log): the beginning of each stage, and now and then how far it is.
void Console::Log(absl::string_view what, int64_t done, int64_t total) {
  const double now = Now();
  if (what == what_ && now - last_drawn_ < kSecondsBetweenLogs) return;
  what_ = std::string(what);
  last_drawn_ = now;
  WriteAll(STDERR_FILENO, absl::StrCat(what, ": ", done, " of ", total, "\n"));
}

std::string Console::Styled(absl::string_view code, absl::string_view text) const {
  return color_stdout_ ? absl::StrCat("\033[", code, "m", text, "\033[0m") : std::string(text);
}
std::string Console::Bold(absl::string_view text) const { return Styled("1", text); }
std::string Console::Dim(absl::string_view text) const { return Styled("2", text); }
std::string Console::Good(absl::string_view text) const { return Styled("32", text); }
std::string Console::Bad(absl::string_view text) const { return Styled("31", text); }

Json NewDocument(absl::string_view command) {
  return Json::MakeObject()
      .Set("format_version", 1)
      .Set("tool", Json::MakeObject().Set("version", ToolVersion()).Set("commit", ToolCommit()))
      .Set("command", command);
}

}  // namespace spikefold
