// Eight numbers at a time, for x86 with AVX2.
#pragma once

#include <immintrin.h>

#include <cstddef>

namespace {

using Vec = __m256;
constexpr size_t kLanes = 8;

inline Vec all(float x) { return _mm256_set1_ps(x); }
inline Vec loaded(const float* p) { return _mm256_loadu_ps(p); }
inline void stored(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec fused(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }

inline float summed(Vec v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

// With x = n ln 2 + r: e^r = 1 + r * series, Taylor's polynomial of degree 7, and what to add to the bits
// of a number to multiply it by 2^n.
struct Parts {
  Vec r, series;
  __m256i power;
};

inline Parts parts_of(Vec x) {
  const Vec n = _mm256_round_ps(_mm256_mul_ps(x, all(1.44269504f)),
                                _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  Vec r = fused(n, all(-0.693145752f), x);
  r = fused(n, all(-1.42860677e-6f), r);
  Vec series = all(1.0f / 5040);
  for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f})
    series = fused(series, r, all(c));
  return {r, series, _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23)};
}

// e^x, within two units of the last place; below -87.3 and above 88.3 as it is there.
inline Vec exponential(Vec x) {
  // In this order what is no number stays so.
  const Parts p = parts_of(_mm256_min_ps(all(88.3f), _mm256_max_ps(all(-87.3f), x)));
  const Vec y = fused(p.series, p.r, all(1));
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), p.power));
}

// With e = e^2x - 1, which near 0 has all its places, that is e / (e + 2).
inline Vec hyperbolic_tangent(Vec x) {
  x = _mm256_min_ps(all(44.0f), _mm256_max_ps(all(-43.0f), x));
  const Parts p = parts_of(_mm256_add_ps(x, x));
  const Vec power = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(all(1)), p.power));
  const Vec e = fused(power, _mm256_mul_ps(p.series, p.r), _mm256_sub_ps(power, all(1)));
  return _mm256_div_ps(e, _mm256_add_ps(e, all(2)));
}

// The sums of the lanes of eight vectors, in their order.
inline Vec sums_of(const Vec (&v)[8]) {
  Vec pairs[4];
  for (int i = 0; i < 4; i++) pairs[i] = _mm256_hadd_ps(v[2 * i], v[2 * i + 1]);
  const Vec left = _mm256_hadd_ps(pairs[0], pairs[1]), right = _mm256_hadd_ps(pairs[2], pairs[3]);
  return _mm256_add_ps(_mm256_permute2f128_ps(left, right, 0x20),
                       _mm256_permute2f128_ps(left, right, 0x31));
}

}  // namespace
