#include "kernels/matmul_f32_s8r_sxg/matmul_f32_s8r_sxg_avx512.h"

namespace spikefold::kernels::matmul_f32_s8r_sxg {
namespace {

// A group's factors twice in each lane, and what makes factor * code an unsigned byte with 128 for 0.
struct ByteScale {
  __m512i factor, shift;
};

ByteScale ByteScaleOf(const Call& c, const uint8_t* panel, int64_t g, int64_t half,
                      const ChannelScales& inverse) {
  const __m512i factor = Factors(c.view.type, panel + g * c.view.group_bytes, half, inverse);
  __m512i zero = _mm512_set1_epi32(1 << (c.view.bits - 1));
  if (c.view.has_zeros) {
    const uint8_t* zeros = panel + c.view.zeros_at + g * kPanel + half * kHalf;
    zero = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(zeros)));
  }
  const __m512i shift = _mm512_sub_epi32(_mm512_set1_epi32(128), _mm512_mullo_epi32(factor, zero));
  const __m512i byte = _mm512_and_si512(shift, _mm512_set1_epi32(255));
  const __m512i two = _mm512_or_si512(byte, _mm512_slli_epi32(byte, 8));
  return {_mm512_or_si512(factor, _mm512_slli_epi32(factor, 16)),
          _mm512_or_si512(two, _mm512_slli_epi32(two, 16))};
}

// At most 15 times 16, so bytes of a 16-bit product do not touch each other.
inline __m512i Times(__m512i codes, const ByteScale& s) {
  return _mm512_add_epi8(_mm512_mullo_epi16(codes, s.factor), s.shift);
}

template <int bits>
void Expand(const Call& c, int64_t panel, uint8_t* w) {
  const uint8_t* const begin = c.view.panels + panel * c.view.panel_bytes;
  const ChannelScales inverse = ChannelScales(c.params, panel * kPanel).Inverse();
  for (int64_t g = 0; g < c.view.num_groups; ++g) {
    const ByteScale scale0 = ByteScaleOf(c, begin, g, 0, inverse);
    const ByteScale scale1 = ByteScaleOf(c, begin, g, 1, inverse);
    const uint8_t* codes = begin + g * c.view.group_bytes + c.view.scale_bytes;
    for (int64_t j = 0; j < c.view.units * (kUnit / kBlock<bits>); ++j, codes += kBlockBytes<bits>) {
      ForEach(
          [&](auto quad) __attribute__((always_inline)) {
            __m512i half0, half1;
            LoadQuad<bits, quad>(codes, half0, half1);
            _mm512_storeu_si512(w, Times(half0, scale0));
            _mm512_storeu_si512(w + 64, Times(half1, scale1));
            w += kPanel * 4;
          },
          std::make_integer_sequence<int, kBlock<bits> / 4>{});
    }
  }
}

}  // namespace

void TilesAvx512Vnni(const Call& call, int64_t m_begin, int64_t m_end, int64_t p_begin, int64_t p_end) {
  Tiles(call, m_begin, m_end, p_begin, p_end);
}

void ExpandAvx512Vnni(const Call& call, int64_t panel, uint8_t* w) {
  if (call.view.bits == 2) return Expand<2>(call, panel, w);
  if (call.view.bits == 3) return Expand<3>(call, panel, w);
  Expand<4>(call, panel, w);
}

}  // namespace spikefold::kernels::matmul_f32_s8r_sxg
