// Attention of rows that decode and of prompts, for x86 with AVX2. Everything is float32.
//
// What a token gets depends on nothing but itself and the keys and values before it, to the bit: not
// on the tokens beside it, be they of its own prompt or of other rows, nor on the number of threads.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "native.h"
#include "vectors.h"

namespace {

constexpr size_t kAhead = 32;  // keys
constexpr size_t kTile = 8;    // tokens
constexpr size_t kParts = 4;   // of a thread's share of the work, that it takes one by one

inline void fetch(const float* p, size_t n) {
  for (size_t i = 0; i < n; i += 16) _mm_prefetch(reinterpret_cast<const char*>(p + i), _MM_HINT_T1);
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
           size_t dim, const Weighing& how, float* weights, size_t wide) {
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
        Vec found = _mm256_mul_ps(sums_of(dots), all(how.scale));
        if (how.cap != 0)
          found = _mm256_mul_ps(hyperbolic_tangent(_mm256_div_ps(found, all(how.cap))), all(how.cap));
        stored(weights + (t * q.groups + g) * wide + j, found);
      }
  }
}

// Of the softmax of w [n] what is above the bar, in its place; what is below it is returned. Behind
// the last one there is room for whole vectors.
float soften(float* w, size_t n, const float* sink) {
  const float most = *std::max_element(w, w + n);
  const size_t wide = (n + kLanes - 1) / kLanes * kLanes;
  std::fill(w + n, w + wide, -INFINITY);
  Vec sum = all(0);
  for (size_t j = 0; j < wide; j += kLanes) {
    const Vec e = exponential(_mm256_sub_ps(loaded(w + j), all(most)));
    stored(w + j, e);
    sum = _mm256_add_ps(sum, e);
  }
  return summed(sum) + (sink ? _mm256_cvtss_f32(exponential(all(*sink - most))) : 0);
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
  const Weighing& how;
  float* out;

  size_t first(size_t token) const {
    const size_t stop = t.positions[token] + 1;
    return how.window && stop > how.window ? stop - how.window : 0;
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
    weigh(q, query, tile.count, own, next, s.dim, how, weights.data(), wide);
    Own parts[kTile];
    for (size_t i = 0; i < tile.count; i++) {
      const size_t from = first(tile.token + i), stop = t.positions[tile.token + i] + 1;
      parts[i] = {from - first(tile.token), stop - from};
      for (size_t g = 0; g < q.groups; g++) {
        const size_t r = i * q.groups + g;
        const float* sink = how.sinks ? how.sinks + head * q.groups + g : nullptr;
        whole[r] = soften(&weights[r * wide + parts[i].first], parts[i].n, sink);
      }
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

void attend(const Member& m, const Slots& s, const Tokens& t, const Queries& q, const Weighing& w,
            float* out) {
  const std::vector<Tile> tiles = tiles_of(t);
  const Pass pass{s, t, q, w, out};
  const size_t tasks = tiles.size() * s.kv_heads, few = std::max<size_t>(1, tasks / (kParts * m.of));
  for (size_t task; (task = m.take() * few) < tasks;)
    pass.some(tiles, task, std::min(task + few, tasks));
}

extern "C" {

// out [tokens][heads][dim]: each token's queries over its own slot up to its position.
void attend(const Slots* s, const Tokens* t, const Queries* q, const Weighing* w, float* out, int threads) {
  together(threads, [&](const Member& m) { attend(m, *s, *t, *q, *w, out); });
}
}
