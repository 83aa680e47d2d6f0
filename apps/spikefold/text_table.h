// A table of text: columns as wide as their widest cell, two spaces between them.
#pragma once

#include <initializer_list>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"

namespace spikefold {

class TextTable {
 public:
  // One letter a column: 'l'eft or 'r'ight.
  explicit TextTable(std::string alignment) : alignment_(std::move(alignment)) {}
  // As many cells as columns; missing ones are empty.
  void Row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }
  bool empty() const { return rows_.empty(); }
  // Each line begins with `indent` spaces and ends with a line break; no blanks at ends of lines.
  std::string Text(size_t indent = 2) const;

 private:
  std::string alignment_;
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace spikefold
