// What a decoder layer does between its products, for x86 with AVX2: norms, gates, rotations and
// attention. Everything is float32.
//
// What a token gets depends on nothing but itself and the keys and values before it, to the bit: not
// on the tokens beside it, be they of its own prompt or of other rows, nor on the number of threads.

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "native.h"

namespace {

using Vec = __m256;
constexpr size_t kLanes = 8;
constexpr size_t kAhead = 32;  // keys
constexpr size_t kTile = 8;    // tokens

inline Vec all(float x) { return _mm256_set1_ps(x); }
inline Vec loaded(const float* p) { return _mm256_loadu_ps(p); }
inline void stored(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec fused(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }

inline float summed(Vec v) {
  __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  half = _mm_add_ps(half, _mm_movehl_ps(half, half));
  return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
}

// e^x, within two units of the last place; below -87.3 and above 88.3 as it is there. With
// x = n ln 2 + r, e^r is Taylor's polynomial of degree 7.
inline Vec exponential(Vec x) {
  // In this order what is no number stays so.
  x = _mm256_min_ps(all(88.3f), _mm256_max_ps(all(-87.3f), x));
  const Vec n = _mm256_round_ps(_mm256_mul_ps(x, all(1.44269504f)),
                                _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  Vec r = fused(n, all(-0.693145752f), x);
  r = fused(n, all(-1.42860677e-6f), r);
  Vec y = all(1.0f / 5040);
  for (float c : {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
    y = fused(y, r, all(c));
  const __m256i power = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(y), power));
}

// The sums of the lanes of eight vectors, in their order.
inline Vec sums_of(const Vec (&v)[8]) {
  Vec pairs[4];
  for (int i = 0; i < 4; i++) pairs[i] = _mm256_hadd_ps(v[2 * i], v[2 * i + 1]);
  const Vec left = _mm256_hadd_ps(pairs[0], pairs[1]), right = _mm256_hadd_ps(pairs[2], pairs[3]);
  return _mm256_add_ps(_mm256_permute2f128_ps(left, right, 0x20),
                       _mm256_permute2f128_ps(left, right, 0x31));
}

inline void fetch(const float* p, size_t n) {
  for (size_t i = 0; i < n; i += 16) _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
}

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

void gate(const float* both, float* y, size_t width) {
  const float* up = both + width;
  size_t i = 0;
  for (; i + kLanes <= width; i += kLanes)
    stored(y + i, _mm256_mul_ps(silu(loaded(both + i)), loaded(up + i)));
  if (i < width) {
    float rest[kLanes] = {};
    std::copy(both + i, both + width, rest);
    stored(rest, silu(loaded(rest)));
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

// Tokens that see the same keys but for a few: some of a prompt's, one after the other, or a row's one.
struct Tile {
  size_t token, count;
};

// The keys of one head that a tile sees, [n][dim], and their values.
struct Seen {
  const float *keys, *values;
  size_t n;
};

// What a token of a tile sees of them.
struct Own {
  size_t first, n;
};

// weights [tokens][groups][wide]: scaled dot products with the keys. A slot's keys are too few for the
// processor to see where they go on, so they are fetched ahead, and their values too, and behind the
// last ones the `next` that will be seen.
void weigh(const Queries& q, const float* query, size_t tokens, const Seen& own, const Seen& next,
           size_t dim, float scale, float* weights, size_t wide) {
  const size_t n = own.n, whole = (n + 7) / 8 * 8;
  for (size_t j = 0; j < n; j += 8) {
    const size_t ahead = j + kAhead;
    if (ahead < n)
      fetch(own.keys + ahead * dim, 8 * dim);
    else if (ahead - whole < next.n)
      fetch(next.keys + (ahead - whole) * dim, 8 * dim);
    fetch(own.values + j * dim, 8 * dim);
    const float* k[8];
    for (size_t i = 0; i < 8; i++) k[i] = own.keys + std::min(j + i, n - 1) * dim;
    for (size_t t = 0; t < tokens; t++)
      for (size_t g = 0; g < q.groups; g++) {
        const float* mine = query + t * q.row + g * q.head;
        Vec dots[8];
        for (auto& dot : dots) dot = all(0);
        for (size_t d = 0; d < dim; d += kLanes) {
          const Vec part = loaded(mine + d);
          for (int i = 0; i < 8; i++) dots[i] = fused(part, loaded(k[i] + d), dots[i]);
        }
        stored(weights + (t * q.groups + g) * wide + j, _mm256_mul_ps(sums_of(dots), all(scale)));
      }
  }
}

// Of the softmax of w [n] what is above the bar, in its place; what is below it is returned. Behind
// the last one there is room for whole vectors.
float soften(float* w, size_t n) {
  const float most = *std::max_element(w, w + n);
  const size_t wide = (n + kLanes - 1) / kLanes * kLanes;
  std::fill(w + n, w + wide, -INFINITY);
  Vec sum = all(0);
  for (size_t j = 0; j < wide; j += kLanes) {
    const Vec e = exponential(_mm256_sub_ps(loaded(w + j), all(most)));
    stored(w + j, e);
    sum = _mm256_add_ps(sum, e);
  }
  return summed(sum);
}

// out [G], rows of dim, D vectors of each: the values weighed, and divided by `whole` [G].
template <size_t G, size_t D>
void blend(const float* weights, size_t wide, const float* whole, const float* values, size_t n,
           size_t dim, float* out) {
  Vec sums[G][D];
  for (auto& of : sums)
    for (auto& sum : of) sum = all(0);
  for (size_t j = 0; j < n; j++)
#pragma GCC unroll 4
    for (size_t c = 0; c < D; c++) {
      const Vec v = loaded(values + j * dim + c * kLanes);
#pragma GCC unroll 4
      for (size_t g = 0; g < G; g++) sums[g][c] = fused(all(weights[g * wide + j]), v, sums[g][c]);
    }
  for (size_t g = 0; g < G; g++)
    for (size_t c = 0; c < D; c++)
      stored(out + g * dim + c * kLanes, _mm256_div_ps(sums[g][c], all(whole[g])));
}

using Blend = decltype(&blend<1, 1>);

// Of so many query heads: one vector of each, or as many as there are registers for.
constexpr struct {
  Blend one, more;
  size_t vectors;
} blends[] = {{}, {blend<1, 1>, blend<1, 4>, 4}, {blend<2, 1>, blend<2, 4>, 4},
              {blend<3, 1>, blend<3, 4>, 4}, {blend<4, 1>, blend<4, 2>, 2}};

// A pass's attention. A task is a tile and a key head.
struct Pass {
  const Slots& s;
  const Tokens& t;
  const Queries& q;
  size_t window;
  float scale;
  float* out;

  size_t first(size_t token) const {
    const size_t stop = t.positions[token] + 1;
    return window && stop > window ? stop - window : 0;
  }

  Seen seen(const Tile& tile, size_t head) const {
    const size_t from = first(tile.token), stop = t.positions[tile.token + tile.count - 1] + 1;
    const size_t at = t.rows[tile.token] * s.row + head * s.head + from * s.dim;
    return {s.keys + at, s.values + at, stop - from};
  }

  void run(const Tile& tile, size_t head, const Seen& own, const Seen& next) const {
    static thread_local std::vector<float> weights, whole;
    const size_t rows = tile.count * q.groups, wide = (own.n + 2 * kLanes - 1) / kLanes * kLanes;
    weights.resize(rows * wide), whole.resize(rows);
    const float* query = q.at + tile.token * q.row + head * q.groups * q.head;
    weigh(q, query, tile.count, own, next, s.dim, scale, weights.data(), wide);
    Own parts[kTile];
    for (size_t i = 0; i < tile.count; i++) {
      const size_t from = first(tile.token + i), stop = t.positions[tile.token + i] + 1;
      parts[i] = {from - first(tile.token), stop - from};
      for (size_t r = i * q.groups; r < (i + 1) * q.groups; r++)
        whole[r] = soften(&weights[r * wide + parts[i].first], parts[i].n);
    }
    for (size_t g = 0, taken; g < q.groups; g += taken) {
      taken = std::min<size_t>(4, q.groups - g);
      const auto& with = blends[taken];
      for (size_t d = 0, step; d < s.dim; d += step) {
        const bool more = d + with.vectors * kLanes <= s.dim;
        step = more ? with.vectors * kLanes : kLanes;
        for (size_t i = 0; i < tile.count; i++) {
          const size_t r = i * q.groups + g, from = parts[i].first;
          float* to = out + ((tile.token + i) * s.kv_heads + head) * q.groups * s.dim + g * s.dim + d;
          (more ? with.more : with.one)(&weights[r * wide + from], wide, &whole[r],
                                        own.values + from * s.dim + d, parts[i].n, s.dim, to);
        }
      }
    }
  }

  // From a task to before `last`; tiles of a head come one after the other, as a prompt's see the same.
  void some(const std::vector<Tile>& tiles, size_t task, size_t last) const {
    if (task == last) return;
    const auto of = [&](size_t i) { return seen(tiles[i % tiles.size()], i / tiles.size()); };
    Seen own = of(task);
    for (size_t j = 0; j < std::min(own.n, kAhead); j += 8) fetch(own.keys + j * s.dim, 8 * s.dim);
    for (Seen next; task < last; task++, own = next) {
      next = task + 1 < last ? of(task + 1) : Seen{};
      run(tiles[task % tiles.size()], task / tiles.size(), own, next);
    }
  }
};

std::vector<Tile> tiles_of(const Tokens& t) {
  std::vector<Tile> found;
  for (size_t i = 0; i < t.count; i++) {
    const bool goes_on = i && t.rows[i] == t.rows[i - 1] && t.positions[i] == t.positions[i - 1] + 1;
    if (goes_on && found.back().count < kTile)
      found.back().count++;
    else
      found.push_back({i, 1});
  }
  return found;
}

}  // namespace

extern "C" {

// y = x / sqrt(mean(x^2) + eps) * weight, of each row.
void rms_norm(const float* x, const float* weight, float* y, size_t rows, size_t width, float eps) {
  for (size_t r = 0; r < rows; r++) norm(x + r * width, weight, y + r * width, width, eps);
}

// y [rows][width] = silu(both[:width]) * both[width:], of each row.
void gated(const float* both, float* y, size_t rows, size_t width) {
  for (size_t r = 0; r < rows; r++) gate(both + r * 2 * width, y + r * width, width);
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

// out [tokens][heads][dim]: each token's queries over its own slot up to its position, the last
// `window` keys of it (0: all).
void attend(const Slots* s, const Tokens* t, const Queries* q, size_t window, float scale, float* out,
            int threads) {
  const std::vector<Tile> tiles = tiles_of(*t);
  const Pass pass{*s, *t, *q, window, scale, out};
  const size_t tasks = tiles.size() * s->kv_heads;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (int i = 0; i < threads; i++)
    pass.some(tiles, tasks * i / threads, tasks * (i + 1) / threads);
}
}
