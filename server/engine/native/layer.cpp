// Whole decoder layers, one after the other, in one call: what product.cpp and layers.cpp give, in the
// order in which Llama, Mistral and Qwen 2 do it, so to the bit what their parts give one by one.

#include <algorithm>
#include <vector>

#include "native.h"

namespace {

struct Norm {
  const float* weight;
  float eps;
};

void add(const float* x, float* y, size_t n) {
  for (size_t i = 0; i < n; i++) y[i] = x[i] + y[i];
}

}  // namespace

extern "C" {

struct Layer {
  Norm before, between;
  const Weights *joined, *out, *both, *down;
  Slots slots;
  size_t heads, window;
  float scale;
};
}

namespace {

// The residual stream x [tokens][width], before the layer and after it.
void run(const Layer& l, const Tokens& t, const float* cos, const float* sin, float* x, int threads) {
  const size_t width = l.joined->inputs, inner = l.down->inputs, heads = l.heads * l.slots.dim;
  static thread_local std::vector<float> into, made, out;
  into.resize(t.count * std::max({width, heads, inner}));
  made.resize(t.count * std::max(l.joined->outputs, l.both->outputs));
  out.resize(t.count * std::max(heads, width));
  rms_norm(x, l.before.weight, into.data(), t.count, width, l.before.eps);
  product(l.joined, into.data(), made.data(), t.count, threads);
  turned(made.data(), cos, sin, &l.slots, &t, out.data(), l.heads);
  const Queries q{out.data(), heads, l.slots.dim, l.heads / l.slots.kv_heads};
  attend(&l.slots, &t, &q, l.window, l.scale, into.data(), threads);
  product(l.out, into.data(), out.data(), t.count, threads);
  add(out.data(), x, t.count * width);
  rms_norm(x, l.between.weight, into.data(), t.count, width, l.between.eps);
  product(l.both, into.data(), made.data(), t.count, threads);
  gated(made.data(), into.data(), t.count, inner);
  product(l.down, into.data(), out.data(), t.count, threads);
  add(out.data(), x, t.count * width);
}

}  // namespace

extern "C" {

// y [tokens][width] of x: the residual stream after and before these layers.
void decoder_layers(const Layer* const* layers, size_t count, const Tokens* t, const float* x,
                    const float* cos, const float* sin, float* y, int threads) {
  std::copy(x, x + t->count * layers[0]->joined->inputs, y);
  for (size_t i = 0; i < count; i++) run(*layers[i], *t, cos, sin, y, threads);
}
}
