#include "formats/tokenizer/unicode_additions.h"

#include <algorithm>
#include <iterator>

namespace spikefold::tok {
namespace {

struct Addition {
  uint32_t first, last;
  char general_category;  // L or N
  int version;
};

// From DerivedGeneralCategory.txt of Unicode 15.1, 16.0 and 17.0 (version 17: numbers only).
constexpr Addition kAdditions[] = {
    {0x1C89, 0x1C8A, 'L', 16},   {0xA7CB, 0xA7CD, 'L', 16},   {0xA7DA, 0xA7DC, 'L', 16},
    {0x105C0, 0x105F3, 'L', 16}, {0x10D40, 0x10D49, 'N', 16}, {0x10D4A, 0x10D65, 'L', 16},
    {0x10D6F, 0x10D85, 'L', 16}, {0x10EC2, 0x10EC4, 'L', 16}, {0x1123F, 0x11240, 'L', 15},
    {0x11380, 0x11389, 'L', 16}, {0x1138B, 0x1138B, 'L', 16}, {0x1138E, 0x1138E, 'L', 16},
    {0x11390, 0x113B5, 'L', 16}, {0x113B7, 0x113B7, 'L', 16}, {0x113D1, 0x113D1, 'L', 16},
    {0x113D3, 0x113D3, 'L', 16}, {0x116D0, 0x116E3, 'N', 16}, {0x11BC0, 0x11BE0, 'L', 16},
    {0x11BF0, 0x11BF9, 'N', 16}, {0x11DE0, 0x11DE9, 'N', 17}, {0x11F02, 0x11F02, 'L', 15},
    {0x11F04, 0x11F10, 'L', 15}, {0x11F12, 0x11F33, 'L', 15}, {0x11F50, 0x11F59, 'N', 15},
    {0x1342F, 0x1342F, 'L', 15}, {0x13441, 0x13446, 'L', 15}, {0x13460, 0x143FA, 'L', 16},
    {0x16100, 0x1611D, 'L', 16}, {0x16130, 0x16139, 'N', 16}, {0x16D40, 0x16D6C, 'L', 16},
    {0x16D70, 0x16D79, 'N', 16}, {0x16FF4, 0x16FF6, 'N', 17}, {0x18CFF, 0x18CFF, 'L', 16},
    {0x1B132, 0x1B132, 'L', 15}, {0x1B155, 0x1B155, 'L', 15}, {0x1CCF0, 0x1CCF9, 'N', 16},
    {0x1D2C0, 0x1D2D3, 'N', 15}, {0x1DF25, 0x1DF2A, 'L', 15}, {0x1E030, 0x1E06D, 'L', 15},
    {0x1E4D0, 0x1E4EB, 'L', 15}, {0x1E4F0, 0x1E4F9, 'N', 15}, {0x1E5D0, 0x1E5ED, 'L', 16},
    {0x1E5F0, 0x1E5F0, 'L', 16}, {0x1E5F1, 0x1E5FA, 'N', 16}, {0x2B739, 0x2B739, 'L', 15},
    {0x2EBF0, 0x2EE5D, 'L', 15}, {0x31350, 0x323AF, 'L', 15},
};

}  // namespace

absl::string_view StandInFor(uint32_t code_point, int version) {
  const Addition* it =
      std::upper_bound(std::begin(kAdditions), std::end(kAdditions), code_point,
                       [](uint32_t c, const Addition& addition) { return c < addition.first; });
  if (it == std::begin(kAdditions)) return {};
  --it;
  if (code_point > it->last || version < it->version) return {};
  if (it->general_category == 'N') return "\U0001D7CE";  // all additions of numbers take four bytes
  return code_point < 0x10000 ? "\u4E00" : "\U00020000";
}

}  // namespace spikefold::tok
