// y = x w' + bias, where float16 holds the weights: float32 products for x86, from AVX2 on.
//
// Every output is summed from its first input to its last, one fused multiply-add after the other,
// whatever rows are beside it, on however many threads, with AVX2 or with AVX-512. So a row's
// product is the same to the bit alone and in any batch.
//
// Weights lie in panels of `kPanel` outputs, [inputs][kPanel] each, as a tile reads them. A step of
// few rows is as fast as memory gives its weights, so each is read once for all rows, and while a
// panel is multiplied the next one is fetched.

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "native.h"

namespace {

#ifdef __AVX512F__
using Vec = __m512;
constexpr size_t kLanes = 16, kSums = 24;  // of 32 registers
inline Vec all(float x) { return _mm512_set1_ps(x); }
inline Vec fused(Vec a, Vec b, Vec c) { return _mm512_fmadd_ps(a, b, c); }
inline Vec loaded(const float* p) { return _mm512_loadu_ps(p); }
inline void stored(float* p, Vec v) { _mm512_storeu_ps(p, v); }
inline Vec widened(const uint16_t* p) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
#else
using Vec = __m256;
constexpr size_t kLanes = 8, kSums = 12;  // of 16 registers
inline Vec all(float x) { return _mm256_set1_ps(x); }
inline Vec fused(Vec a, Vec b, Vec c) { return _mm256_fmadd_ps(a, b, c); }
inline Vec loaded(const float* p) { return _mm256_loadu_ps(p); }
inline void stored(float* p, Vec v) { _mm256_storeu_ps(p, v); }
inline Vec widened(const uint16_t* p) {
  return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}
#endif

constexpr size_t kWide = 3, kPanel = kWide * kLanes;
constexpr size_t kRows = kSums / kWide;  // of a tile, at most
constexpr size_t kBlock = 128;           // rows of x that meet a panel one after the other
constexpr size_t kChunk = 768;           // inputs of a panel that stay in the cache for them
constexpr size_t kStep = 4;              // inputs between two fetches

const uint16_t* at(const Weights& w, size_t panel, size_t input) {
  return w.panels + (panel * w.inputs + input) * kPanel;
}

// What is to be in the cache when the tiles of the next panels ask for it: a share for each tile.
struct Ahead {
  const uint16_t* weights;
  size_t pace;  // weights a step
};

// R rows of x by P panels; x is laid out [inputs][R].
template <size_t R, size_t P>
void tile(const Weights& w, const float* x, float* y, size_t panel, size_t first, size_t n, Ahead ahead) {
  const size_t stride = w.inputs * kPanel;
  Vec sums[R][kWide * P];  // unrolled, or they would lie in memory
  float edge[kLanes];
#pragma GCC unroll 12
  for (size_t r = 0; r < R; r++)
#pragma GCC unroll 12
    for (size_t c = 0; c < kWide * P; c++) {
      const size_t out = panel * kPanel + c * kLanes;
      const float* from = first ? y + r * w.outputs : w.bias;
      if (!from) {
        sums[r][c] = all(0.0f);
      } else if (out + kLanes <= w.outputs) {
        sums[r][c] = loaded(from + out);
      } else {
        for (size_t i = 0; i < kLanes; i++) edge[i] = out + i < w.outputs ? from[out + i] : 0.0f;
        sums[r][c] = loaded(edge);
      }
    }
  const uint16_t* b = at(w, panel, first);
  for (const float *end = x + n * R, *stop; x != end;) {
    stop = std::min(end, x + kStep * R);
    for (size_t p = 0; p < P; p++)
      for (size_t i = 0; i < kStep * kPanel; i += 32)
        _mm_prefetch(reinterpret_cast<const char*>(ahead.weights + p * stride + i), _MM_HINT_T0);
    ahead.weights += ahead.pace;
    for (; x != stop; x += R, b += kPanel)
#pragma GCC unroll 4
      for (size_t p = 0; p < P; p++) {
        Vec weights[kWide];
#pragma GCC unroll 4
        for (size_t c = 0; c < kWide; c++) weights[c] = widened(b + p * stride + c * kLanes);
#pragma GCC unroll 12
        for (size_t r = 0; r < R; r++) {
          const Vec one = all(x[r]);
#pragma GCC unroll 4
          for (size_t c = 0; c < kWide; c++)
            sums[r][kWide * p + c] = fused(one, weights[c], sums[r][kWide * p + c]);
        }
      }
  }
#pragma GCC unroll 12
  for (size_t r = 0; r < R; r++)
#pragma GCC unroll 12
    for (size_t c = 0; c < kWide * P; c++) {
      const size_t out = panel * kPanel + c * kLanes;
      float* to = y + r * w.outputs + out;
      if (out + kLanes <= w.outputs) {
        stored(to, sums[r][c]);
      } else {
        stored(edge, sums[r][c]);
        for (size_t i = 0; out + i < w.outputs && i < kLanes; i++) to[i] = edge[i];
      }
    }
}

using Tile = void (*)(const Weights&, const float*, float*, size_t, size_t, size_t, Ahead);

// The tiles of each number of rows: of one panel, and of as many as there are registers for, which
// a tile of few rows needs, as a sum waits for the one before it.
struct Tiles {
  Tile narrow[kRows + 1], wide[kRows + 1];
  size_t panels[kRows + 1];

