// What a decoder layer does between its products beside attention, for x86 with AVX2: norms, gates and
// rotations. Everything is float32, and what a token gets depends on nothing but itself, to the bit.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>

#include "native.h"
#include "vectors.h"

namespace {

void norm(const float* x, const float* weight, float* y, size_t width, float eps) {
  Vec squares[4] = {all(0), all(0), all(0), all(0)};
  size_t i = 0;
  for (; i + 4 * kLanes <= width; i += 4 * kLanes)
    for (int k = 0; k < 4; k++) {
      const Vec v = loaded(x + i + k * kLanes);
      squares[k] = fused(v, v, squares[k]);
    }
  float sum = summed(_mm256_add_ps(_mm256_add_ps(squares[0], squares[1]),
                                   _mm256_add_ps(squares[2], squares[3])));
  for (; i < width; i++) sum = std::fma(x[i], x[i], sum);
  const float scale = 1.0f / std::sqrt(sum / width + eps);
  for (i = 0; i < width; i++) y[i] = x[i] * scale * weight[i];
}

inline Vec silu(Vec x) {
  return _mm256_div_ps(x, _mm256_add_ps(all(1), exponential(_mm256_sub_ps(all(0), x))));
}

// GELU as tanh has it (Hendrycks and Gimpel, arXiv 1606.08415).
inline Vec gelu(Vec x) {
  const Vec cubed = _mm256_mul_ps(_mm256_mul_ps(x, x), x);
  const Vec into = _mm256_mul_ps(all(0.797884561f), fused(all(0.044715f), cubed, x));
  return _mm256_mul_ps(_mm256_mul_ps(all(0.5f), x), _mm256_add_ps(all(1), hyperbolic_tangent(into)));
}

template <Vec (*act)(Vec)>
void gate(const float* both, float* y, size_t width) {
  const float* up = both + width;
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes)
    stored(y + i, _mm256_mul_ps(act(loaded(both + i)), loaded(up + i)));
  if (i < width) {
    float rest[kLanes] = {};
    std::copy(both + i, both + width, rest);
    stored(rest, act(loaded(rest)));
    for (size_t k = 0; i < width; i++, k++) y[i] = rest[k] * up[i];
  }
}

// As torch's x * cos + turned(x) * sin rounds it.
void rotate(const float* x, const float* cos, const float* sin, float* y, size_t dim) {
  const size_t half = dim / 2;
  for (size_t i = 0; i < half; i++) {
    const float a = x[i], b = x[i + half];
    y[i] = a * cos[i] + -b * sin[i];
    y[i + half] = b * cos[i + half] + a * sin[i + half];
  }
}

}  // namespace

extern "C" {

// y = x / sqrt(mean(x^2) + eps) * weight, of each row.
void rms_norm(const float* x, const float* weight, float* y, size_t rows, size_t width, float eps) {
  for (size_t r = 0; r < rows; r++) norm(x + r * width, weight, y + r * width, width, eps);
}

// y [rows][width] = silu(both[:width]) * both[width:], of each row; or GELU's.
void gated(const float* both, float* y, size_t rows, size_t width, int by_gelu) {
  const auto own = by_gelu ? gate<gelu> : gate<silu>;
  for (size_t r = 0; r < rows; r++) own(both + r * 2 * width, y + r * width, width);
}

// Of each token's queries, keys and values [heads + 2 kv_heads][dim]: queries rotated, into `query`
// [tokens][heads][dim]; keys rotated, and values, into the slots.
void turned(const float* made, const float* cos, const float* sin, const Slots* s, const Tokens* t,
            float* query, size_t heads) {
  const size_t dim = s->dim, all_heads = heads + 2 * s->kv_heads;
  for (size_t i = 0; i < t->count; i++, cos += dim, sin += dim) {
    const float* x = made + i * all_heads * dim;
    for (size_t h = 0; h < heads; h++, x += dim, query += dim) rotate(x, cos, sin, query, dim);
    const size_t at = t->rows[i] * s->row + t->positions[i] * dim;
    for (size_t h = 0; h < s->kv_heads; h++, x += dim)
      rotate(x, cos, sin, s->keys + at + h * s->head, dim);
    for (size_t h = 0; h < s->kv_heads; h++, x += dim)
      std::copy(x, x + dim, s->values + at + h * s->head);
  }
}
}
