// Edits of features on the residual stream, in one go: see dictionaries/edits.py for the maths, which is
// rounded here as there but for the order of sums. For x86 with AVX2; what a token gets hangs on nothing
// but itself, to the bit.

#include <cmath>
#include <cstddef>
#include <vector>

#include "native.h"
#include "vectors.h"

namespace {

float dot(const float* x, const float* y, size_t n) {
  Vec sums[4] = {all(0), all(0), all(0), all(0)};
  size_t i = 0;
  for (; i + 4 * kLanes <= n; i += 4 * kLanes)
    for (size_t k = 0; k < 4; k++)
      sums[k] = fused(loaded(x + i + k * kLanes), loaded(y + i + k * kLanes), sums[k]);
  float sum = summed(_mm256_add_ps(_mm256_add_ps(sums[0], sums[1]), _mm256_add_ps(sums[2], sums[3])));
  for (; i < n; i++) sum = std::fma(x[i], y[i], sum);
  return sum;
}

}  // namespace

namespace {

// An entry of a row.
struct Entry {
  const Edits& e;
  size_t row, k;

  const float* of(const float* rows) const { return rows + row * e.features + k * e.width; }
  float number(const float* rows) const { return rows[row * e.numbers + k]; }
  bool adds() const { return e.adds[row * e.numbers + k]; }

  float read(const float* x) const {
    if (!e.enc) return 0;
    const float a = dot(x, of(e.enc), e.width);
    if (!(a + number(e.gate) > number(e.threshold))) return 0;
    const float f = number(e.gain) * a + number(e.offset);
    return f < 0 ? 0 : f;
  }

  // What is no number stays so.
  float edited(float f) const {
    f = number(e.scale) * f + number(e.shift);
    f = f < number(e.floor) ? number(e.floor) : f;
    return f > number(e.ceiling) ? number(e.ceiling) : f;
  }
};

// Adds to y what its row's edits add, which is summed first.
void move(const Edits& e, size_t row, const float* moved, float* y) {
  size_t i = 0;
  for (; i + kLanes <= e.width; i += kLanes) {
    Vec sum = all(0);
    for (size_t k = 0; k < e.entries; k++)
      if (moved[k] != 0) sum = fused(all(moved[k]), loaded(Entry{e, row, k}.of(e.dec) + i), sum);
    stored(y + i, _mm256_add_ps(loaded(y + i), sum));
  }
  for (; i < e.width; i++) {
    float sum = 0;
    for (size_t k = 0; k < e.entries; k++)
      if (moved[k] != 0) sum = std::fma(moved[k], Entry{e, row, k}.of(e.dec)[i], sum);
    y[i] += sum;
  }
}

// A token of a row. noted: where its activations go, `after` numbers behind them those after the edits.
void edit(const Edits& e, size_t row, const float* x, float* y, bool acting, float* noted, size_t after) {
  static thread_local std::vector<float> moved;
  if (!acting && !noted) return;
  moved.resize(e.entries);
  for (size_t k = 0; k < e.entries; k++) {
    const Entry entry{e, row, k};
    const bool adds = entry.adds();
    const float f = adds && !noted ? 0 : entry.read(x), own = adds ? 0 : f;
    moved[k] = acting ? entry.edited(own) - own : 0;
    if (!noted) continue;
    noted[k] = f;
    noted[after + k] = acting ? entry.edited(f) : f;
  }
  move(e, row, moved.data(), y);
}

}  // namespace

void edit(const Move& m, const float* x, float* y, size_t rows, Range some) {
  const Edits& e = *m.edits;
  for (size_t i = some.from; i < some.to; i++)
    edit(e, i, x + i * e.width, y + i * e.width, !m.acts || m.acts[i],
         m.noted ? m.noted + i * e.entries : nullptr, rows * e.entries);
}

extern "C" {

// Adds to y [tokens][width] what edits on x add. apart: whether each token is of a row of its own, or all
// are of the first.
void edit(const Move* m, const float* x, float* y, size_t tokens, int apart) {
  if (apart) return edit(*m, x, y, tokens, {0, tokens});
  const Edits& e = *m->edits;
  for (size_t t = 0; t < tokens; t++)
    edit(e, 0, x + t * e.width, y + t * e.width, !m->acts || m->acts[t], m->noted, e.entries);
}
}