  template <size_t R = 1>
  constexpr void fill() {
    constexpr size_t P = std::clamp<size_t>(kSums / (kWide * R), 1, 4);
    narrow[R] = tile<R, 1>, wide[R] = tile<R, P>, panels[R] = P;
    if constexpr (R < kRows) fill<R + 1>();
  }
};

constexpr Tiles tiles = [] {
  Tiles made{};
  made.fill();
  return made;
}();

// Rows cut in groups for tiles, as even as can be.
struct Groups {
  size_t count, small, more;  // `more` of them have a row more than `small`

  explicit Groups(size_t rows)
      : count((rows + kRows - 1) / kRows), small(rows / count), more(rows % count) {}
  size_t operator[](size_t g) const { return small + (g < more); }
};

// A group's rows [rows][inputs] side by side, as its tiles read them: some inputs of [inputs][rows].
void lay(const float* x, size_t inputs, size_t rows, Range some, float* to) {
  size_t r = 0;
  for (; r + 4 <= rows; r += 4) {
    const float* from = x + r * inputs;
    size_t k = some.from;
    for (; k + 4 <= some.to; k += 4) {
      __m128 four[4];
      for (int i = 0; i < 4; i++) four[i] = _mm_loadu_ps(from + i * inputs + k);
      _MM_TRANSPOSE4_PS(four[0], four[1], four[2], four[3]);
      for (int i = 0; i < 4; i++) _mm_storeu_ps(to + (k + i) * rows + r, four[i]);
    }
    for (; k < some.to; k++)
      for (int i = 0; i < 4; i++) to[k * rows + r + i] = from[i * inputs + k];
  }
  for (; r < rows; r++)
    for (size_t k = some.from; k < some.to; k++) to[k * rows + r] = x[r * inputs + k];
}

// `taken` panels, over all rows of a block that is laid at x.
void some(const Weights& w, const float* x, float* y, const Groups& groups, size_t panel, size_t taken,
          const uint16_t* following) {
  const size_t chunks = (w.inputs + kChunk - 1) / kChunk, chunk = (w.inputs + chunks - 1) / chunks;
  for (size_t first = 0; first < w.inputs; first += chunk) {
    const size_t n = std::min(chunk, w.inputs - first);
    const uint16_t* next = first + n < w.inputs ? at(w, panel, first + n) : following;
    const size_t share = n * kPanel / groups.count, pace = share / ((n + kStep - 1) / kStep);
    const float* in = x;
    float* out = y;
    for (size_t g = 0; g < groups.count; g++) {
      const size_t r = groups[g];
      const Ahead ahead{next + g * share, pace};
      if (taken == tiles.panels[r])
        tiles.wide[r](w, in + first * r, out, panel, first, n, ahead);
      else
        for (size_t p = panel; p < panel + taken; p++)
          tiles.narrow[r](w, in + first * r, out, p, first, n, ahead);
      in += r * w.inputs, out += r * w.outputs;
    }
  }
}

// Some rows, a block of them. In `laid` there is room for it.
void block(const Member& m, const Weights& w, const float* x, float* y, size_t rows, float* laid) {
  const Groups groups(rows);
  if (rows > 1) {  // one lies as it should
    const float* from = x;
    for (size_t g = 0, done = 0; g < groups.count; done += groups[g++], from = x + done * w.inputs)
      lay(from, w.inputs, groups[g], m.share(w.inputs), laid + done * w.inputs);
    m.meet();
    x = laid;
  }
  const size_t panels = (w.outputs + kPanel - 1) / kPanel, together = tiles.panels[groups[0]];
  const auto taken = [&] { return m.take() * together; };
  for (size_t panel = taken(), next; panel < panels; panel = next) {
    next = taken();
    some(w, x, y, groups, panel, std::min(together, panels - panel),
         at(w, next + together <= panels ? next : panel, 0));
  }
}

}  // namespace

void multiply(const Member& m, const Weights& w, const float* x, float* y, size_t rows, float* laid) {
  const size_t blocks = (rows + kBlock - 1) / kBlock;
  for (size_t b = 0; b < blocks; b++) {
    if (b) m.meet();
    const size_t row = rows * b / blocks, end = rows * (b + 1) / blocks;
    block(m, w, x + row * w.inputs, y + row * w.outputs, end - row, laid);
  }
}

size_t room_for(size_t rows) { return std::min(rows, kBlock); }

extern "C" {

size_t panel_width() { return kPanel; }

// x: [rows][inputs]; y: [rows][outputs], written whole.
void product(const Weights* w, const float* x, float* y, size_t rows, int threads) {
  static thread_local std::vector<float> laid;
  laid.resize(room_for(rows) * w->inputs);
  float* room = laid.data();  // of this thread, for all
  together(threads, [&](const Member& m) { multiply(m, *w, x, y, rows, room); });
}
}
