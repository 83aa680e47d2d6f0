// Talking to the person or the script at the other end: results go to stdout, everything else to stderr.
#pragma once

#include <cstdint>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "formats/base/json.h"
#include "formats/base/progress.h"

namespace spikefold {

enum class When { kAuto, kAlways, kNever };  // kAuto: only on a terminal
When ParseWhen(const std::string& word);     // "always", "never"; else kAuto

class Console {
 public:
  struct Options {
    When color = When::kAuto;  // kAuto also minds NO_COLOR and TERM=dumb
    When progress = When::kAuto;
    int verbosity = 0;  // -1: errors only; 0; 1: details
    bool json = false;  // one document on stdout instead of text
  };
  explicit Console(const Options& options);
  ~Console();
  Console(const Console&) = delete;
  Console& operator=(const Console&) = delete;

  bool json() const { return options_.json; }

  // Results. What was printed appears at Flush(), which is Unavailable (and stays so) if stdout cannot take
  // it.
  void Print(absl::string_view text) { output_.append(text.data(), text.size()); }
  // What a model wrote: on a terminal its control characters are shown, not obeyed.
  void PrintForeign(absl::string_view text);
  absl::Status PrintJson(const Json& document);  // with a line break, flushed
  absl::Status Flush();

  // A line to stderr.
  void Note(absl::string_view text);    // not with -q
  void Detail(absl::string_view text);  // only with -v
  void Warn(absl::string_view text);    // "warning: ..."; not with -q; each text once
  void Error(absl::string_view text);   // always

  // For long work: draws a line on a terminal, at most ten times a second, and returns false once the user
  // has interrupted. Valid as long as the console.
  Progress progress();
  void EndProgress();  // wipes the line

  std::string Bold(absl::string_view text) const;  // for stdout
  std::string Dim(absl::string_view text) const;
  std::string Good(absl::string_view text) const;  // green
  std::string Bad(absl::string_view text) const;   // red

 private:
  std::string Styled(absl::string_view code, absl::string_view text) const;
  void Line(absl::string_view text);
  void Draw(absl::string_view what, int64_t done, int64_t total);
  void Log(absl::string_view what, int64_t done, int64_t total);

  const Options options_;
  bool terminal_ = false;  // stdout
  bool color_stdout_ = false, color_stderr_ = false, draw_ = false, log_ = false;
  std::string output_;
  absl::Status output_status_;
  std::set<std::string> warned_;
  // Progress
  std::string what_;
  double stage_start_ = 0, last_drawn_ = 0;
  bool line_drawn_ = false;
};

// {"format_version": 1, "tool": {"version", "commit"}, "command": NAME}: how every --json document begins.
Json NewDocument(absl::string_view command);

}  // namespace spikefold
